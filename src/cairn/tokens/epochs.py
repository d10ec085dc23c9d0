"""Samples by number: which epoch and which place in it, whoever asks and in whatever order."""

from bisect import bisect_right
from collections.abc import Callable

from cairn.base import UserError


class Epochs:
    """Numbers samples 0, 1, 2, ... through epochs that may differ in length.

    Finding a sample of a later epoch asks `count` for every epoch before it, each once.
    """

    def __init__(self, count: Callable[[int], int]) -> None:
        self._count = count
        self._first = [0]  # number of the first sample of each epoch known so far

    def first(self, epoch: int) -> int:
        """Number of an epoch's first sample."""
        while len(self._first) <= epoch:
            self._first.append(self._first[-1] + self._count(len(self._first) - 1))
        return self._first[epoch]

    def place(self, sample: int) -> tuple[int, int]:
        """Epoch of a sample, and its place in it. UserError for a negative number."""
        if sample < 0:
            raise UserError("sample", sample, "is negative", "count from 0")
        while self._first[-1] <= sample:
            self.first(len(self._first))
        epoch = bisect_right(self._first, sample) - 1
        return epoch, sample - self._first[epoch]
