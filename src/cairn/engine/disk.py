"""Prefixes to files and back: which pages go there, and where they are put. No torch.

Of layers with a sliding window a file holds the pages that the next token looks at: those before
are given back long before a prompt ends. Each file has what its own end needs, or the files that it
goes on from have.
"""

from collections.abc import Sequence as Items
from typing import TYPE_CHECKING, Any

from cairn.engine.memory import Ahead
from cairn.engine.nodes import Match
from cairn.engine.pages import NULL, PAGE
from cairn.engine.sequence import Sequence
from cairn.engine.snapshots import LEAST

if TYPE_CHECKING:
    from cairn.engine.allocation import Allocation


def _missing(allocation: "Allocation", tokens: list[int], match: Match) -> list[Any]:
    """The files that bring more than `match` has, in order."""
    assert allocation.archive is not None
    chain = allocation.archive.find(tokens, len(tokens) - 1)
    if not chain or chain[-1].position <= match.position:
        return []
    windows = any(window is not None for window in allocation.windows)  # pages fall out of them
    return [
        entry
        for entry in chain
        if windows
        or entry.position > PAGE * len(match.path)
        or (allocation.recurrent and entry.position > match.position)
    ]


def reads(allocation: "Allocation", sequence: Sequence) -> bool:
    """Whether files of a waiting sequence's prefix are still being read: they begin to be."""
    archive, tree = allocation.archive, allocation.tree
    if archive is None or tree is None or not sequence.reuse or sequence.swapped:
        return False
    ahead = _ahead(allocation, sequence)
    if ahead is None:
        tokens = sequence.tokens(0, sequence.length)
        match = tree.match(tokens, len(tokens) - 1)
        ahead = archive.ahead(_missing(allocation, tokens, match))
        drop_ahead(sequence)
        sequence.coming = (tree.epoch, ahead)
    return not ahead.ready


def drop_ahead(sequence: Sequence) -> None:
    """Let go of what was read for a sequence."""
    if sequence.coming is not None:
        sequence.coming[1].drop()
        sequence.coming = None


def _ahead(allocation: "Allocation", sequence: Sequence) -> Ahead | None:
    """What is read for a sequence; None if nothing is, or what other weights computed."""
    epoch, ahead = sequence.coming or (None, None)
    return ahead if allocation.tree is not None and epoch == allocation.tree.epoch else None


def recall(allocation: "Allocation", sequence: Sequence, match: Match) -> bool:
    """Bring what is on disk and goes beyond `match` into the tree; whether any did."""
    archive, tree, groups = allocation.archive, allocation.tree, allocation.groups
    assert archive is not None
    assert tree is not None
    tokens, ahead = sequence.tokens(0, sequence.length), _ahead(allocation, sequence)
    came = False
    for entry in _missing(allocation, tokens, match):
        known = ahead is not None and ahead.has(entry)
        found = ahead.take(entry) if ahead is not None and known else archive.read(entry)
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
