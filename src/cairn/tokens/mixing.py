"""The stream of a blend: samples by number, over all phases and corpora."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from cairn.tokens.batch import Batch, Window, assemble
from cairn.tokens.blend import Blend, plan_phases
from cairn.tokens.interleave import ONE, Interleave
from cairn.tokens.stream import PretrainingStream

PHASE = 4  # what a generator is for, beside those of a stream


class BlendStream:
    """Windows of a run of `samples` samples, numbered; each a pure function of (seed, number).

    `parts` are the streams of the blend's components, in its order and of one sequence length.
    """

    def __init__(
        self, blend: Blend, parts: Sequence[PretrainingStream], samples: int, seed: int
    ) -> None:
        self.blend, self.parts, self.samples, self.seed = blend, list(parts), samples, seed
        self.names = [one.shards.name for one in blend.components]
        self.phases = plan_phases(blend, samples, [part.windows(0) for part in parts])
        self._interleaves = [
            Interleave(phase.shares, self._offset(number))
            for number, phase in enumerate(self.phases)
        ]
        self._before = [[0] * len(self.parts)]  # samples of each component before each phase
        for phase, interleave in zip(self.phases, self._interleaves, strict=True):
            told = (interleave.count(k, phase.stop - phase.first) for k in range(len(self.parts)))
            self._before.append([a + b for a, b in zip(self._before[-1], told, strict=True)])

    def _offset(self, phase: int) -> int:
        generator = np.random.default_rng([self.seed, phase, PHASE])
        return int(generator.integers(0, ONE, dtype=np.uint64))

    def phase(self, sample: int) -> int:
        """The phase of a sample; what is over the end of the run is of the last one."""
        return next((n for n, p in enumerate(self.phases) if sample < p.stop), len(self.phases) - 1)

    def place(self, sample: int) -> tuple[int, int]:
        """The component of a sample, and its number there."""
        phase = self.phase(sample)
        inside, interleave = sample - self.phases[phase].first, self._interleaves[phase]
        component = interleave.corpus(inside)
        return component, self._before[phase][component] + interleave.count(component, inside)

    def window(self, sample: int) -> Window:
        """The window of a number."""
        component, number = self.place(sample)
        return self.parts[component].window(number)

    def batch(self, samples: Iterable[int]) -> Batch:
        """The windows of these numbers, end to end, with the component of each."""
        places = [self.place(sample) for sample in samples]
        windows = [self.parts[component].window(number) for component, number in places]
        sources = tuple(component for component, _ in places)
        return replace(assemble(windows), sources=sources, names=tuple(self.names))

    def seen(self, samples: int) -> dict[str, dict[str, float]]:
        """By component: samples among the first `samples`, and how many epochs they are."""
        phase = self.phase(samples - 1) if samples else 0
        inside = samples - self.phases[phase].first
        found = {}
        for component, (name, part) in enumerate(zip(self.names, self.parts, strict=True)):
            told = self._interleaves[phase].count(component, inside)
            count = self._before[phase][component] + told
            epoch, place = part.epochs.place(count)
            epochs = epoch + place / part.windows(epoch)
            found[name] = {"samples": count, "epochs": round(epochs, 4)}
        return found
