"""Counters of prefix reuse and preemption. No torch."""

from dataclasses import dataclass


@dataclass
class Counts:
    """What prefix reuse and preemption did since the engine was made."""

    prompt_tokens: int = 0
    """Tokens of all prompts that began, those of resumed sequences included."""
    keys_matched: int = 0
    """Of those, tokens whose keys and values were cached."""
    state_matched: int = 0
    """Of those, tokens that were not computed: up to there a state was kept as well."""
    replayed: int = 0
    """Tokens with cached keys that were computed again, for want of a state nearer by."""
    hits: int = 0
    """Sequences that began with cached tokens."""
    states_kept: int = 0
    """States that entered the cache."""
    blocks_read: int = 0
    """Pages that came back from a lower tier."""
    from_disk: int = 0
    """Tokens whose keys and values came back from files."""
    checked: int = 0
    """Answers after a hit that were computed again without one."""
    differing: int = 0
    """Of those, answers that were not the same."""
    swapped: int = 0
    """Preemptions that moved a sequence's memory out."""
    recomputed: int = 0
    """Preemptions that gave it up."""
