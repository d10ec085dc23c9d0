"""Learning rate as a pure function of the step, in the samples that it has come to."""

import math

from cairn.train import TrainSettings
from cairn.train.batches import samples_before, total_samples, total_steps


def learning_rate(settings: TrainSettings, step: int) -> float:
    """The rate of step 1, 2, ..., by the settings' `schedule`.

    Rises linearly from 0 while it warms up. `wsd` (warmup-stable-decay; Nemotron Nano 2, section
    2) then stays, and falls linearly over the last part to `min_lr_ratio` of the peak at the last
    step. `cosine` (StarCoder2, section 6.3) falls from the end of the warmup on.
    """
    done, whole = samples_before(settings, step), total_samples(settings)
    warm, floor = warmup_samples(settings), settings.min_lr_ratio
    share = min(1.0, done / warm) if warm else 1.0
    if settings.schedule == "cosine":
        gone = min(1.0, max(0, done - warm) / max(whole - warm, 1))
        share = min(share, floor + (1 - floor) * (1 + math.cos(math.pi * gone)) / 2)
    else:
        falling, left = decay_samples(settings), whole - done
        if falling and left < falling:
            share = min(share, floor + (1 - floor) * left / falling)
    return settings.lr * share


def warmup_samples(settings: TrainSettings) -> float:
    """Samples over which the rate rises."""
    if settings.warmup_tokens:
        return settings.warmup_tokens / settings.sequence_length
    return samples_before(settings, settings.warmup)


def decay_samples(settings: TrainSettings) -> float:
    """Samples at the end over which `wsd` falls."""
    if settings.decay_tokens:
        return settings.decay_tokens / settings.sequence_length
    steps = total_steps(settings)
    first = steps - round(settings.decay * steps)
    return total_samples(settings) - samples_before(settings, first)
