"""Held-out bits per byte: the one measure inside training."""

from collections.abc import Callable
from pathlib import Path

from cairn.base import progress
from cairn.model import Decoder
from cairn.model.likelihood import document_bits
from cairn.sources.record import SOURCE
from cairn.tokens.sentinels import END_OF_TEXT, FILE_SEP
from cairn.tokens.shards import TokenShards
from cairn.tokens.tokenizer import Tokenizer

LONGEST = 2048  # tokens of context, where the model allows more


def bits_per_byte(
    model: Decoder, shards: TokenShards, tokenizer: Tokenizer, limit: int | None = None
) -> float:
    """Bits spent on all tokens of held-out files, divided by the files' bytes in UTF-8.

    The first `limit` source files by content id, which is a hash, so a sample that no name decides.
    Each stands alone after `<file_sep>`. Where there are none, other documents stand for them, each
    after `<|endoftext|>` as in training.
    """
    order = shards.documents["content_id"].to_pylist()
    kinds = shards.documents["kind"].to_pylist()
    files = [number for number, kind in enumerate(kinds) if kind == SOURCE]
    chosen = sorted(files or range(len(order)), key=lambda number: order[number])[:limit]
    begins = tokenizer.id(FILE_SEP if files else END_OF_TEXT)
    documents = [shards.document(number).tolist() for number in chosen]
    size = sum(shards.documents["bytes"][number].as_py() for number in chosen)
    context = min(model.config.max_positions, LONGEST)
    with progress("held-out bits per byte", unit="windows") as bar:
        bits = document_bits(model, documents, begins, context, bar.advance)
    return sum(bits) / max(size, 1)


def evaluator(shards: Path, limit: int) -> Callable[[Decoder], dict[str, float]]:
    """What the loop calls: held-out `bits_per_byte` of a model, on the same files each time."""
    held = TokenShards.open(shards / "heldout")
    tokenizer = Tokenizer.load(shards)

    def evaluate(model: Decoder) -> dict[str, float]:
        return {"bits_per_byte": round(bits_per_byte(model, held, tokenizer, limit), 6)}

    return evaluate
