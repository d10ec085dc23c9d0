"""Figures of merit for one answer, or for the answers to one question."""

import math


def exact_match(answer: str, reference: str) -> float:
    """1 where both are equal after white space at both ends is removed, else 0."""
    return float(answer.strip() == reference.strip())


def edit_similarity(answer: str, reference: str) -> float:
    """1 - d / max(len(answer), len(reference)), with d the Levenshtein distance in characters.

    Both are stripped first; two empty texts have similarity 1.
    """
    answer, reference = answer.strip(), reference.strip()
    longest = max(len(answer), len(reference))
    return 1.0 - levenshtein(answer, reference) / longest if longest else 1.0


def levenshtein(a: str, b: str) -> int:
    """Fewest insertions, deletions and substitutions of characters that turn `a` into `b`.

    Bit-parallel (Myers 1999, in the form of Hyyro 2001): a column of the table is one integer
    of len(a) bits, so the time is len(b) times a few operations on integers of that length.
    """
    if not a:
        return len(b)
    places: dict[str, int] = {}
    for place, char in enumerate(a):
        places[char] = places.get(char, 0) | 1 << place
    full, last = (1 << len(a)) - 1, 1 << (len(a) - 1)
    up, down, distance = full, 0, len(a)  # vertical differences of +1 and of -1
    for char in b:
        here = places.get(char, 0)
        diagonal = (((here & up) + up) ^ up) | here | down
        rise = down | ~(diagonal | up) & full
        fall = diagonal & up
        distance += bool(rise & last) - bool(fall & last)
        rise, fall = rise << 1 | 1, fall << 1
        up = (fall | ~(diagonal | rise)) & full
        down = rise & diagonal & full
    return distance


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """Chance that at least one of k answers drawn from `samples`, `passed` of them right, is right.

    The unbiased estimator 1 - C(n-c, k) / C(n, k) of Chen et al. 2021 (arXiv 2107.03374), eq. 1.
    """
    if not 0 < k <= samples or not 0 <= passed <= samples:
        raise ValueError(f"pass@{k} of {passed} out of {samples}: needs 0 < k <= samples")
    return 1.0 - math.comb(samples - passed, k) / math.comb(samples, k)
