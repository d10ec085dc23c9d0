"""Where a passage and a rule say the same, as blocks of words in the order of both.

The longest run of telling words that both have in a row comes first, with the other words around
it that are equal too; then what lies before it in both, then what lies after (as difflib does, and
ScanCode with telling words only).
"""

import numpy as np
from numpy.typing import NDArray

from cairn.curate.licences.table import Ints


def blocks(
    ids: Ints, free: NDArray[np.bool_], rule: Ints, telling: int, begin: int, end: int
) -> list[tuple[int, int, int]]:
    """(place in the passage, place in the rule, words) of equal stretches, in order.

    `free`: words of the passage that may be used; these are sought from `begin` to `end`.
    """
    runs = _runs(ids, free, rule, telling, begin, end)
    found: list[tuple[int, int, int]] = []
    left = [(begin, end, 0, len(rule), runs)]
    while left:
        low, high, under, over, runs = left.pop()
        runs = _clipped(runs, low, high, under, over)
        if not len(runs[0]):
            continue
        best = int(np.argmax(runs[2]))
        if np.count_nonzero(runs[2] == runs[2][best]) > 1:
            ties = np.flatnonzero(runs[2] == runs[2][best])
            best = int(ties[np.lexsort((runs[1][ties], runs[0][ties]))[0]])
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
        if low < i and under < j:
            left.append((low, i, under, j, runs))
        if i + size < high and j + size < over:
            left.append((i + size, high, j + size, over, runs))
    return _joined(sorted(found))


def _runs(
    ids: Ints, free: NDArray[np.bool_], rule: Ints, telling: int, begin: int, end: int
) -> tuple[Ints, Ints, Ints]:
    """(place, place, words) of runs of telling words that both have in a row."""
    places = np.flatnonzero(free[begin:end] & (ids[begin:end] < telling)) + begin
    inner = np.flatnonzero(rule < telling)
    inner = inner[np.argsort(rule[inner], kind="stable")]
    own = rule[inner]
    first = np.searchsorted(own, ids[places], side="left")
    counts = np.searchsorted(own, ids[places], side="right") - first
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


def _joined(found: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    joined: list[tuple[int, int, int]] = []
    for i, j, size in found:
        if joined and joined[-1][0] + joined[-1][2] == i and joined[-1][1] + joined[-1][2] == j:
            i, j, size = joined[-1][0], joined[-1][1], joined[-1][2] + size
            joined.pop()
        joined.append((i, j, size))
    return joined
