"""Evaluation: tasks, scorers and the report. No torch until a checkpoint is evaluated."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cairn.base import Recipe, Ref, Work
from cairn.base.lazy import lazily

if TYPE_CHECKING:
    from cairn.evaluate.run import evaluate
    from cairn.evaluate.task import Example, Result, Sampling, Score, Setting, Task
    from cairn.evaluate.tasks import all_tasks, find_tasks

_HOMES = {
    "Example": "task",
    "Result": "task",
    "Sampling": "task",
    "Score": "task",
    "Setting": "task",
    "Task": "task",
    "all_tasks": "tasks",
    "evaluate": "run",
    "find_tasks": "tasks",
}

__all__ = [
    "Evaluate",
    "Example",
    "Result",
    "Sampling",
    "Score",
    "Setting",
    "Task",
    "all_tasks",
    "evaluate",
    "find_tasks",
]


@dataclass(frozen=True, kw_only=True)
class Evaluate(Recipe):
    """Score a checkpoint: report.json, report.md, and one record for each example."""

    checkpoint: Ref
    """The checkpoint to score."""
    shards: Ref | None = None
    """Shards whose held-out files `bits_per_byte` and `infilling` use."""
    corpus: Ref | None = None
    """The corpus it was trained on: reference answers are looked up there, and hits reported."""
    tasks: tuple[str, ...] = ("bits_per_byte", "infilling", "functions")
    """Names of tasks; humaneval, mbpp and humaneval_infilling need `data`."""
    data: str | None = None
    """Folder of public benchmark files."""
    limit: int | None = None
    """At most this many examples of each task; none means all."""
    samples: int = 1
    """Answers to each question; more than one needs a temperature."""
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    """Draw among the likeliest tokens that reach this probability."""
    seed: int = 0
    """Of the draws."""

    def run(self, work: Work) -> dict[str, Any]:
        """Score, and write the report."""
        from cairn.evaluate.run import make_report

        return make_report(self, work)

    def headline(self, facts: dict[str, Any]) -> str:
        """The first figure of the first task, and pass@1 of the functions."""
        scores = facts["scores"]
        first = next(iter(scores))
        shown = f"{first.split('/')[-1].replace('_', ' ')} {scores[first]:.3f}"
        passed = scores.get("functions/pass@1")
        return shown if passed is None else f"{shown}, functions pass@1 {passed:.2f}"


__getattr__ = lazily(__name__, _HOMES)


def __dir__() -> list[str]:
    return __all__
