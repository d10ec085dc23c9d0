"""Held-out bits per byte: the one measure inside training."""

from collections.abc import Callable, Mapping
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
    """Bits spent on all tokens of held-out files, divided by the files' bytes in UTF-8."""
    bits, size = bits_and_bytes(model, shards, tokenizer, limit)
    return bits / max(size, 1)


def bits_and_bytes(
    model: Decoder, shards: TokenShards, tokenizer: Tokenizer, limit: int | None = None
) -> tuple[float, int]:
    """Bits spent on all tokens of held-out files, and the files' bytes in UTF-8.

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
    return sum(bits), size


def evaluator(folders: Mapping[str, Path], limit: int) -> Callable[[Decoder], dict[str, float]]:
    """What the loop calls: held-out bits per byte of a model, on the same files each time.

    `folders` are shards by name. `bits_per_byte` is over all their files; where there are several,
    `bits_per_byte/NAME` is of each that holds files out.
    """
    held = {name: TokenShards.open(folder / "heldout") for name, folder in folders.items()}
    tokenizer = Tokenizer.load(next(iter(folders.values())))

    def evaluate(model: Decoder) -> dict[str, float]:
        spent = {n: bits_and_bytes(model, one, tokenizer, limit) for n, one in held.items()}
        bits, size = (sum(column) for column in zip(*spent.values(), strict=True))
        found = {"bits_per_byte": round(bits / max(size, 1), 6)}
        if len(spent) > 1:
            each = {name: (b, n) for name, (b, n) in spent.items() if n}
            found |= {f"bits_per_byte/{name}": round(b / n, 6) for name, (b, n) in each.items()}
        return found

    return evaluate
