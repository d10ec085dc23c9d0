"""How busy an engine is, and what it did. No torch."""

import dataclasses

from cairn.engine.counts import Counts


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
