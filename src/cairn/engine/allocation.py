"""Which pages a sequence has: taken as it grows, shared where a prefix is cached, given back.

Pure bookkeeping over `Memory`, no torch.
"""

import logging
from dataclasses import dataclass
from typing import Any

from cairn.engine.counts import Counts
from cairn.engine.disk import drop_ahead, recall, write
from cairn.engine.memory import Memory, Store
from cairn.engine.nodes import Match, Node
from cairn.engine.pages import NULL, PAGE, Pages
from cairn.engine.prefix import PrefixTree
from cairn.engine.sequence import Sequence
from cairn.engine.snapshots import LEAST, marks

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Swapped:
    """The memory of a sequence outside the pools."""

    block: Any
    places: list[list[int]]
    """For each group, which of the sequence's pages are in the block."""
    state: Any


class Allocation:
    """Pages of every group for every sequence; with a tree, prefixes are shared and cached.

    `groups` has an allocator for each group of attention layers, `windows` how far it looks back
    (None: to the beginning). `recurrent` says whether slots hold a state. `swap` is how many
    pages may be outside the pools at a time.
    """

    def __init__(
        self,
        memory: Memory,
        groups: list[Pages],
        windows: list[int | None],
        recurrent: bool,
        tree: PrefixTree | None = None,
        swap: int = 0,
        every: int | None = None,
        archive: Store | None = None,
    ) -> None:
        self.memory, self.groups, self.windows = memory, groups, windows
        self.recurrent, self.tree, self.every = recurrent, tree, every
        self.archive = archive
        self.counts = Counts()
        self._swap_left = swap
        self._soiled: set[tuple[int, int]] = set()  # groups and pages that could not be scrubbed

    def begin(self, sequence: Sequence) -> bool:
        """Give a sequence that has a slot the pages that it needs to go on, or nothing: False.

        Where that raises, the sequence has nothing either, and would begin anew.
        """
        try:
            if sequence.swapped is not None:
                return self._swap_in(sequence)
            return self._begin(sequence)
        except BaseException:
            self.leave(sequence)
            sequence.computed = 0
            raise

    def _begin(self, sequence: Sequence) -> bool:
        tokens = sequence.tokens(0, sequence.length)
        match = Match((), None, 0)
        while True:
            if self.tree is not None and sequence.reuse:
                match = self.tree.match(tokens, len(tokens) - 1)
                if self.archive is not None and recall(self, sequence, match):
                    match = self.tree.match(tokens, len(tokens) - 1)
            if not self._fits(match, len(tokens)):
                return False
            sequence.pages = [[] for _ in self.groups]
            if self._enter(sequence, match):
                break
            self.leave(sequence)  # a page of the prefix was damaged and is gone: look again
        drop_ahead(sequence)
        self.counts.prompt_tokens += len(tokens)
        sequence.epoch = self.tree.epoch if self.tree is not None else 0
        if self.tree is not None and self.recurrent and self.tree.most_states:
            found = marks(sequence.computed, len(tokens), match.keys, self.every)
            sequence.marks = found[::-1]
        for group, window in enumerate(self.windows):
            if window is None:
                taken = self._extend(sequence, group, len(tokens))
                assert taken, "what fits was found not to"
        return True

    def extend(self, sequence: Sequence, stop: int) -> bool:
        """See that the sequence has pages for its first `stop` tokens; False if there are none."""
        return all(self._extend(sequence, group, stop) for group in range(len(self.groups)))

    def advance(self, sequence: Sequence, computed: int) -> None:
        """The first `computed` tokens of the sequence went through the model."""
        sequence.computed = computed
        if sequence.marks and sequence.marks[-1] == computed:
            sequence.marks.pop()
            sequence.saved.append((computed, self.memory.save(_slot(sequence))))
        while sequence.marks and sequence.marks[-1] <= computed:
            sequence.marks.pop()
        whole = computed // PAGE * PAGE  # where others may go on from: what that looks at stays
        for group, window in enumerate(self.windows):
            if window is not None:
                self._trim(sequence, group, max(0, whole - window + 1) // PAGE)

    def publish(self, sequence: Sequence, last: bool = False) -> None:
        """Cache what the sequence computed; with `last`, also the state that it ends with."""
        tree = self.tree
        sequence.sound = True
        if tree is None or sequence.epoch != tree.epoch:
            sequence.saved = []
            return
        if self.archive is not None:
            write(self, sequence)
        for position, copy in sequence.saved:
            tree.keep(sequence.tokens(0, position), sequence.pages, copy)
            self.counts.states_kept += 1
        sequence.saved = []
        if sequence.computed < LEAST:
            return
        tokens = sequence.tokens(0, sequence.computed)
        if last and self.recurrent and tree.most_states and not tree.kept(tokens):
            tree.keep(tokens, sequence.pages, self.memory.save(_slot(sequence)))
            self.counts.states_kept += 1
        else:
            tree.insert(tokens, sequence.pages)

    def will_keep(self, sequence: Sequence, least: int, most: int) -> bool:
        """Whether reading a prompt leaves a prefix of `least` to `most` tokens to others.

        Where that takes a state between the two and none is planned, it is planned now.
        """
        if most < least:
            return False
        if self.tree is None or self.tree.most_states is None:
            return True
        planned = [*sequence.marks, *(position for position, _ in sequence.saved)]
        if any(least <= position <= most for position in planned):
            return True
        if not self.tree.most_states or not sequence.computed < most < sequence.length:
            return False
        sequence.marks = sorted({*sequence.marks, most}, reverse=True)
        return True

    def leave(self, sequence: Sequence) -> None:
        """Take back all that the sequence has."""
        for group, (allocator, pages) in enumerate(zip(self.groups, sequence.pages, strict=False)):
            if not sequence.sound:
                own = [page for page in pages if page != NULL and allocator.exclusive(page)]
                self._scrub(group, own)
            for page in pages:
                if page != NULL:
                    allocator.leave(page)
        if sequence.swapped is not None:
            self._swap_left += sum(len(places) for places in sequence.swapped.places)
            sequence.swapped = None
        sequence.pages, sequence.marks, sequence.saved = [], [], []
        drop_ahead(sequence)

    def _scrub(self, group: int, pages: list[int]) -> None:
        """Clean pages before they are free; where that fails, before somebody takes them."""
        try:
            self.memory.scrub(group, pages)
        except Exception as error:
            log.warning("%d pages are cleaned later: %s", len(pages), error)
            self._soiled.update((group, page) for page in pages)

    def preempt(self, sequence: Sequence, swap: bool | None) -> None:
        """Free the pages of a running sequence; `swap` None moves them out if there is room."""
        places = [[i for i, page in enumerate(own) if page != NULL] for own in sequence.pages]
        size = sum(len(own) for own in places)
        if swap is not False and sequence.computed and size <= self._swap_left:
            held = [[own[i] for i in at] for own, at in zip(sequence.pages, places, strict=True)]
            state = self.memory.save(_slot(sequence)) if self.recurrent else None
            out = Swapped(self.memory.fetch(held), places, state)
            marked, saved = sequence.marks, sequence.saved
            self._swap_left -= size
            self.leave(sequence)
            sequence.marks, sequence.saved, sequence.swapped = marked, saved, out
            self.counts.swapped += 1
            return
        if sequence.sound:
            self.publish(sequence, last=True)
        self.leave(sequence)
        sequence.computed = 0
        self.counts.recomputed += 1

    def _fits(self, match: Match, length: int) -> bool:
        """Whether the pages of a sequence can be had without taking any from another."""
        for group, (allocator, window) in enumerate(zip(self.groups, self.windows, strict=True)):
            need = _pages(length)
            if window is not None:
                need = min(need, _pages(window) + 2)
            for node in match.path[: match.position // PAGE]:
                page = node.pages[group]
                need -= page != NULL and allocator.used(page) and not allocator.consecutive
            need += match.state is not None and bool(match.state.tail)
            if need > allocator.count - allocator.busy:
                return False
        return True

    def _enter(self, sequence: Sequence, match: Match) -> bool:
        """Begin the sequence after its cached prefix; False if that could not be read back."""
        slot = _slot(sequence)
        if self.tree is not None:
            self.tree.touch(match)
            if not self._share(sequence, match):
                return False
        if match.state is not None:
            self.memory.restore(slot, match.state.copy)
        else:
            self.memory.clear(slot)
        for group, pages in enumerate(sequence.pages):
            self.memory.assign(slot, group, 0, pages)
        sequence.computed = match.position
        sequence.matched = (match.keys, match.position)
        sequence.began = match.state
        self.counts.keys_matched += match.keys
        self.counts.state_matched += match.position
        self.counts.replayed += match.keys - match.position
        self.counts.hits += match.position > 0
        return True

    def _share(self, sequence: Sequence, match: Match) -> bool:
        """Let the sequence use the cached pages of a match; False if one could not be read."""
        path = match.path[: match.position // PAGE]
        begun = match.state.pages if match.state is not None else []
        for group, allocator in enumerate(self.groups):
            sequence.pages[group] = [node.pages[group] for node in path]
            # First of all, so that none of them is evicted to make room for another.
            for page in (*sequence.pages[group], *begun[group : group + 1]):
                if page != NULL:
                    allocator.share(page)
        try:
            for number, node in enumerate(path):
                if node.parent is None:  # it went to make room for one before it
                    return False
                if node.block is None or node.resident:
                    continue  # without either, it lies before the window of every group
                if not self._load(sequence, number, node):
                    return False
            for group, allocator in enumerate(self.groups):
                if allocator.consecutive:
                    self._settle_apart(sequence, group)
                if begun and begun[group] != NULL:
                    own = self.take(group, _after(sequence.pages[group]))
                    assert own != NULL, "what fits was found not to"
                    sequence.pages[group].append(own)
                    self.memory.copy(group, [begun[group]], [own])
        finally:
            for allocator, page in zip(self.groups, begun, strict=False):
                if page != NULL:
                    allocator.leave(page)
        return True

    def _load(self, sequence: Sequence, number: int, node: Node) -> bool:
        """Bring a page back from a lower tier; where it cannot be read, it leaves the tree.

        False too where it went while room was made for it: what is evicted takes its place below.
        """
        assert self.tree is not None
        block = node.block
        assert block is not None
        pages = [NULL] * len(self.groups)
        for group, there in enumerate(block.groups):
            if there:
                before = sequence.pages[group][number - 1] if number else NULL
                pages[group] = self.take(group, before + 1 if before else NULL)
                sequence.pages[group][number] = pages[group]
        if node.parent is None:
            return False
        if not self.memory.store(block.copy, _lists(pages)):
            self.tree.lose(node)
            return False
        self.tree.settle(node, pages)
        self.counts.blocks_read += 1
        return True

    def _settle_apart(self, sequence: Sequence, group: int) -> None:
        """Copy shared pages into a run of the sequence's own, where there is room in plenty.

        One copy for each request is less than gathering scattered pages at every step.
        """
        allocator, pages = self.groups[group], sequence.pages[group]
        shared = [page for page in pages if page != NULL]
        if not shared or allocator.free < 2 * len(shared):
            return
        own, after = [], allocator.home(_slot(sequence))
        try:
            for _ in shared:
                own.append(self.take(group, after))
                after = own[-1] + 1
            self.memory.copy(group, shared, own)
        except BaseException:
            for page in own:
                allocator.leave(page)
            raise
        for page in shared:
            allocator.leave(page)
        fresh = iter(own)
        pages[:] = [NULL if page == NULL else next(fresh) for page in pages]

    def _extend(self, sequence: Sequence, group: int, stop: int) -> bool:
        pages = sequence.pages[group]
        first, need = len(pages), _pages(stop)
        if need <= first:
            return True
        while len(pages) < need:
            wanted = _after(pages) if pages else self.groups[group].home(_slot(sequence))
            page = self.take(group, wanted)
            if page == NULL:
                break
            pages.append(page)
        if len(pages) > first:
            self.memory.assign(_slot(sequence), group, first, pages[first:])
        return len(pages) == need

    def take(self, group: int, wanted: int = NULL) -> int:
        """A page, at the cost of a cached one if need be; NULL if sequences use them all."""
        allocator = self.groups[group]
        while not allocator.free:
            if self.tree is None or not self.tree.evict():
                return NULL
        page = allocator.take(wanted)
        if (group, page) in self._soiled:
            try:
                self.memory.scrub(group, [page])
            except BaseException:
                allocator.leave(page)
                raise
            self._soiled.discard((group, page))
        return page

    def _trim(self, sequence: Sequence, group: int, first: int) -> None:
        """Give back the pages before `first`: no later token looks at them."""
        pages = sequence.pages[group]
        for number in range(min(first, len(pages)) - 1, -1, -1):
            if pages[number] == NULL:
                break
            self.groups[group].leave(pages[number])
            pages[number] = NULL
            self.memory.assign(_slot(sequence), group, number, [NULL])

    def _swap_in(self, sequence: Sequence) -> bool:
        out: Swapped = sequence.swapped
        for allocator, places in zip(self.groups, out.places, strict=True):
            if len(places) + 1 > allocator.count - allocator.busy:
                return False
        slot = _slot(sequence)
        sequence.pages = []
        for group, places in enumerate(out.places):
            pages = [NULL] * (places[-1] + 1 if places else 0)
            sequence.pages.append(pages)
            for place in places:
                pages[place] = self.take(group, pages[place - 1] + 1 if place else NULL)
                assert pages[place] != NULL, "what fits was found not to"
            self.memory.assign(slot, group, 0, pages)
        held = [[own[i] for i in at] for own, at in zip(sequence.pages, out.places, strict=True)]
        if not self.memory.store(out.block, held):
            raise RuntimeError("memory that was swapped out cannot be read back")
        if self.recurrent:
            self.memory.restore(slot, out.state)
        self._swap_left += sum(len(places) for places in out.places)
        sequence.swapped = None
        return True


def _lists(pages: list[int]) -> list[list[int]]:
    return [[page] if page != NULL else [] for page in pages]


def _after(pages: list[int]) -> int:
    """The page that would continue these in a run."""
    return pages[-1] + 1 if pages and pages[-1] != NULL else NULL


def _pages(tokens: int) -> int:
    return -(-tokens // PAGE)


def _slot(sequence: Sequence) -> int:
    assert sequence.slot is not None
    return sequence.slot
