"""Rules whose words a passage shares, the likeliest first, as ScanCode ranks them.

By kinds of words first, then by words; a rule must share as much as it asks for. Rank goes by
whether passage and rule are nearly the same (resemblance), then by how much of the rule is there
(containment), then by the square of resemblance, then by size.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from cairn.curate.licences.table import APPROXIMATE, Ints, Table, table

ALIKE = 0.8  # resemblance of a passage and a rule that are nearly the same
FIRST = 10  # times as many rules are held against the words as against their kinds


@dataclass(frozen=True)
class Kinds:
    """Which rules hold a word, and how often: rows `first[word]` to `first[word + 1]`."""

    first: Ints
    rules: NDArray[np.uint16]
    times: NDArray[np.uint16]
    telling: Ints  # telling words of each rule
    kinds: Ints  # kinds of words of each rule
    telling_kinds: Ints


@cache
def kinds() -> Kinds:
    """The words of the rules that may be matched in part; made once in a process."""
    rules_table = table()
    count = len(rules_table.length)
    rule = np.repeat(np.arange(count, dtype=np.uint32), rules_table.length)
    kept = (rules_table.flags[rule] & APPROXIMATE) > 0
    key = rules_table.tokens[kept].astype(np.uint32) << 16 | rule[kept]
    key.sort()
    begins = np.flatnonzero(np.diff(key, prepend=key[0] - np.uint32(1)))
    many = np.diff(np.append(begins, len(key)))
    word, holder = key[begins] >> 16, key[begins] & 0xFFFF
    telling = word < rules_table.telling
    return Kinds(
        np.searchsorted(word, np.arange((1 << 16) + 1)),
        holder.astype(np.uint16),
        many.astype(np.uint16),
        np.bincount(holder[telling], weights=many[telling], minlength=count).astype(np.int64),
        np.bincount(holder, minlength=count),
        np.bincount(holder[telling], minlength=count),
    )


@dataclass(frozen=True)
class Shared:
    """What each rule shares with a passage."""

    size: int
    kinds_of_size: int
    words: Ints
    telling: Ints
    kinds: Ints
    telling_kinds: Ints


def shared(ids: Ints, rules: Table) -> Shared:
    """How many words, and kinds of words, a passage has in common with each rule."""
    of = kinds()
    own, many = np.unique(ids, return_counts=True)
    counts = of.first[own + 1] - of.first[own]
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    row = np.repeat(of.first[own] - ends + counts, counts) + np.arange(total)
    holder = of.rules[row]
    both = np.minimum(of.times[row], np.repeat(many, counts))
    cut = int(ends[np.searchsorted(own, rules.telling) - 1]) if (own < rules.telling).any() else 0
    length = len(rules.length)
    high = np.bincount(holder[:cut], weights=both[:cut], minlength=length)
    low = np.bincount(holder[cut:], weights=both[cut:], minlength=length)
    high_kinds = np.bincount(holder[:cut], minlength=length)
    low_kinds = np.bincount(holder[cut:], minlength=length)
    return Shared(
        len(ids),
        len(own),
        (high + low).astype(np.int64),
        high.astype(np.int64),
        high_kinds + low_kinds,
        high_kinds,
    )


def candidates(found: Shared, rules: Table, top: int, *, alike: bool) -> list[int]:
    """The `top` rules to hold against a passage; with `alike`, only what is nearly the same."""
    of = kinds()
    fewest, telling = least_kinds()
    enough = (found.telling_kinds >= np.maximum(telling, 1)) & (found.kinds >= fewest)
    rows = np.flatnonzero(enough & ((rules.flags & APPROXIMATE) > 0))
    part = found.kinds[rows] / of.kinds[rows]
    kept = part >= rules.coverage[rows] / 100
    rows = rows[kept]
    union = found.kinds_of_size + of.kinds[rows] - found.kinds[rows]
    rows, _, _ = _ranked(rows, found.kinds[rows], of.kinds[rows], union, alike=alike)
    rows = rows[: top * FIRST]
    fewest, telling = least_words()
    enough = (found.telling[rows] >= np.maximum(telling[rows], 1)) & (
        found.words[rows] >= fewest[rows]
    )
    rows = rows[enough]
    rows = rows[found.words[rows] / rules.length[rows] >= rules.coverage[rows] / 100]
    union = found.size + rules.length[rows] - found.words[rows]
    rows, rounded, _ = _ranked(rows, found.words[rows], rules.length[rows], union, alike=alike)
    group = np.column_stack([rules.expression[rows], rules.length[rows], *rounded])
    _, first = np.unique(group, axis=0, return_index=True)
    return rows[np.sort(first)][:top].tolist()


def _ranked(
    rows: Ints, both: Ints, length: Ints, union: Ints, *, alike: bool
) -> tuple[Ints, list[NDArray[np.floating]], NDArray[np.bool_]]:
    """Rows in order, with the rounded figures that they are ranked by."""
    resemblance = both / union
    near = resemblance >= ALIKE
    roughly = np.round(resemblance, 1) >= ALIKE
    full = [near, both / length, resemblance**2, both]
    rounded = [
        roughly,
        np.round(both / length, 1),
        np.round(resemblance**2, 1),
        np.round(both / 20, 1),
    ]
    order = np.lexsort([rows, *full[::-1], *rounded[::-1]])[::-1]
    if alike:
        order = order[(near & roughly)[order]]
    return rows[order], [column[order] for column in rounded], near[order]


@cache
def least_words() -> tuple[Ints, Ints]:
    """Fewest words, and fewest telling words, that a match with each rule must have."""
    rules, of = table(), kinds()
    length, telling = rules.length, of.telling
    whole = (rules.coverage == 100) | (length < 10)
    steps = [whole, length < 30, length < 200]
    some = np.minimum(telling, 3)
    return (
        np.select(steps, [length, length // 2, np.full_like(length, 4)], length // 10),
        np.select(steps, [telling, some, some], telling // 10),
    )


@cache
def least_kinds() -> tuple[Ints, Ints]:
    """Fewest kinds of words, and of telling words, that a passage must share with each rule."""
    rules, of = table(), kinds()
    length, own, telling = rules.length, of.kinds, of.telling_kinds
    steps = [rules.coverage == 100, length > 200, length < 5, length < 10, length < 20]
    half = np.minimum(np.where(telling // 2 > 0, telling // 2, telling), 3)
    most = np.where(own < 2, own, own - 1)
    return (
        np.select(steps, [own, length // 10, own, most, telling], np.full_like(length, 4)),
        np.select(steps, [telling, telling // 10, telling, telling, telling], half),
    )
