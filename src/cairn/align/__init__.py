"""Alignment: instruction pairs with provenance, and supervised fine-tuning on them."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from cairn.align.limits import PairLimits
from cairn.base import Recipe, Ref, Work
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
    "Conversation",
    "ConversationStream",
    "FineTune",
    "Pair",
    "PairLimits",
    "Source",
    "find_pairs",
]


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
