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
    from cairn.engine.options import Caching, Speculation
    from cairn.engine.sampling import SamplingParams
    from cairn.engine.scheduler import Scheduler, Slice
    from cairn.engine.sequence import Completion, Delta, Sequence

_HOMES = {
    "Caching": "options",
    "CodePrompt": "code",
    "Engine": "engine",
    "Grammar": "grammar",
    "SourceText": "code",
    "Speculation": "options",
    "Thinking": "budget",
    "SamplingParams": "sampling",
    "Scheduler": "scheduler",
    "Slice": "scheduler",
    "Completion": "sequence",
    "Delta": "sequence",
    "Sequence": "sequence",
}

__all__ = [
    "Caching",
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
    "Speculation",
    "Thinking",
]

__getattr__ = lazily(__name__, _HOMES)


def __dir__() -> list[str]:
    return __all__
