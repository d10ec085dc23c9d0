"""Runs of words that are a rule, word for word."""

import numpy as np

from cairn.curate.licences import table as t
from cairn.curate.licences.matches import Match, is_scattered, make
from cairn.curate.licences.table import Ints, Table
from cairn.curate.licences.words import Text


def exact(text: Text, table: Table) -> list[Match]:
    """Matches of whole rules that stand in no longer one, and are not broken where they must not.

    A run of words is looked up by its first 1, 2, 4 ... words, so the time is linear in the text
    but for the rules that begin alike.
    """
    rules, starts = _runs(text, table)
    ends = starts + table.length[rules] - 1
    flags = table.flags[rules]
    broken = text.unknown[ends] > text.unknown[starts]
    fine = ~(broken & ((flags & (t.CONTINUOUS | t.PHRASE)) > 0))
    for at in np.nonzero(broken & fine)[0].tolist():
        phrases = table.phrases.get(int(rules[at]))
        if phrases is not None:
            start = int(starts[at])
            fine[at] = not any(text.unknown_within(start + a, start + b - 1) for a, b in phrases)
    wide = (text.line[ends] - text.line[starts] + 1) > ends - starts + 3
    fine &= ~((table.length[rules] < t.SMALL) & wide)
    rules, starts, ends = _outermost(rules[fine], starts[fine], ends[fine])
    made = (
        make(table, text, rule, range(start, end + 1), (0, end - start))
        for rule, start, end in zip(rules.tolist(), starts.tolist(), ends.tolist(), strict=True)
    )
    return [match for match in made if not is_scattered(match)]


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


def _outermost(rules: Ints, starts: Ints, ends: Ints) -> tuple[Ints, Ints, Ints]:
    """Without the runs that lie within another."""
    order = np.lexsort((-ends, starts))
    rules, starts, ends = rules[order], starts[order], ends[order]
    if len(ends):
        reach = np.maximum.accumulate(ends)
        outer = np.ones(len(ends), bool)
        outer[1:] = ends[1:] > reach[:-1]
        rules, starts, ends = rules[outer], starts[outer], ends[outer]
    return rules, starts, ends
