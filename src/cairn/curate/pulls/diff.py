"""Differences of two texts by lines, and hunks as `diff -u` writes them.

Lines that stand once on both sides are matched first (Cohen's patience diff), what is between them
by Myers' algorithm with a bound on its steps; past the bound a stretch counts as replaced. Time is
linear in the number of lines, on any input.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

DEPTH = 24  # how often lines that stand once are looked for within what is between such lines
MOST_EDITS = 256  # of Myers' algorithm in one stretch
STEPS, FREE = 16, 4_096  # of Myers' algorithm for each line of a stretch, and for any stretch

Change = tuple[int, int, int, int]  # lines [a, b) of the base become lines [c, d) of the head


def lines_of(text: str) -> list[str]:
    """Lines with their ends; only \\n ends a line."""
    lines = text.split("\n")
    last = lines.pop()
    return [line + "\n" for line in lines] + ([last] if last else [])


def changes(base: Sequence[str], head: Sequence[str]) -> list[Change]:
    """What makes `head` of `base`, in order; no two changes touch."""
    numbers: dict[str, int] = {}
    old = [numbers.setdefault(line, len(numbers)) for line in base]
    new = [numbers.setdefault(line, len(numbers)) for line in head]
    found: list[Change] = []
    pending = [(0, len(old), 0, len(new), 0)]
    while pending:
        a, b, c, d, depth = pending.pop()
        while a < b and c < d and old[a] == new[c]:
            a, c = a + 1, c + 1
        while a < b and c < d and old[b - 1] == new[d - 1]:
            b, d = b - 1, d - 1
        if a == b or c == d:
            if a != b or c != d:
                found.append((a, b, c, d))
            continue
        anchors = _anchors(old[a:b], new[c:d]) if depth < DEPTH else []
        if anchors:
            ends = [(-1, -1), *anchors, (b - a, d - c)]
            for (i, j), (k, m) in pairwise(ends):
                pending.append((a + i + 1, a + k, c + j + 1, c + m, depth + 1))
        else:
            for i, j, k, m in _edits(old[a:b], new[c:d]):
                found.append((a + i, a + j, c + k, c + m))
    return _joined(sorted(found))


def hunks(base: Sequence[str], head: Sequence[str], found: list[Change], context: int) -> list[str]:
    """Unified hunks with so many lines of context, each with its header, without a last \\n."""
    groups: list[list[Change]] = []
    for change in found:
        if groups and change[0] - groups[-1][-1][1] <= 2 * context:
            groups[-1].append(change)
        else:
            groups.append([change])
    return [_hunk(base, head, group, context) for group in groups]


def _hunk(base: Sequence[str], head: Sequence[str], group: list[Change], context: int) -> str:
    start, end = max(group[0][0] - context, 0), min(group[-1][1] + context, len(base))
    into = group[0][2] - (group[0][0] - start)
    after = group[-1][3] + (end - group[-1][1])
    lines = [f"@@ -{_range(start, end)} +{_range(into, after)} @@"]
    place = start
    for a, b, c, d in group:
        lines += [_line(" ", line) for line in base[place:a]]
        lines += [_line("-", line) for line in base[a:b]]
        lines += [_line("+", line) for line in head[c:d]]
        place = b
    lines += [_line(" ", line) for line in base[place:end]]
    return "\n".join(lines)


def _range(start: int, end: int) -> str:
    """Lines from 1; of an empty range the line before it."""
    return f"{start + 1 if end > start else start},{end - start}"


def _line(sign: str, line: str) -> str:
    if line.endswith("\n"):
        return sign + line[:-1]
    return f"{sign}{line}\n\\ No newline at end of file"


def _anchors(old: list[int], new: list[int]) -> list[tuple[int, int]]:
    """Places of the lines that stand once on both sides, as many as rise on both."""
    count_old, count_new = Counter(old), Counter(new)
    where = {line: place for place, line in enumerate(new) if count_new[line] == 1}
    pairs = [(i, where[n]) for i, n in enumerate(old) if count_old[n] == 1 and n in where]
    tops: list[int] = []  # the least end of a rising row of each length
    last: list[int] = []  # and which pair that is
    before: list[int] = []
    for number, (_, j) in enumerate(pairs):
        length = bisect_left(tops, j)
        before.append(last[length - 1] if length else -1)
        if length == len(tops):
            tops.append(j)
            last.append(number)
        else:
            tops[length], last[length] = j, number
    row: list[tuple[int, int]] = []
    number = last[-1] if last else -1
    while number >= 0:
        row.append(pairs[number])
        number = before[number]
    return row[::-1]


def _edits(old: list[int], new: list[int]) -> list[Change]:
    """Myers' shortest edits, or the whole stretch where they are too many."""
    size, other = len(old), len(new)
    furthest = {1: 0}
    trace: list[dict[int, int]] = []
    steps = STEPS * (size + other) + FREE
    for edits in range(min(MOST_EDITS, size + other) + 1):
        trace.append(dict(furthest))
        for k in range(-edits, edits + 1, 2):
            down = k == -edits or (k != edits and furthest[k - 1] < furthest[k + 1])
            x = furthest[k + 1] if down else furthest[k - 1] + 1
            begun = x
            while x < size and x - k < other and old[x] == new[x - k]:
                x += 1
            steps -= x - begun + 1
            furthest[k] = x
            if x >= size and x - k >= other:
                return _traced(trace, size, other)
        if steps < 0:
            break
    return [(0, size, 0, other)]


def _traced(trace: list[dict[int, int]], x: int, y: int) -> list[Change]:
    """The single edits on the way that `trace` tells of, from the end back."""
    found: list[Change] = []
    for edits in range(len(trace) - 1, 0, -1):
        furthest = trace[edits]
        k = x - y
        down = k == -edits or (k != edits and furthest[k - 1] < furthest[k + 1])
        from_k = k + 1 if down else k - 1
        from_x = furthest[from_k]
        from_y = from_x - from_k
        if down:
            found.append((from_x, from_x, from_y, from_y + 1))
        else:
            found.append((from_x, from_x + 1, from_y, from_y))
        x, y = from_x, from_y
    return found[::-1]


def _joined(found: list[Change]) -> list[Change]:
    """Changes that touch made one."""
    joined: list[Change] = []
    for change in found:
        if joined and joined[-1][1] == change[0] and joined[-1][3] == change[2]:
            a, _, c, _ = joined.pop()
            change = (a, change[1], c, change[3])
        joined.append(change)
    return joined
