"""Which of several corpora the n-th sample is from, in closed form for any n.

The fractional parts of n times the golden ratio lie more evenly than those of any other number; a
corpus with share w takes the samples whose part falls into its own stretch of length w. So every
run of samples holds each corpus in its share to within a few samples, and how many of the first n
are of one corpus is a sum of floors, which Euclid's algorithm gives in some 40 steps: nothing is
stored, and sample ten million million is found as fast as the first.
"""

from collections.abc import Sequence

ONE = 2**64  # shares are counted in these
STEP = 0x9E3779B97F4A7C15  # ONE divided by the golden ratio, made odd


class Interleave:
    """Corpora 0, 1, 2, ... with shares that sum to 1, begun at `offset` of ONE."""

    def __init__(self, shares: Sequence[float], offset: int = 0) -> None:
        whole, before = sum(shares), 0.0
        self._edges = [0]
        for share in shares[:-1]:
            before += share
            self._edges.append(min(round(before / whole * ONE), ONE))
        self._edges.append(ONE)
        self._offset = offset % ONE

    def corpus(self, n: int) -> int:
        """The corpus of sample n."""
        part = (STEP * n + self._offset) % ONE
        return next(k for k, edge in enumerate(self._edges[1:]) if part < edge)

    def count(self, corpus: int, n: int) -> int:
        """How many of the first n samples are of a corpus."""
        return self._below(self._edges[corpus + 1], n) - self._below(self._edges[corpus], n)

    def _below(self, edge: int, n: int) -> int:
        """Samples i < n with (STEP i + offset) mod ONE < edge, for 0 <= edge <= ONE."""
        # floor(x / ONE) - floor((x - edge) / ONE) is 1 where x mod ONE < edge, and 0 elsewhere
        whole = floor_sum(n, ONE, STEP, self._offset + ONE)
        return whole - floor_sum(n, ONE, STEP, self._offset + ONE - edge)


def floor_sum(n: int, m: int, a: int, b: int) -> int:
    """Sum of floor((a i + b) / m) over i < n, for n, a, b >= 0 and m > 0, by Euclid's algorithm."""
    total = 0
    while True:
        total += (n - 1) * n // 2 * (a // m) + n * (b // m)
        a, b = a % m, b % m
        top = a * n + b
        if top < m:
            return total
        n, b = top // m, top % m
        m, a = a, m
