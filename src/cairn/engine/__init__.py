"""Inference: sampling, scheduling and the engine that turns prompts into completions.

Nothing here imports torch until an engine is made.
"""

from typing import TYPE_CHECKING

from cairn.base.lazy import lazily

if TYPE_CHECKING:
    from cairn.engine.engine import Engine
    from cairn.engine.sampling import SamplingParams
    from cairn.engine.scheduler import Scheduler, Slice
    from cairn.engine.sequence import Completion, Delta, Sequence

_HOMES = {
    "Engine": "engine",
    "SamplingParams": "sampling",
    "Scheduler": "scheduler",
    "Slice": "scheduler",
    "Completion": "sequence",
    "Delta": "sequence",
    "Sequence": "sequence",
}

__all__ = ["Completion", "Delta", "Engine", "SamplingParams", "Scheduler", "Sequence", "Slice"]


__getattr__ = lazily(__name__, _HOMES)


def __dir__() -> list[str]:
    return __all__
