"""Which sequences go through the model in the next step, and how many tokens of each.

Pure bookkeeping over `Sequence` and `Allocation`: no tensors, no clock, no text.
"""

import heapq
from bisect import insort
from dataclasses import dataclass

from cairn.base import UserError
from cairn.engine.allocation import Allocation
from cairn.engine.disk import reads
from cairn.engine.pages import PAGE
from cairn.engine.sequence import Sequence

AGING = 64  # steps that a request waits for as much as one level of priority
CATCH_UP = 32  # tokens: a drawing sequence with no more to compute than this counts as decoding
SHARED = 4 * PAGE  # tokens: a request that has so many in common with a prompt waits for it


@dataclass(frozen=True)
class Slice:
    """Tokens `start` to `stop` of one sequence, then its drafts, to be computed in its slot."""

    sequence: Sequence
    slot: int
    start: int
    stop: int
    drafts: tuple[int, ...] = ()

    @property
    def reaches_end(self) -> bool:
        """Whether the logits after it are those that the next token is drawn from."""
        return self.stop == self.sequence.length

    @property
    def size(self) -> int:
        """Tokens that go through the model."""
        return self.stop - self.start + len(self.drafts)


class Scheduler:
    """Continuous batching over a fixed number of slots, and pages that are taken as needed.

    Requests stand in one order: of arrival, in which a level of priority counts as AGING steps.
    The order is total and never changes, so nobody starves: who came early enough goes first.
    Each step carries at most `token_budget` tokens: first the running sequences that await a
    token (decode), then unread prompts in order, cut to what is left (chunked prefill). The
    budget is at least the number of slots, so that every running sequence advances in every step.
    Where pages or slots do not suffice, the last in order is preempted for the first: it is
    swapped out (`swap` True), computed again later (False), or what there is room for (None).
    With `every`, prompts are cut at its multiples alone, so that how a prompt is computed does not
    depend on what else runs.
    """

    def __init__(
        self,
        slots: int,
        token_budget: int,
        allocation: Allocation,
        swap: bool | None = None,
        every: int | None = None,
    ) -> None:
        if slots < 1:
            raise UserError("slots", slots, "is less than 1", "one slot holds one sequence")
        if token_budget < slots:
            raise UserError("token_budget", token_budget, f"is less than the {slots} slots")
        self.slots = slots
        self.token_budget = token_budget
        self.allocation = allocation
        if every is not None and token_budget < slots + every:
            problem = f"is less than the {slots} slots and pieces of {every}"
            raise UserError("token_budget", token_budget, problem, f"give {slots + every}")
        self._swap, self._every = swap, every
        self._waiting: dict[int, Sequence] = {}
        self._queue: list[tuple[tuple[int, int], int]] = []  # a heap of keys and ids of waiting
        self._running: dict[int, Sequence] = {}
        self._order: list[tuple[tuple[int, int], int]] = []  # keys and ids of running, sorted
        self._free = list(range(slots))
        self._steps = self._arrivals = 0
        self.at: Sequence | None = None
        """Whose slot or pages are being changed: where `schedule` raises, nobody else's were."""

    @property
    def waiting(self) -> int:
        """Sequences without a slot."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Sequences with a slot."""
        return len(self._running)

    @property
    def free_slots(self) -> int:
        """Slots without a sequence."""
        return len(self._free)

    def __contains__(self, sequence_id: int) -> bool:
        """Whether a sequence waits or runs here."""
        return sequence_id in self._waiting or sequence_id in self._running

    def drawing(self) -> list[Sequence]:
        """Running sequences whose next slice reaches their end, in order."""
        return [
            one for one in self._sorted() if one.drawn and one.pending <= CATCH_UP and not one.spent
        ]

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence behind those that came before, or before those of less priority."""
        if sequence.id in self:
            raise ValueError(f"sequence {sequence.id} was added before")
        sequence.key = (self._steps - AGING * sequence.priority, self._arrivals)
        self._arrivals += 1
        self._wait(sequence)

    def schedule(self) -> list[Slice]:
        """The slices of the next step, decodes first; empty when there is nothing to do.

        Changes who has a slot and pages; what is computed is booked by `advance`. Whatever the
        memory raises is raised on: then the sequence `at` is to be removed, if there is one, and
        all others stand as if this had not been called.
        """
        self._steps += 1
        self.at = None
        self._jump()
        slices: dict[int, Slice] = {}
        decodes = self.drawing()
        decoding = {one.id for one in decodes}
        prefills = [one for one in self._sorted() if one.id not in decoding and not one.spent]
        left = self.token_budget
        for number, sequence in enumerate((*decodes, *prefills)):
            others = len(decodes) + len(prefills) - number - 1
            if sequence.slot is not None:  # else it was preempted for one of those before it
                left -= self._cut(sequence, left - others, slices)
        left = self.token_budget - sum(part.size for part in slices.values())
        self._admit_all(left, slices)
        return list(slices.values())

    def advance(self, part: Slice, computed: int | None = None) -> None:
        """Book that a slice went through the model, up to `computed` (None: all but drafts)."""
        self.allocation.advance(part.sequence, part.stop if computed is None else computed)

    def confirm(self, sequence: Sequence) -> None:
        """Its first token was drawn from sound logits: what it computed can be shared.

        One that was preempted before that was known has no pages now: its next token says it.
        """
        if sequence.slot is not None:
            self.allocation.publish(sequence)

    def remove(self, sequence_id: int, finished: bool = False) -> Sequence | None:
        """Take a sequence out and free what it has; None if it is not here.

        What a `finished` one computed stays in the prefix cache.
        """
        sequence = self._waiting.pop(sequence_id, None)
        if sequence is None:
            sequence = self._running.get(sequence_id)
        if sequence is None:
            return None
        try:
            if finished and sequence.sound and sequence.slot is not None:
                self.allocation.publish(sequence, last=True)
        finally:  # it leaves, whether or not it could be cached
            if sequence.slot is not None:
                self._stop(sequence)
            self.allocation.leave(sequence)
        return sequence

    def _sorted(self) -> list[Sequence]:
        return [self._running[number] for _, number in self._order]

    def _wait(self, sequence: Sequence) -> None:
        self._waiting[sequence.id] = sequence
        heapq.heappush(self._queue, (sequence.key, sequence.id))

    def _stop(self, sequence: Sequence) -> None:
        """Take a running sequence's slot."""
        assert sequence.slot is not None
        heapq.heappush(self._free, sequence.slot)
        sequence.slot = None
        del self._running[sequence.id]
        self._order.remove((sequence.key, sequence.id))

    def _cut(self, sequence: Sequence, most: int, slices: dict[int, Slice]) -> int:
        """Add the next slice of a running sequence, at most so many tokens; returns its size.

        Sequences later in order lose their pages, and their slices, if it needs them.
        """
        if most < 1:
            return 0
        stop = sequence.computed + min(sequence.pending, most)
        if self._every is not None and stop < sequence.length:
            stop = stop // self._every * self._every
            if stop <= sequence.computed:
                return 0
        if sequence.marks:
            stop = min(stop, sequence.marks[-1])
        drafts: tuple[int, ...] = ()
        if stop == sequence.length:
            drafts = tuple(sequence.drafts[: most - (stop - sequence.computed)])
        freed, self.at = 0, sequence
        while not self.allocation.extend(sequence, stop + len(drafts)):
            if drafts:
                drafts = ()
                continue
            last = self._running[self._order[-1][1]]
            lost = slices.pop(last.id, None)
            freed += lost.size if lost is not None else 0
            self._preempt(last)
            if last is sequence:
                return -freed
            self.at = sequence
        assert sequence.slot is not None
        part = Slice(sequence, sequence.slot, sequence.computed, stop, drafts)
        slices[sequence.id] = part
        return part.size - freed

    def _preempt(self, sequence: Sequence) -> None:
        self.at = sequence
        self.allocation.preempt(sequence, self._swap)
        self._stop(sequence)
        self._wait(sequence)

    def _admit_all(self, left: int, slices: dict[int, Slice]) -> None:
        """Let waiting sequences in, in order, as slots, pages and the budget allow."""
        held_back: list[tuple[tuple[int, int], int]] = []
        try:
            while left > 0 and self._queue:
                entry = self._queue[0]
                sequence = self._waiting.get(entry[1])
                if sequence is None or sequence.key != entry[0]:
                    heapq.heappop(self._queue)  # it was removed meanwhile
                elif self._follows(sequence) or self._reads(sequence):
                    held_back.append(heapq.heappop(self._queue))
                elif self._free and self._admit(sequence):
                    heapq.heappop(self._queue)
                    left -= self._cut(sequence, left, slices)
                    if sequence.slot is None:
                        break  # the pages that it found were not enough to go on with
                else:
                    break
        finally:  # whatever was raised about one, the others stand in line
            for entry in held_back:
                heapq.heappush(self._queue, entry)

    def _jump(self) -> None:
        """Let the first in the queue take the place of running ones of less priority."""
        while self._queue and self._order:
            key, number = self._queue[0]
            sequence = self._waiting.get(number)
            if sequence is None or sequence.key != key:
                heapq.heappop(self._queue)
                continue
            last = self._running[self._order[-1][1]]
            if last.priority >= sequence.priority or last.key < key:
                return
            if self._reads(sequence):
                return
            if self._free and self._admit(sequence):
                heapq.heappop(self._queue)
            else:
                self._preempt(last)

    def _admit(self, sequence: Sequence) -> bool:
        """Give a waiting sequence a slot and pages, if there are pages and its tokens are known."""
        if sequence.ahead:
            return False
        self.at = sequence
        sequence.slot = self._free[0]
        try:
            begun = self.allocation.begin(sequence)
        except BaseException:
            sequence.slot = None
            raise
        if not begun:
            sequence.slot = None
            return False
        heapq.heappop(self._free)
        del self._waiting[sequence.id]
        self._running[sequence.id] = sequence
        insort(self._order, (sequence.key, sequence.id))
        return True

    def _reads(self, sequence: Sequence) -> bool:
        """Whether a prefix is on its way from disk: others go on meanwhile."""
        self.at = sequence
        return reads(self.allocation, sequence)

    def _follows(self, sequence: Sequence) -> bool:
        """Whether a prompt that is being read will soon save it a good part of its own."""
        tree = self.allocation.tree
        if tree is None or not sequence.reuse or sequence.swapped or sequence.length <= SHARED:
            return False
        head = sequence.tokens(0, SHARED)
        leaders = [
            one
            for one in self._running.values()
            if not one.sound and one.length > SHARED and one.tokens(0, SHARED) == head
        ]
        if not leaders:
            return False
        tokens = sequence.tokens(0, sequence.length - 1)
        known = tree.match(tokens, len(tokens)).position
        return any(
            self.allocation.will_keep(one, known + SHARED, _common(tokens, one)) for one in leaders
        )


def _common(tokens: list[int], other: Sequence) -> int:
    """How many whole pages of tokens both begin with, in tokens."""
    theirs = other.tokens(0, other.length)
    count = 0
    while (
        count + PAGE <= len(tokens) and tokens[count : count + PAGE] == theirs[count : count + PAGE]
    ):
        count += PAGE
    return count
