"""Texts that are like a rule: other holders, other words, passages left out or put in."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from cairn.curate.licences.blocks import Block, Work, blocks
from cairn.curate.licences.candidates import candidates, least_words, shared
from cairn.curate.licences.matches import Match, is_dense, is_scattered, make
from cairn.curate.licences.table import SMALL, Ints, Table
from cairn.curate.licences.words import Text

NEAR, TOP = 10, 70  # rules held word by word against the whole text, and against a passage
GAP = 50  # words between two parts of a match
SHORTEST = 10  # words: a shorter rule must stand whole, and then it is found as it is
BLANK = 15  # lines without a telling word that end a passage
WORK = 40  # microseconds, roughly, that each word of a text may cost, and any text at all
WORK_AT_LEAST = 500_000


def approximate(
    text: Text, table: Table, free: NDArray[np.bool_], known: NDArray[np.bool_]
) -> list[Match]:
    """Matches with parts of rules: of the whole text first, then of each passage.

    `free`: words that are in no long text found already; `known`: words in any exact match.
    """
    telling = text.ids < table.telling
    work = Work(WORK * len(text.ids) + WORK_AT_LEAST)
    found: list[Match] = []
    everywhere = shared(text.ids, table)
    rules = candidates(everywhere, table, NEAR, alike=True)
    everything = np.ones(len(text.ids), bool)
    free = free.copy()
    for rule in rules:
        equal = _equal(text, table, rule, everything, (0, len(text.ids)), work)
        for i, _, size in equal:
            free[i : i + size] = False
        found += _matches(text, table, rule, equal)
    for begin, end in _passages(text, telling):
        if not (telling & free & ~known)[begin:end].any():
            continue
        part = text.ids[begin:end][free[begin:end]]
        same = everywhere if len(part) == len(text.ids) else shared(part, table)
        for rule in candidates(same, table, TOP, alike=False):
            if table.length[rule] >= SHORTEST:
                equal = _equal(text, table, rule, free, (begin, end), work)
                found += _matches(text, table, rule, equal)
    return found


def _passages(text: Text, telling: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Stretches of words between many lines that tell nothing."""
    lines = text.line[telling]
    begin = 0
    for edge in np.flatnonzero(np.diff(lines) > BLANK).tolist():
        end = int(np.searchsorted(text.line, lines[edge] + BLANK, side="right"))
        if end > begin:
            yield begin, end
        begin = end
    if begin < len(text.ids):
        yield begin, len(text.ids)


def _equal(
    text: Text,
    table: Table,
    rule: int,
    free: NDArray[np.bool_],
    within: tuple[int, int],
    work: Work,
) -> list[Block]:
    words = table.words_of(rule).astype(np.int64)
    return blocks(text.ids, free, words, table.telling, within, work)


def _matches(text: Text, table: Table, rule: int, equal: list[Block]) -> list[Match]:
    """Matches of chains of blocks, if they are enough of the rule."""
    matches = []
    for chain in _chains(equal, int(table.length[rule])):
        outer = np.concatenate([np.arange(i, i + size) for i, _, size in chain])
        inner = np.concatenate([np.arange(j, j + size) for _, j, size in chain])
        match = make(table, text, rule, outer.tolist(), (int(inner[0]), int(inner[-1])))
        if _is_enough(match, table, text, outer, inner):
            matches.append(match)
    return matches


def _chains(found: list[Block], length: int) -> list[list[Block]]:
    """Blocks that follow each other in text and rule without a wide gap, as one match each."""
    widest = min(length // 2 or 1, GAP)
    chains: list[list[Block]] = []
    for i, j, size in sorted(found):
        for chain in chains[-1:]:
            last_i, last_j, last_size = chain[-1]
            gap, step = i - last_i - last_size + 1, j - last_j - last_size + 1
            if gap > 0 and 0 < step <= widest and gap <= widest:
                chain.append((i, j, size))
                break
        else:
            chains.append([(i, j, size)])
    return chains


def _is_enough(match: Match, table: Table, text: Text, outer: Ints, inner: Ints) -> bool:
    """Whether a part of a rule is as much as the rule asks for."""
    least, telling = (column[match.rule] for column in least_words())
    if match.size < least or match.telling < telling or not is_dense(match):
        return False
    if match.length < SMALL and match.coverage < 0.8:
        return False
    if match.coverage * 100 < table.coverage[match.rule] or is_scattered(match):
        return False
    for first, last in table.phrases.get(match.rule, ()):
        place = int(np.searchsorted(inner, first))
        span = outer[place : place + last - first]
        if (
            len(span) < last - first
            or inner[place] != first
            or inner[place + len(span) - 1] != last - 1
        ):
            return False
        if span[-1] - span[0] != len(span) - 1 or text.unknown_within(span[0], span[-1]):
            return False
    return True
