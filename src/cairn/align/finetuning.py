"""Supervised fine-tuning of a checkpoint on pairs from its own corpus: the worker of `FineTune`."""

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from cairn.align.pairs import Pair, Source, find_pairs, pair_table, sample
from cairn.align.sft import Conversation, ConversationStream
from cairn.base import UserError, Work, note
from cairn.evaluate.speaker import Speaker
from cairn.model import Decoder
from cairn.sources.record import SOURCE
from cairn.tokens import Tokenizer, TokenShards, conversation
from cairn.tokens.sentinels import END_OF_TEXT
from cairn.train.checkpoint import write_checkpoint
from cairn.train.loop import train
from cairn.train.objective import NextToken
from cairn.train.parallel.ranks import join
from cairn.train.parallel.shard import loaded

if TYPE_CHECKING:
    from cairn.align import FineTune

PAIRS = "pairs"
COLUMNS = ["ledger_row", "content_id", "repo_name", "path", "content"]
CHOSEN = ["kind", "language"]


def fine_tune(recipe: "FineTune", work: Work) -> dict[str, Any]:
    """Make the checkpoint in `work.out`; returns the facts."""
    start, shards = work.input(recipe.start), work.input(recipe.shards)
    tokenizer = Tokenizer.load(start)
    settings = recipe.settings
    ranks = join(settings.parallel, settings.device)
    if ranks.lead and not work.has(PAIRS):
        learned, held = split_pairs(recipe, work.input(recipe.corpus), shards)
        with work.part(PAIRS) as folder:
            folder.mkdir()
            pq.write_table(pair_table(learned), folder / "train.parquet")
            pq.write_table(pair_table(held), folder / "heldout.parquet")
    ranks.wait()
    learned, held = (read_pairs(work.out / PAIRS / f"{n}.parquet") for n in ("train", "heldout"))
    stream = stream_of(learned, tokenizer, settings.sequence_length, settings.seed)
    asked = [as_conversation(pair, tokenizer) for pair in held]
    asked = [one for one in asked if len(one.ids) <= settings.sequence_length]

    def measure(model: Decoder) -> dict[str, float]:
        return {"response_loss": response_loss(model, tokenizer, asked)} if asked else {}

    model = loaded(start, ranks)
    name = work.out.name
    facts = train(
        model, NextToken(), stream, settings, work.out, ranks=ranks, evaluate=measure, label=name
    )
    write_checkpoint(model, tokenizer, work.out, ranks)
    own = {
        "parameters": model.config.parameters,
        "pairs": len(stream.conversations),
        "pairs_left_out": stream.left_out,
        "heldout_pairs": len(asked),
    }
    return own | facts


def split_pairs(recipe: "FineTune", corpus: Path, shards: Path) -> tuple[list[Pair], list[Pair]]:
    """Pairs of the training files, and pairs of held-out files that are not among them."""
    rows = {name: _ledger_rows(shards / name) for name in ("train", "heldout")}
    learned, known = find_pairs(sources(corpus, rows["train"]), recipe.limits)
    held, _ = find_pairs(sources(corpus, rows["heldout"]), recipe.limits, known)
    if not learned:
        raise UserError(
            f"corpus {recipe.corpus.name}: its training files hold no Python function with a "
            "docstring that is fit for a pair; add such sources or widen `limits`"
        )
    note(f"{len(learned):,} pairs from training files, {len(held):,} from held-out files")
    return sample(learned, recipe.most_pairs), sample(held, recipe.heldout_pairs)


def _ledger_rows(split: Path) -> frozenset[int]:
    return frozenset(TokenShards.open(split).documents["ledger_row"].to_pylist())


def sources(corpus: Path, rows: frozenset[int]) -> Iterator[Source]:
    """The corpus's Python files of these ledger rows, in the corpus's order."""
    from cairn.curate.corpus import read_files

    for batch in read_files(corpus, columns=[*COLUMNS, *CHOSEN]):
        for row in batch.to_pylist():
            python = row["kind"] == SOURCE and row["language"] == "Python"
            if python and row["ledger_row"] in rows and row["content"]:
                yield Source(**{name: row[name] for name in COLUMNS})


def read_pairs(path: Path) -> list[Pair]:
    """Pairs as `pair_table` wrote them."""
    return [Pair(**row) for row in pq.read_table(path).to_pylist()]


def stream_of(
    pairs: Sequence[Pair], tokenizer: Tokenizer, sequence_length: int, seed: int
) -> ConversationStream:
    """The windows that a fine-tuning on these pairs sees."""
    talks = [as_conversation(pair, tokenizer) for pair in pairs]
    end = tokenizer.id(END_OF_TEXT)
    return ConversationStream(talks, sequence_length, seed, end)


def as_conversation(pair: Pair, tokenizer: Tokenizer) -> Conversation:
    """The pair in the tokenizer's chat layout, without reasoning."""
    ids, weights = conversation(pair.messages, tokenizer, thinking=False)
    return Conversation(ids, weights, pair.ledger_row)


def response_loss(
    model: Decoder, tokenizer: Tokenizer, conversations: Sequence[Conversation]
) -> float:
    """Nats for each token that the assistant says, over all conversations."""
    pieces = list(_tails(conversations))
    bits = Speaker(model, tokenizer).tails(pieces, "response loss")
    nats = math.fsum(bits) * math.log(2)
    return round(nats / sum(counted for _, counted in pieces), 6)


def _tails(conversations: Iterable[Conversation]) -> Iterator[tuple[Sequence[int], int]]:
    """Each conversation up to the last token that the assistant says, and how many it says."""
    for one in conversations:
        last = max(place for place, weight in enumerate(one.weights) if weight)
        yield one.ids[: last + 1], int(sum(one.weights))
