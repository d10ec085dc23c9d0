"""Thresholds for pull requests, and draws that depend on nothing but a seed and a key."""

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PullLimits:
    """Where each rule begins to drop or cut; the report's own values."""

    title_characters: int = 10
    """Least characters of a title."""
    title_words: tuple[str, ...] = ("dependencies", "dependency", "depend", "release")
    """Words that no title holds, in any case."""
    longest_title: int = 500
    """Characters that are kept of a title."""
    description_characters: int = 20
    """Least characters of a description."""
    description_words: tuple[str, ...] = ("Qwiet",)
    """Words that no description holds."""
    first_lines: int = 60
    """Lines at the beginning of a long description that stay."""
    last_lines: int = 20
    """Lines at its end that stay."""
    longest_description: int = 1_000
    """Characters that are kept of a description."""
    comment_characters: int = 20
    """Least characters of a comment that is no review comment."""
    longest_hunk: int = 10_000
    """Most characters of the hunk under a review comment."""
    longest_file: int = 1_000_000
    """Most characters of a file."""
    alphanumeric_share: float = 0.25
    """Least share of letters and digits in a file."""
    hexadecimal_share: float = 0.25
    """Largest share of a file that is `\\x` escapes, counted as two characters each."""
    most_lines: int = 100_000
    """Most lines of a file."""
    average_line: float = 100.0
    """Most characters of a file's average line."""
    longest_line: int = 1_000
    """Most characters of a file's longest line."""
    whole_file: float = 0.2
    """How often a file is shown whole; an excerpt otherwise."""
    widest: int = 32
    """Most lines that an excerpt shows before and after what was changed."""
    fewest_context: int = 3
    """Least lines of context around a hunk."""
    most_context: int = 10
    """Most lines of context around a hunk."""
    data_share: float = 0.5
    """Share of YAML and JSON in the base files from which a pull request is thinned out."""
    data_words: tuple[str, ...] = ("pack", "lock", "yarn", "output", "swagger", "openapi")
    """Words in the path of a YAML or JSON file that have the same effect."""
    data_kept: float = 0.1
    """How often such a pull request is kept."""
    thinning: bool = True
    """Whether repositories with many pull requests are thinned out by `keep_probability`."""
    fewest_characters: int = 200
    """Least characters of a whole pull request."""
    most_characters: int = 100_000
    """Most characters of a whole pull request."""
    without_diff: bool = False
    """Whether one whose commits are not at hand is told all the same, without files."""
    newlines: bool = True
    """Whether the layout's lines end as the report prints them; its code writes none of these."""


def keep_probability(pull_requests: int) -> float:
    """How often a pull request is kept of a repository that has so many.

    It falls in a line from 0.8 for one to 0.1 for a thousand; of more about 100 are kept.
    """
    if pull_requests > 1_000:
        return 100 / pull_requests
    return 0.8007 - 0.0007 * pull_requests


def fraction(seed: int, key: str) -> float:
    """A number in [0, 1) that is the same on every machine and in any order of calls."""
    raw = f"{seed}\0{key}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(raw, digest_size=7).digest(), "big") / 2**56


def drawn(seed: int, key: str, probability: float) -> bool:
    """Whether something that happens with this probability does."""
    return fraction(seed, key) < probability


def integer(seed: int, key: str, low: int, high: int) -> int:
    """A whole number from `low` to `high`, both possible."""
    return low + int(fraction(seed, key) * (high - low + 1))
