"""Runs of words that are a rule, word for word."""

import numpy as np
from numpy.typing import NDArray

from cairn.curate.licences import table as t
from cairn.curate.licences.matches import Match, make, settle, settled_again
from cairn.curate.licences.table import Ints, Table
from cairn.curate.licences.words import Text


def exact(text: Text, table: Table) -> list[Match]:
    """Matches of whole rules, none within another and few overlapping.

    A run of words is looked up by its first 1, 2, 4 ... words, so the time is linear in the text
    but for the rules that begin alike.
    """
    rules, starts, ends = _unbroken(text, table)
    outer = _outermost(starts, ends)
    found = settle(_made(text, table, rules[outer], starts[outer]))
    taken = np.zeros(len(text.ids) + 1, np.int64)
    for match in found:
        taken[match.start : match.end + 1] = 1
    sums = np.concatenate([[0], np.cumsum(taken)])
    # What stood only in matches that went may say more than nothing.
    again = (sums[ends + 1] == sums[starts]) & ~outer
    if again.any():
        rules, starts, ends = rules[again], starts[again], ends[again]
        outer = _outermost(starts, ends)
        found = settled_again(found, _made(text, table, rules[outer], starts[outer]))
    return found


def _unbroken(text: Text, table: Table) -> tuple[Ints, Ints, Ints]:
    """(rules, first words, last words) of runs that no word breaks where it must not."""
    rules, starts = _runs(text, table)
    ends = starts + table.length[rules] - 1
    broken = text.unknown[ends] > text.unknown[starts]
    fine = ~(broken & ((table.flags[rules] & (t.CONTINUOUS | t.PHRASE)) > 0))
    for at in np.nonzero(broken & fine)[0].tolist():
        phrases = table.phrases.get(int(rules[at]))
        if phrases is not None:
            start = int(starts[at])
            fine[at] = not any(text.unknown_within(start + a, start + b - 1) for a, b in phrases)
    size = ends - starts + 1 + 2 * ((table.flags[rules] & t.TAG) > 0)
    scattered = text.line[ends] - text.line[starts] + 1 > size
    fine &= ~((table.length[rules] < t.SMALL) & scattered)
    order = np.lexsort((-ends[fine], starts[fine]))
    return rules[fine][order], starts[fine][order], ends[fine][order]


def _made(text: Text, table: Table, rules: Ints, starts: Ints) -> list[Match]:
    found = []
    for rule, start in zip(rules.tolist(), starts.tolist(), strict=True):
        length = int(table.length[rule])
        found.append(make(table, text, rule, range(start, start + length), (0, length - 1)))
    return found


def _runs(text: Text, table: Table) -> tuple[Ints, Ints]:
    """(rules, where each begins), of all runs of words that are a rule."""
    alive = np.arange(len(text.ids))
    rules: list[Ints] = []
    starts: list[Ints] = []
    for size, level in enumerate(table.levels):
        alive = alive[alive + (1 << size) <= len(text.ids)]
        if not len(alive):
            break
        hashes = text.hashes.of(alive, 1 << size)
        place = np.searchsorted(level.prefixes, hashes)
        place[place == len(level.prefixes)] = 0
        known = level.prefixes[place] == hashes
        alive, place = alive[known], place[known]
        counts = level.first[place + 1] - level.first[place]
        start = np.repeat(alive, counts)
        offset = np.arange(len(start)) - np.repeat(np.cumsum(counts) - counts, counts)
        row = np.repeat(level.first[place], counts) + offset
        fits = start + level.lengths[row] <= len(text.ids)
        start, row = start[fits], row[fits]
        same = text.hashes.of(start, level.lengths[row]) == level.hashes[row]
        rules.append(level.rules[row[same]])
        starts.append(start[same])
    if not rules:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return np.concatenate(rules), np.concatenate(starts)


def _outermost(starts: Ints, ends: Ints) -> NDArray[np.bool_]:
    """Which runs, sorted by their beginnings and the longest first, lie within no other."""
    outer = np.ones(len(ends), bool)
    if len(ends):
        outer[1:] = ends[1:] > np.maximum.accumulate(ends)[:-1]
    return outer
