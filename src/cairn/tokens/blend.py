"""Blends: which corpora a model learns from, in which shares, in which phase. No torch.

Nemotron-H (arXiv 2504.03624, section 2) trains in phases whose mixtures differ, with switches at
60% and 80% of the tokens; Nemotron Nano 2 (arXiv 2508.14444, section 2) at 60% and 90%.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from cairn.base import Ref, UserError
from cairn.tokens.contexts import Formats


@dataclass(frozen=True, kw_only=True)
class Component:
    """One corpus of a blend, as shards."""

    shards: Ref
    """Its token shards."""
    weights: tuple[float, ...] = (1.0,)
    """Its share of the tokens in each phase (or one for all), before division by all shares."""
    max_epochs: float = 0.0
    """Most times that its tokens are seen; what is over goes to the others. 0: no limit."""
    formats: Formats = field(default_factory=Formats)
    """How its documents are told: repository context and fill-in-the-middle."""

    def __post_init__(self) -> None:
        if not self.weights or not all(weight >= 0 for weight in self.weights):
            raise UserError("weights", self.weights, "are no shares", "give numbers of 0 or more")
        if not self.max_epochs >= 0:
            raise UserError("max_epochs", self.max_epochs, "is negative", "0 sets no limit")


@dataclass(frozen=True, kw_only=True)
class Blend:
    """Corpora side by side, in phases."""

    components: tuple[Component, ...]
    """The corpora."""
    switches: tuple[float, ...] = ()
    """Shares of the tokens after which the next phase begins, e.g. 0.6,0.9."""

    def __post_init__(self) -> None:
        if not self.components:
            raise UserError("components", "()", "names no corpus", "give one or more")
        names = [one.shards.name for one in self.components]
        if len(set(names)) < len(names):
            raise UserError("components", names, "name shards twice", "name each once")
        edges = (0.0, *self.switches, 1.0)
        if any(not a < b for a, b in pairwise(edges)):
            mend = "give shares between 0 and 1 that rise"
            raise UserError("switches", self.switches, "do not cut the run in phases", mend)
        phases = len(self.switches) + 1
        for one in self.components:
            if len(one.weights) not in (1, phases):
                problem = f"of {one.shards.name} are {len(one.weights)} for {phases} phases"
                raise UserError("weights", one.weights, problem, "give one a phase, or one for all")
        for phase in range(phases):
            if not any(self.weight(one, phase) for one in self.components):
                raise UserError(f"weights: phase {phase + 1} has only zeros: give it a corpus")

    def weight(self, component: Component, phase: int) -> float:
        """A component's weight in a phase, as given."""
        return component.weights[phase if len(component.weights) > 1 else 0]

    def shares(self, phase: int) -> tuple[float, ...]:
        """What each component has of a phase's tokens; they sum to 1."""
        given = [self.weight(one, phase) for one in self.components]
        return tuple(weight / sum(given) for weight in given)


class Phase(NamedTuple):
    """Samples [first, stop) of a run, and each component's share of them."""

    first: int
    stop: int
    shares: tuple[float, ...]


def plan_phases(blend: Blend, samples: int, sizes: Sequence[int] | None = None) -> list[Phase]:
    """The phases of a run of `samples` samples.

    With `sizes`, samples in an epoch of each component, `max_epochs` holds: where a component
    would be seen oftener, its share is cut and the others' grow in proportion. UserError where all
    components of a phase are at their limit.
    """
    edges = [0, *(round(share * samples) for share in blend.switches), samples]
    left = [float("inf")] * len(blend.components)
    if sizes is not None:
        for number, (one, size) in enumerate(zip(blend.components, sizes, strict=True)):
            left[number] = one.max_epochs * size if one.max_epochs else float("inf")
    phases = []
    for number, (first, stop) in enumerate(pairwise(edges)):
        shares = _within(blend.shares(number), left, stop - first, number)
        left = [room - share * (stop - first) for room, share in zip(left, shares, strict=True)]
        phases.append(Phase(first, stop, shares))
    return phases


def _within(
    wanted: tuple[float, ...], left: Sequence[float], samples: int, phase: int
) -> tuple[float, ...]:
    """Shares near the wanted ones of which none takes more than `left` samples."""
    capped: dict[int, float] = {}
    while True:
        free = sum(share for n, share in enumerate(wanted) if n not in capped)
        rest = 1.0 - sum(capped.values())
        if free == 0 and rest > 1e-9:
            problem = f"phase {phase + 1} wants {samples:,} sequences"
            mend = "raise max_epochs, take fewer tokens, or add a corpus"
            raise UserError(f"{problem}, more than its corpora give within max_epochs: {mend}")
        found = [
            capped.get(n, share * rest / free if free else 0.0) for n, share in enumerate(wanted)
        ]
        over = {
            n: max(left[n], 0.0) / samples
            for n, share in enumerate(found)
            if n not in capped and share * samples > left[n]
        }
        if not over:
            return tuple(found)
        capped |= over
