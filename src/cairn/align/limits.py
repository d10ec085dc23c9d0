"""Which functions become pairs."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PairLimits:
    """Which functions are fit to learn from."""

    least_purpose: int = 20
    """Characters of the docstring."""
    most_purpose: int = 600
    """Characters of the docstring; a longer one is cut to its first paragraph, or left out."""
    least_body: int = 20
    """Characters of the body without the docstring."""
    most_body: int = 1200
    """Characters of the body without the docstring."""
    most_per_file: int = 16
    """Pairs of one file, so that no large module outweighs the others."""
