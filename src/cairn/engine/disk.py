"""Prefixes to files and back: which pages go there, and where they are put. No torch.

Of layers with a sliding window a file holds the pages that the next token looks at: those before
are given back long before a prompt ends. Each file has what its own end needs, or the files that it
goes on from have.
"""

from collections.abc import Sequence as Items
from typing import TYPE_CHECKING, Any

from cairn.engine.nodes import Match
from cairn.engine.pages import NULL, PAGE
from cairn.engine.sequence import Sequence
from cairn.engine.snapshots import LEAST

if TYPE_CHECKING:
    from cairn.engine.allocation import Allocation


def recall(allocation: "Allocation", tokens: list[int], match: Match) -> bool:
    """Bring what is on disk and goes beyond `match` into the tree; whether any did."""
    archive, tree, groups = allocation.archive, allocation.tree, allocation.groups
    assert archive is not None
    assert tree is not None
    chain = archive.find(tokens, len(tokens) - 1)
    if not chain or chain[-1].position <= match.position:
        return False
    came = False
    for entry in chain:
        wanted = allocation.recurrent and entry.position > match.position
        wanted |= any(window is not None for window in allocation.windows)  # pages fall out of it
        if entry.position <= PAGE * len(match.path) and not wanted:
            continue
        found = archive.read(entry)
        first, last = entry.start // PAGE, entry.position // PAGE
        firsts = [first + skipped for skipped in entry.skipped] or [first] * len(groups)
        counts = [last - one for one in firsts]
        room = zip(groups, counts, strict=True)
        if found is None or any(g.count - g.busy < count for g, count in room):
            break
        block, copy = found
        own: list[list[int]] = [[] for _ in groups]
        try:
            for group, count in enumerate(counts):
                for _ in range(count):
                    own[group].append(allocation.take(group))
            allocation.memory.store(block, own)
            pages = [[NULL] * one + taken for one, taken in zip(firsts, own, strict=True)]
            if copy is not None and tree.most_states:
                tree.keep(tokens[: entry.position], pages, copy)
            else:
                tree.insert(tokens[: entry.position], pages)
        finally:  # the tree holds them now, or nobody
            for allocator, taken in zip(groups, own, strict=True):
                for page in taken:
                    allocator.leave(page)
        allocation.counts.from_disk += (last - first) * PAGE
        came = True
    return came


def write(allocation: "Allocation", sequence: Sequence) -> None:
    """Put the end of what the sequence computed on disk, and the state that it began with."""
    archive = allocation.archive
    if archive is None or sequence.computed < LEAST:
        return
    ends: list[tuple[int, Any]] = [(sequence.computed // PAGE * PAGE, None)]
    if allocation.recurrent:
        ends = [*sequence.saved[-1:]]
        if sequence.began is not None and sequence.began.copy is not None:
            ends.insert(0, (sequence.began.position, sequence.began.copy))
    for position, copy in ends:
        if position % PAGE or not position:
            continue
        tokens = sequence.tokens(0, position)
        start = archive.reach(tokens)
        each = zip(sequence.pages, allocation.windows, strict=True)
        firsts = [_first(pages, window, position) for pages, window in each]
        if start >= position or None in firsts:
            continue
        skipped = [max(0, (first or 0) - start // PAGE) for first in firsts]
        held = [
            pages[start // PAGE + skip : position // PAGE]
            for pages, skip in zip(sequence.pages, skipped, strict=True)
        ]
        archive.write(tokens, start, allocation.memory.fetch(held), copy, skipped)


def _first(pages: Items[int], window: int | None, position: int) -> int | None:
    """The first page that the token after `position` looks at; None where one is gone."""
    first = 0 if window is None else max(0, position - window + 1) // PAGE
    return None if NULL in pages[first : position // PAGE] else first
