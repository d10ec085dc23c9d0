"""Inference: sampling, scheduling and the engine that turns prompts into completions.

Nothing here imports torch until an engine is made.
"""

from typing import TYPE_CHECKING

from cairn.base.lazy import lazily

if TYPE_CHECKING:
    from cairn.engine.budget import Thinking
    from cairn.engine.code import CodePrompt, SourceText
    from cairn.engine.engine import Engine
    from cairn.engine.grammar import Grammar
    from cairn.engine.sampling import SamplingParams
    from cairn.engine.scheduler import Scheduler, Slice
    from cairn.engine.sequence import Completion, Delta, Sequence

_HOMES = {
    "CodePrompt": "code",
    "Engine": "engine",
    "Grammar": "grammar",
    "SourceText": "code",
    "Thinking": "budget",
    "SamplingParams": "sampling",
    "Scheduler": "scheduler",
    "Slice": "scheduler",
    "Completion": "sequence",
    "Delta": "sequence",
    "Sequence": "sequence",
}

__all__ = [
    "CodePrompt",
    "Completion",
    "Delta",
    "Engine",
    "Grammar",
    "SamplingParams",
    "Scheduler",
    "Sequence",
    "Slice",
    "SourceText",
    "Thinking",
]

__getattr__ = lazily(__name__, _HOMES)


def __dir__() -> list[str]:
    return __all__
