"""Alignment: instruction pairs with provenance, and supervised fine-tuning on them."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from cairn.align.limits import PairLimits
from cairn.base import Recipe, Ref, UserError, Work
from cairn.base.lazy import lazily
from cairn.train import TrainSettings

if TYPE_CHECKING:
    from cairn.align.pairs import Pair, Source, find_pairs
    from cairn.align.sft import Conversation, ConversationStream

_HOMES = {
    "Conversation": "sft",
    "ConversationStream": "sft",
    "Pair": "pairs",
    "Source": "pairs",
    "find_pairs": "pairs",
}

__all__ = [
    "AskDocuments",
    "Conversation",
    "ConversationStream",
    "FineTune",
    "Pair",
    "PairLimits",
    "Source",
    "find_pairs",
]


@dataclass(frozen=True, kw_only=True)
class AskDocuments(Recipe):
    """Make long-context data: long documents of shards, each with questions and answers at its end.

    What comes out is shards again, of documents of kind `text`, for a blend (Nano 2, section 2).
    """

    shards: Ref
    """The shards whose long documents are asked about; held-out ones stay held out."""
    minimum_tokens: int = 32_768
    """Tokens of a document that is long enough."""
    maximum_tokens: int = 524_288
    """What is over in a longer one is left out."""
    chunk_tokens: int = 1024
    """Tokens of the pieces that questions are on."""
    sampled: float = 0.1
    """Share of the pieces that are asked about."""
    most_questions: int = 64
    """Questions of one document, at most."""
    writer: Ref | None = None
    """A checkpoint that writes question and answer on each piece; None: they ask how a line of it
    goes on that stands nowhere else in the document."""
    seed: int = 0
    """Of the choice of pieces and lines."""

    def __post_init__(self) -> None:
        for name in ("minimum_tokens", "maximum_tokens", "chunk_tokens", "most_questions"):
            if getattr(self, name) < 1:
                raise UserError(name, getattr(self, name), "is less than one", "take 1 or more")
        if not 0 < self.sampled <= 1:
            raise UserError("sampled", self.sampled, "is no share", "take a number up to 1")

    def run(self, work: Work) -> dict[str, Any]:
        """Write train/, heldout/ and the tokenizer."""
        from cairn.align.questions import ask_documents

        return ask_documents(self, work)

    def headline(self, facts: dict[str, Any]) -> str:
        """Questions, documents, tokens."""
        return (
            f"{facts['questions']:,} questions on {facts['documents']:,} documents of "
            f"{facts['tokens']:,} tokens"
        )


@dataclass(frozen=True, kw_only=True)
class FineTune(Recipe):
    """Make an assistant: fine-tune on pairs of a request and a function from the training files."""

    joint: ClassVar[bool] = True
    start: Ref
    """The checkpoint to begin with."""
    corpus: Ref
    """The corpus whose Python functions with docstrings become pairs."""
    shards: Ref
    """The shards made from it: they say which files are for training and which are held out."""
    settings: TrainSettings
    """Steps, learning rate and batch; conversations longer than a sequence are left out."""
    limits: PairLimits = field(default_factory=PairLimits)
    """Which functions are fit."""
    most_pairs: int | None = None
    """Learn from at most so many pairs, chosen by hash; none takes all."""
    heldout_pairs: int = 200
    """Pairs of held-out files that the response loss is measured on, before and after."""

    def run(self, work: Work) -> dict[str, Any]:
        """Write the checkpoint, and the pairs with their provenance."""
        from cairn.align.finetuning import fine_tune

        return fine_tune(self, work)

    def headline(self, facts: dict[str, Any]) -> str:
        """Pairs, and the response loss before and after."""
        losses = "no held-out pairs"
        if "response_loss" in facts:
            before, after = facts["response_loss_before"], facts["response_loss"]
            losses = f"{before:.3f} -> {after:.3f} nats per response token"
        return f"{facts['pairs']:,} pairs, {losses}"


__getattr__ = lazily(__name__, _HOMES)


def __dir__() -> list[str]:
    return __all__
