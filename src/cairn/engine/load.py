"""How busy an engine is, and what it did. No torch."""

import dataclasses
from typing import TYPE_CHECKING

from cairn.engine.counts import Counts

if TYPE_CHECKING:
    from cairn.engine.scheduler import Scheduler
    from cairn.engine.stepper import Stepper


@dataclasses.dataclass(frozen=True)
class Load:
    """How busy an engine is."""

    slots: int
    running: int
    waiting: int
    steps: int
    tokens_read: int
    tokens_drawn: int
    tokens_guessed: int = 0
    """Guesses that were verified."""
    tokens_accepted: int = 0
    """Guesses that were right."""
    reuse: Counts = dataclasses.field(default_factory=Counts)
    """Prefix reuse and preemption."""
    pages: int = 0
    """Pages of keys and values, over all groups of layers."""
    pages_busy: int = 0
    """Of those, used by running sequences."""
    states_kept: int = 0
    """Recurrent states in the prefix cache."""


def load_of(scheduler: "Scheduler", stepper: "Stepper") -> Load:
    """What an engine's parts say."""
    allocation = scheduler.allocation
    return Load(
        slots=scheduler.slots,
        running=scheduler.running,
        waiting=scheduler.waiting,
        steps=stepper.steps,
        tokens_read=stepper.tokens_read,
        tokens_drawn=stepper.tokens_drawn,
        tokens_guessed=stepper.tokens_guessed,
        tokens_accepted=stepper.tokens_accepted,
        reuse=dataclasses.replace(allocation.counts),
        pages=sum(group.count for group in allocation.groups),
        pages_busy=sum(group.busy for group in allocation.groups),
        states_kept=allocation.tree.states if allocation.tree else 0,
    )
