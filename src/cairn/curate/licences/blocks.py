"""Where a passage and a rule say the same, as blocks of words in the order of both.

The longest run of telling words that both have in a row comes first, with the other words around
it that are equal too; then what lies before it in both, then what lies after (as difflib does, and
ScanCode with telling words only).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cairn.curate.licences.table import Ints

Block = tuple[int, int, int]  # place in the passage, place in the rule, words


@dataclass
class Work:
    """What may still be spent on a text, so that none takes longer than in proportion."""

    left: int

    def spend(self, runs: int) -> bool:
        """Whether so many runs may be looked through."""
        self.left -= 15 + runs // 60
        return self.left > 0


def blocks(
    ids: Ints,
    free: NDArray[np.bool_],
    rule: Ints,
    telling: int,
    within: tuple[int, int],
    work: Work,
) -> list[Block]:
    """Equal stretches of a passage and a rule, for as often as the rule stands there.

    `free`: words of the passage that may be used; these are sought in the bounds of `within`.
    """
    begin, end = within
    runs = _runs(ids, free, rule, telling, within, work)
    found: list[Block] = []
    while begin < end and len(runs[0]):
        made = _once(ids, free, rule, (begin, end), runs, work)
        if not made:
            break
        found += made
        begin = made[-1][0] + made[-1][2]
        kept = runs[0] + runs[2] > begin
        runs = (runs[0][kept], runs[1][kept], runs[2][kept])
    return found


def _once(
    ids: Ints,
    free: NDArray[np.bool_],
    rule: Ints,
    within: tuple[int, int],
    runs: tuple[Ints, Ints, Ints],
    work: Work,
) -> list[Block]:
    found: list[Block] = []
    left = [(*within, 0, len(rule), runs)]
    while left:
        low, high, under, over, runs = left.pop()
        if not work.spend(len(runs[0])):
            break
        runs = _clipped(runs, low, high, under, over)
        if not len(runs[0]):
            continue
        best = _longest(runs)
        i, j, size = int(runs[0][best]), int(runs[1][best]), int(runs[2][best])
        while i > low and j > under and ids[i - 1] == rule[j - 1] and free[i - 1]:
            i, j, size = i - 1, j - 1, size + 1
        while (
            i + size < high
            and j + size < over
            and ids[i + size] == rule[j + size]
            and free[i + size]
        ):
            size += 1
        found.append((i, j, size))
        if len(runs[0]) == 1:
            continue
        if low < i and under < j:
            left.append((low, i, under, j, runs))
        if i + size < high and j + size < over:
            left.append((i + size, high, j + size, over, runs))
    return _joined(sorted(found))


def _longest(runs: tuple[Ints, Ints, Ints]) -> int:
    """Of the longest runs the one that ends first, then the one that comes first in the rule."""
    i, j, size = runs
    ties = np.flatnonzero(size == size.max())
    if len(ties) == 1:
        return int(ties[0])
    return int(ties[np.argmin((i[ties] << 32) + j[ties])])


def _runs(
    ids: Ints,
    free: NDArray[np.bool_],
    rule: Ints,
    telling: int,
    within: tuple[int, int],
    work: Work,
) -> tuple[Ints, Ints, Ints]:
    """(place, place, words) of runs of telling words that both have in a row."""
    begin, end = within
    places = np.flatnonzero(free[begin:end] & (ids[begin:end] < telling)) + begin
    inner = np.flatnonzero(rule < telling)
    inner = inner[np.argsort(rule[inner], kind="stable")]
    own = rule[inner]
    first = np.searchsorted(own, ids[places], side="left")
    counts = np.searchsorted(own, ids[places], side="right") - first
    if not work.spend(10 * int(counts.sum())):
        counts[:] = 0
    i = np.repeat(places, counts)
    ends = np.cumsum(counts)
    j = inner[np.repeat(first - ends + counts, counts) + np.arange(len(i))]
    order = np.lexsort((i, i - j))
    i, j = i[order], j[order]
    new = np.ones(len(i), bool)
    new[1:] = (np.diff(i - j) != 0) | (np.diff(i) != 1)
    starts = np.flatnonzero(new)
    sizes = np.diff(np.append(starts, len(i)))
    return i[starts], j[starts], sizes


def _clipped(
    runs: tuple[Ints, Ints, Ints], low: int, high: int, under: int, over: int
) -> tuple[Ints, Ints, Ints]:
    """The parts of runs that lie between `low` and `high`, and in the rule, `under` and `over`."""
    i, j, size = runs
    late = np.maximum(np.maximum(low - i, under - j), 0)
    left = np.minimum(np.minimum(size, high - i), over - j) - late
    kept = left > 0
    return i[kept] + late[kept], j[kept] + late[kept], left[kept]


def _joined(found: list[Block]) -> list[Block]:
    joined: list[Block] = []
    for i, j, size in found:
        if joined and joined[-1][0] + joined[-1][2] == i and joined[-1][1] + joined[-1][2] == j:
            i, j, size = joined[-1][0], joined[-1][1], joined[-1][2] + size
            joined.pop()
        joined.append((i, j, size))
    return joined
