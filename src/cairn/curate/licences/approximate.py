"""Texts that are like a rule: other holders, other words, passages left out or put in."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from cairn.curate.licences.matches import Match, is_dense, is_scattered, make
from cairn.curate.licences.table import GRAM, Ints, Table
from cairn.curate.licences.words import Text

LEAST = 6  # words of a passage that is looked at
CONTAINED = 0.2  # of a rule's runs of words: less is no likeness
RIVALS = 8  # rules that are held against a passage word by word
GAP = 50  # words between two parts of a match
ROUNDS = 40  # matches sought in one passage


def approximate(text: Text, table: Table, free: NDArray[np.bool_]) -> list[Match]:
    """Matches with parts of rules, in the passages whose words are `free`."""
    found: list[Match] = []
    for begin, end in _passages(free):
        found += _passage(text, table, begin, end)
    return found


def _passages(free: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], free, [False]]).astype(np.int8)))
    for begin, end in edges.reshape(-1, 2).tolist():
        if end - begin >= LEAST:
            yield begin, end


def _passage(text: Text, table: Table, begin: int, end: int) -> list[Match]:
    places, rules = _hits(text, table, begin, end)
    found: list[Match] = []
    for _ in range(ROUNDS):
        count = np.bincount(rules, minlength=len(table.length))
        share = count / np.maximum(table.grams.count, 1)
        share[(share < CONTAINED) | ((count < 2) & (share < 0.5))] = 0
        likely = np.minimum(share, 1) * table.length
        best = int(np.argmax(likely))
        if not likely[best]:
            break
        at = places[rules == best]
        low, high = _densest(at, int(table.length[best]))
        near = np.bincount(
            rules[(places >= low) & (places <= high)], minlength=len(table.length)
        )
        close = np.minimum(near / np.maximum(table.grams.count, 1), 1) * table.length
        rivals = np.argsort(-close, kind="stable")[:RIVALS]
        made = [
            match
            for rule in rivals[close[rivals] >= 0.8 * close[best]].tolist()
            for match in _aligned(text, table, rule, (max(begin, low), min(end, high + GRAM)))
        ]
        if made:
            longest = max(made, key=lambda m: (m.size, m.telling, m.coverage))
            found += [match for match in made if match.rule == longest.rule]
        outside = (places < low) | (places > high)
        places, rules = places[outside], rules[outside]
    return found


def _hits(text: Text, table: Table, begin: int, end: int) -> tuple[Ints, Ints]:
    """(places, rules) of runs of GRAM words that a rule holds too."""
    at = np.arange(begin, end - GRAM + 1)
    hashes = text.hashes.of(at, GRAM)
    grams = table.grams
    place = np.searchsorted(grams.hashes, hashes)
    place[place == len(grams.hashes)] = 0
    known = grams.hashes[place] == hashes
    at, place = at[known], place[known]
    _, once = np.unique(place, return_index=True)  # a run that is repeated tells nothing more
    at, place = at[once], place[once]
    counts = grams.first[place + 1] - grams.first[place]
    offset = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    rules = grams.rules[np.repeat(grams.first[place], counts) + offset]
    return np.repeat(at, counts), rules.astype(np.int64)


def _densest(places: Ints, length: int) -> tuple[int, int]:
    """The stretch about as long as the rule that holds most of the places, with a margin."""
    places = np.sort(places)
    reach = np.searchsorted(places, places + int(1.3 * length) + GAP, side="right")
    best = int(np.argmax(reach - np.arange(len(places))))
    margin = 2 + min(length // 8, GAP)
    return int(places[best]) - margin, int(places[reach[best] - 1]) + margin


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


