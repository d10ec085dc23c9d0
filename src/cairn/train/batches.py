"""Which samples a step takes, and which of them one rank: a function of the settings. No torch.

Samples are numbered 0, 1, 2, ... over the whole run, and a stream tells any of them by its number.
So the order in which data is learned depends neither on how many ranks there are nor on who reads.
"""

from bisect import bisect_right
from functools import lru_cache
from typing import NamedTuple

from cairn.base import UserError
from cairn.train import TrainSettings


class Stage(NamedTuple):
    """From a step on (counted from 0), and a sample on, steps have as many sequences."""

    step: int
    sample: int
    sequences: int


@lru_cache
def stages(settings: TrainSettings) -> tuple[Stage, ...]:
    """How the batch grows: one stage without a ramp, and the last one has no end.

    A ramp's stages share its tokens evenly; each ends with the step that reaches its part.
    """
    full = settings.sequences * settings.accumulate
    if not settings.ramp:
        return (Stage(0, 0, full),)
    size, increment, tokens = settings.ramp
    count = (full - size) // increment
    each = -(-tokens // (count * settings.sequence_length))  # samples
    found = [Stage(0, 0, size)]
    for _ in range(count):
        step, sample, size = found[-1]
        steps = -(-each // size)
        found.append(Stage(step + steps, sample + steps * size, size + increment))
    return tuple(found)


def samples_before(settings: TrainSettings, steps: int) -> int:
    """Samples that the first `steps` steps take."""
    known = stages(settings)
    stage = known[max(bisect_right(known, steps, key=lambda one: one.step) - 1, 0)]
    return stage.sample + (steps - stage.step) * stage.sequences


def total_steps(settings: TrainSettings) -> int:
    """Steps of the run: as given, or as many as its tokens take, the last one whole."""
    if not settings.tokens:
        return settings.steps
    samples = -(-settings.tokens // settings.sequence_length)
    known = stages(settings)
    stage = known[max(bisect_right(known, samples - 1, key=lambda one: one.sample) - 1, 0)]
    return stage.step + -(-(samples - stage.sample) // stage.sequences)


def total_samples(settings: TrainSettings) -> int:
    """Samples of the whole run."""
    return samples_before(settings, total_steps(settings))


def samples_of(settings: TrainSettings, step: int) -> range:
    """The samples of step 1, 2, ..."""
    return range(samples_before(settings, step - 1), samples_before(settings, step))


def micro_batches(settings: TrainSettings, step: int, rank: int = 0, ranks: int = 1) -> list[range]:
    """The samples of one data-parallel rank in a step, in micro-batches of `sequences` at most.

    Each rank has as many; all ranks' shares, one after another, are the step's samples. UserError
    for a number of ranks that does not divide them.
    """
    samples = samples_of(settings, step)
    if len(samples) % ranks:
        problem = f"cannot share the {len(samples)} sequences of step {step} evenly"
        raise UserError("ranks", ranks, problem, "take a number of ranks that divides them")
    each = len(samples) // ranks
    mine = samples[rank * each : (rank + 1) * each]
    most = settings.sequences
    return [mine[at : at + most] for at in range(0, each, most)]
