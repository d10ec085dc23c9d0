"""What a task is, what it is asked with, and what comes out."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cairn.base import UserError

if TYPE_CHECKING:
    from cairn.base.sandbox import Sandbox
    from cairn.evaluate.heldout import HeldOut
    from cairn.evaluate.speaker import Speaker


@dataclass(frozen=True, kw_only=True)
class Example:
    """One question: `prompt` (and, for fill-in-the-middle, `suffix`), and the known answer."""

    id: str
    prompt: str
    reference: str
    suffix: str | None = None
    group: str = ""
    """The part of the task that it belongs to: a language, a kind of gap."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What scoring needs besides: tests, the entry point."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """One figure, with the number of examples behind it and its standard error (None: unknown)."""

    task: str
    version: int
    metric: str
    value: float
    n: int
    standard_error: float | None
    higher_is_better: bool = True


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How answers are drawn. Temperature 0 is greedy, and then one sample says all."""

    samples: int = 1
    """Answers to each question."""
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise UserError("samples", self.samples, "is less than 1", "draw at least one answer")
        if self.temperature < 0:
            raise UserError("temperature", self.temperature, "is negative", "0 is greedy")
        if not 0 < self.top_p <= 1:
            raise UserError("top_p", self.top_p, "is outside (0, 1]", "1 switches it off")
        if self.temperature == 0 and self.samples > 1:
            raise UserError(
                "samples", self.samples, "would all be equal at temperature 0", "raise temperature"
            )

    def seed_of(self, task: str, example: str, sample: int) -> int:
        """The seed of one answer: its own, whatever else is drawn beside it."""
        key = f"{self.seed}\0{task}\0{example}\0{sample}".encode()
        return int.from_bytes(hashlib.sha256(key).digest()[:6], "little")


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one task found: scores, one record for each example, and its conditions."""

    scores: list[Score]
    records: list[dict[str, Any]]
    conditions: dict[str, Any]
    """Version, examples, digest of the prompts, sampling: what must agree to compare scores."""
    references: dict[str, str] = field(default_factory=dict)
    """Answers that no training file should hold, by example; of public or shipped problems."""


class Setting:
    """What tasks may draw on; each thing is opened when the first task needs it.

    `limit`: at most this many examples of each task. `data`: folder of public benchmarks.
    """

    def __init__(
        self,
        speaker: "Speaker | None" = None,
        heldout: "HeldOut | None" = None,
        data: Path | None = None,
        limit: int | None = None,
        sampling: Sampling | None = None,
        sandbox: "Sandbox | None" = None,
        workers: int | None = None,
    ) -> None:
        self._speaker, self._heldout, self._data = speaker, heldout, data
        self._sandbox, self.workers = sandbox, workers
        self.limit, self.sampling = limit, sampling or Sampling()

    @property
    def speaker(self) -> "Speaker":
        """The model under test."""
        assert self._speaker is not None, "this setting has no model"
        return self._speaker

    @property
    def heldout(self) -> "HeldOut":
        """Held-out files; UserError where there are none."""
        if self._heldout is None:
            raise UserError(
                "the task needs held-out files, and none were found from the checkpoint's "
                "manifest: name the shards it was trained on, or choose another task"
            )
        return self._heldout

    @property
    def sandbox(self) -> "Sandbox":
        """Where generated programs run; says aloud once what it does not protect."""
        if self._sandbox is None:
            from cairn.base import note
            from cairn.base.sandbox import Limits, Sandbox

            self._sandbox = Sandbox(limits=Limits(seconds=60, cpu_seconds=5))
            if self._sandbox.backend == "rlimits":
                open_ends = "; ".join(self._sandbox.unprotected)
                note(f"generated programs run under resource limits alone, open are: {open_ends}")
        return self._sandbox

    def benchmark(self, name: str) -> Path:
        """A file of the benchmark data, compressed (`name` ends in .gz) or not.

        UserError naming the path where it is missing.
        """
        if self._data is None:
            raise UserError(f"the task needs {name}: name the folder with it by --data")
        path = self._data / name
        if not path.is_file() and path.with_suffix("").is_file():
            return path.with_suffix("")
        if not path.is_file():
            raise UserError("--data", str(self._data), f"has no {name}", f"put it at {path}")
        return path


class Task(Protocol):
    """A benchmark. `version` changes with anything that may change a score."""

    @property
    def name(self) -> str:
        """As the command line spells it."""
        ...

    @property
    def version(self) -> int:
        """Raised with every change to prompts, answers or scoring."""
        ...

    def run(self, setting: Setting) -> Result:
        """Ask and score; deterministic for a model and a setting."""
        ...


def mean(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and its standard error (sample deviation over the root of n; None for n < 2)."""
    n = len(values)
    if n == 0:
        return math.nan, None
    centre = math.fsum(values) / n
    if n == 1:
        return centre, None
    squares = math.fsum((value - centre) ** 2 for value in values)
    return centre, math.sqrt(squares / (n - 1) / n)


def ratio(above: Sequence[float], below: Sequence[float]) -> tuple[float, float | None]:
    """Sum over sum, and the standard error of that ratio (linearised; None for n < 2)."""
    n, total = len(above), math.fsum(below)
    value = math.fsum(above) / total
    if n < 2:
        return value, None
    squares = math.fsum((a - value * b) ** 2 for a, b in zip(above, below, strict=True))
    return value, math.sqrt(squares * n / (n - 1)) / total


def mean_score(task: Task, metric: str, values: Sequence[float]) -> Score:
    """The mean of one value for each example, as a score."""
    value, error = mean(values)
    return Score(
        task=task.name,
        version=task.version,
        metric=metric,
        value=value,
        n=len(values),
        standard_error=error,
    )


def prompt_digest(examples: Sequence[Example]) -> str:
    """SHA-256 over ids, prompts and suffixes: equal digests were asked the same."""
    plain = [[example.id, example.prompt, example.suffix] for example in examples]
    return hashlib.sha256(json.dumps(plain, ensure_ascii=True).encode()).hexdigest()


def refuse_empty(task: Task, examples: Sequence[Any]) -> None:
    """UserError for a task without examples: a mean over nothing is no score."""
    if not examples:
        raise UserError(f"{task.name} has no examples here: give it more or longer files")
