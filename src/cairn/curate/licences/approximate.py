"""Texts that are like a rule: other holders, other words, passages left out or put in."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from cairn.curate.licences.matches import Match, is_dense, is_scattered, make
from cairn.curate.licences.table import GRAM, Hashes, Ints, Table
from cairn.curate.licences.words import Text

LEAST = 6  # words of a passage that is looked at
CONTAINED = 0.2  # of a rule's runs of words: less is no likeness
RIVALS = 16  # rules that are held against a passage word by word
ALIKE = 0.8  # of the words of a text and a rule, if one is the other
WHOLE_RIVALS = 10
CLOSE = 0.75  # of the best likeness: how much a rival has
GAP = 50  # words between two parts of a match
ROUNDS = 40  # times that each word is looked at, at most


def approximate(text: Text, table: Table, free: NDArray[np.bool_]) -> list[Match]:
    """Matches with parts of rules: the text as a whole, then the passages whose words are `free`."""
    found = _whole(text, table)
    free = free.copy()
    for match in found:
        free[match.start : match.end + 1] = False
    left = list(_passages(free))
    budget = ROUNDS * len(free)
    while left and budget > 0:
        begin, end = left.pop()
        budget -= end - begin
        made, covered = _best(text, table, begin, end)
        found += made
        edges = [begin, *(edge for pair in covered for edge in pair), end]
        rest = zip(edges[::2], edges[1::2], strict=True)
        left += [(low, high) for low, high in rest if covered and high - low >= LEAST]
    return found


def _whole(text: Text, table: Table) -> list[Match]:
    """Matches with rules that have nearly the same words as all of the text."""
    size = len(text.ids)
    near = (table.length >= ALIKE * size) & (table.length <= size / ALIKE)
    rules = _hits(text, table, 0, size)
    likely = _likeness(table, rules[near[rules]])
    order = np.argsort(-likely, kind="stable")[:WHOLE_RIVALS]
    count = np.bincount(text.ids, minlength=1 << 16)
    found: list[Match] = []
    for rule in order[likely[order] > 0].tolist():
        words, times = np.unique(table.words_of(rule), return_counts=True)
        shared = int(np.minimum(times, count[words]).sum())
        distinct = int((count[words] > 0).sum())
        alike = shared / (size + int(table.length[rule]) - shared)
        kinds = distinct / (int((count > 0).sum()) + len(words) - distinct)
        if min(alike, kinds) >= ALIKE:
            found += _aligned(text, table, rule, (0, size))
    return found


def _passages(free: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], free, [False]]).astype(np.int8)))
    for begin, end in edges.reshape(-1, 2).tolist():
        if end - begin >= LEAST:
            yield begin, end


def _best(
    text: Text, table: Table, begin: int, end: int
) -> tuple[list[Match], list[tuple[int, int]]]:
    """Matches wherever the likeliest rule of a passage stands, and the stretches this settles."""
    likely = _likeness(table, _hits(text, table, begin, end))
    best = int(np.argmax(likely))
    found: list[Match] = []
    covered: list[tuple[int, int]] = []
    if not likely[best]:
        return found, covered
    for low, high in _stretches(text, table, best, (begin, end)):
        close = _likeness(table, _hits(text, table, low, high))
        made = [
            match
            for rule in _rivals(table, close)
            for match in _aligned(text, table, rule, (low, high))
        ]
        if made:
            good = CLOSE * max(match.size * match.coverage for match in made)
            made = [match for match in made if match.size * match.coverage >= good]
            low, high = min(m.start for m in made), max(m.end for m in made) + 1
        found += made
        covered.append((low, high))
    return found, sorted(covered)


def _rivals(table: Table, close: NDArray[np.floating]) -> list[int]:
    """The likeliest rules, one of each expression and length."""
    order = np.argsort(-close, kind="stable")[: 8 * RIVALS]
    order = order[close[order] >= max(CLOSE * close[order[0]], 1e-9)]
    kinds = table.expression[order].astype(np.int64) << 16 | table.length[order]
    _, first = np.unique(kinds, return_index=True)
    return order[np.sort(first)[:RIVALS]].tolist()


def _stretches(
    text: Text, table: Table, rule: int, within: tuple[int, int]
) -> list[tuple[int, int]]:
    """Where a rule stands in a passage, whole or in part; these do not overlap."""
    begin, end = within
    words = table.words_of(rule)
    own = np.sort(Hashes(words).of(np.arange(len(words) - GRAM + 1), GRAM))
    places = np.arange(begin, end - GRAM + 1)
    hashes = text.hashes.of(places, GRAM)
    at = np.minimum(np.searchsorted(own, hashes), len(own) - 1)
    places = places[own[at] == hashes]
    margin = 2 + min(len(words) // 8, GAP)
    reach = int(1.3 * len(words)) + GAP
    found: list[tuple[int, int]] = []
    most = 0
    while len(places) and len(found) < ROUNDS:
        last = np.searchsorted(places, places + reach, side="right")
        count = last - np.arange(len(places))
        first = int(np.argmax(count))
        most = max(most, int(count[first]))
        if count[first] < most / 2:
            break
        low = max(begin, int(places[first]) - margin)
        high = min(end, int(places[last[first] - 1]) + GRAM + margin)
        for one, other in found:
            low = max(low, other) if one <= low < other else low
            high = min(high, one) if one < high <= other else high
        if low < high:
            found.append((low, high))
        places = np.concatenate([places[:first], places[last[first] :]])
    return found


def _likeness(table: Table, rules: Ints) -> NDArray[np.floating]:
    """For each rule: words that it is likely to share, times their part of it."""
    count = np.bincount(rules, minlength=len(table.length))
    shared = np.minimum(count * 256 / table.grams.kept + GRAM - 1, table.length)
    part = shared / table.length
    part[(part < CONTAINED) | (part < 0.8 * table.coverage / 100) | (count == 0)] = 0
    return part * shared


def _hits(text: Text, table: Table, begin: int, end: int) -> Ints:
    """Rules that hold a run of GRAM words of a passage: each once for every such run."""
    at = np.arange(begin, end - GRAM + 1)
    hashes = text.hashes.of(at, GRAM)
    grams = table.grams
    place = np.searchsorted(grams.hashes, hashes)
    place[place == len(grams.hashes)] = 0
    known = grams.hashes[place] == hashes
    place = np.unique(place[known])  # a run that is repeated tells nothing more
    counts = grams.first[place + 1] - grams.first[place]
    offset = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return grams.rules[np.repeat(grams.first[place], counts) + offset].astype(np.int64)


def _aligned(text: Text, table: Table, rule: int, within: tuple[int, int]) -> list[Match]:
    """The longest common subsequence of a passage and a rule, cut at gaps."""
    begin, end = within
    outer, inner = common(text.ids[begin:end], table.words_of(rule).astype(np.int64))
    outer = outer + begin
    if not len(outer):
        return []
    joined = np.zeros(len(outer), bool)
    joined[1:] = (np.diff(outer) == 1) & (np.diff(inner) == 1)
    alone = ~joined & ~np.append(joined[1:], False)
    kept = ~alone | (text.ids[outer] < table.telling)
    outer, inner = outer[kept], inner[kept]
    widest = min(int(table.length[rule]) // 2 or 1, GAP)
    cut = np.flatnonzero((np.diff(outer) > widest) | (np.diff(inner) > widest)) + 1
    made = []
    for one, other in zip(np.split(outer, cut), np.split(inner, cut), strict=True):
        if len(one):
            match = make(table, text, rule, one.tolist(), (int(other[0]), int(other[-1])))
            if _is_enough(match, table, text, one, other):
                made.append(match)
    return made


def _is_enough(match: Match, table: Table, text: Text, outer: Ints, inner: Ints) -> bool:
    """Whether a part of a rule is as much as the rule asks for."""
    least, telling = _least(match.length, int(table.telling_length[match.rule]))
    if match.size < least or match.telling < telling or not is_dense(match):
        return False
    if match.coverage * 100 < table.coverage[match.rule] or is_scattered(match):
        return False
    for first, last in table.phrases.get(match.rule, ()):
        place = np.searchsorted(inner, first)
        span = outer[place : place + last - first]
        whole = len(span) == last - first and inner[place] == first
        if not whole or inner[place + last - first - 1] != last - 1:
            return False
        if span[-1] - span[0] != len(span) - 1 or text.unknown_within(span[0], span[-1]):
            return False
    return True


def _least(length: int, telling: int) -> tuple[int, int]:
    """Fewest words, and fewest telling words, of a match with a rule of so many."""
    if length < 10:
        return length, telling
    if length < 30:
        return length // 2, min(telling, 3)
    if length < 200:
        return 4, min(telling, 3)
    return length // 10, telling // 10


def common(one: Ints, other: Ints) -> tuple[Ints, Ints]:
    """Places in both of a longest common subsequence, by bits of whole numbers (Hyyro)."""
    size = min(len(one), len(other))
    same = one[:size] == other[:size]
    head = size if same.all() else int(np.argmin(same))
    same = one[len(one) - size + head :][::-1] == other[len(other) - size + head :][::-1]
    tail = len(same) if same.all() else int(np.argmin(same))
    left, right = one[head : len(one) - tail].tolist(), other[head : len(other) - tail].tolist()
    masks: dict[int, int] = {}
    for place, word in enumerate(right):
        masks[word] = masks.get(word, 0) | 1 << place
    full = (1 << len(right)) - 1
    row, rows = full, []
    for word in left:
        hit = row & masks.get(word, 0)
        row = ((row + hit) | (row - hit)) & full
        rows.append(row)
    pairs = _walk(rows, len(right))
    first = [*range(head), *(head + i for i, _ in pairs), *range(len(one) - tail, len(one))]
    second = [*range(head), *(head + j for _, j in pairs), *range(len(other) - tail, len(other))]
    return np.array(first, np.int64), np.array(second, np.int64)


def _walk(rows: list[int], columns: int) -> list[tuple[int, int]]:
    """Pairs of places, from the last row back."""
    pairs: list[tuple[int, int]] = []
    row, column = len(rows), columns
    while row and column:
        if rows[row - 1] >> (column - 1) & 1:
            column -= 1
            continue
        row -= 1
        if row and not rows[row - 1] >> (column - 1) & 1:
            continue
        column -= 1
        pairs.append((row, column))
    return pairs[::-1]


