"""Learning rate as a pure function of the step."""

from cairn.train import TrainSettings


def learning_rate(settings: TrainSettings, step: int) -> float:
    """Warmup-stable-decay (Nemotron Nano 2, section 2): the rate of step 1, 2, ..., steps.

    Rises linearly over `warmup` steps, stays, and falls linearly over the last `decay` share of
    the steps to `min_lr_ratio` of the peak at the last step.
    """
    rising = min(1.0, step / settings.warmup) if settings.warmup else 1.0
    falling = round(settings.decay * settings.steps)
    left = settings.steps - step
    if falling and left < falling:
        floor = settings.min_lr_ratio
        rising = min(rising, floor + (1 - floor) * left / falling)
    return settings.lr * rising
