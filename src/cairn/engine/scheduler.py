"""Which sequences go through the model in the next step, and how many tokens of each.

Pure bookkeeping over `Sequence`: no tensors, no clock, no text.
"""

import heapq
from dataclasses import dataclass

from cairn.base import UserError
from cairn.engine.sequence import Sequence


@dataclass(frozen=True)
class Slice:
    """Tokens `start` to `stop` of one sequence, to be computed in its slot.

    `start == 0` opens the slot anew: what it remembers belongs to somebody else.
    """

    sequence: Sequence
    slot: int
    start: int
    stop: int

    @property
    def reaches_end(self) -> bool:
        """Whether the logits after it are those that the next token is drawn from."""
        return self.stop == self.sequence.length


class Scheduler:
    """Continuous batching over a fixed number of slots, first come, first served.

    Each step carries at most `token_budget` tokens: first the running sequences that await one
    token (decode), then unread prompts in order of arrival, cut to what is left (chunked
    prefill). The budget is at least the number of slots, so no decode waits for a prompt and
    the oldest unread prompt advances in every step.
    """

    def __init__(self, slots: int, token_budget: int) -> None:
        if slots < 1:
            raise UserError("slots", slots, "is less than 1", "one slot holds one sequence")
        if token_budget < slots:
            raise UserError("token_budget", token_budget, f"is less than the {slots} slots")
        self.slots = slots
        self.token_budget = token_budget
        self._waiting: dict[int, Sequence] = {}  # dicts keep the order of arrival
        self._running: dict[int, Sequence] = {}
        self._free = list(range(slots))

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

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence behind those that came before."""
        if sequence.id in self._waiting or sequence.id in self._running:
            raise ValueError(f"sequence {sequence.id} was added before")
        self._waiting[sequence.id] = sequence

    def schedule(self) -> list[Slice]:
        """The slices of the next step, decodes first; empty when there is nothing to do.

        Changes who has a slot; what is computed is booked by `advance`.
        """
        decodes, prefills = [], []
        for sequence in self._running.values():
            decoding = sequence.output and sequence.pending == 1
            (decodes if decoding else prefills).append(sequence)
        slices: list[Slice] = []
        left = self.token_budget
        for sequence in (*decodes, *prefills):
            if left == 0:
                break
            slices.append(_slice(sequence, left))
            left -= slices[-1].stop - slices[-1].start
        while left and self._waiting and self._free:
            slices.append(_slice(self._admit(), left))
            left -= slices[-1].stop - slices[-1].start
        return slices

    def advance(self, slices: list[Slice]) -> None:
        """Book that the slices went through the model."""
        for part in slices:
            part.sequence.computed = part.stop

    def remove(self, sequence_id: int) -> Sequence | None:
        """Take a sequence out, finished or not, and free its slot; None if it is not here."""
        sequence = self._waiting.pop(sequence_id, None)
        if sequence is None:
            sequence = self._running.pop(sequence_id, None)
        if sequence is not None and sequence.slot is not None:
            heapq.heappush(self._free, sequence.slot)
            sequence.slot = None
        return sequence

    def _admit(self) -> Sequence:
        sequence = self._waiting.pop(next(iter(self._waiting)))
        sequence.slot = heapq.heappop(self._free)
        sequence.computed = 0
        self._running[sequence.id] = sequence
        return sequence


def _slice(sequence: Sequence, most: int) -> Slice:
    assert sequence.slot is not None
    stop = sequence.computed + min(sequence.pending, most)
    return Slice(sequence, sequence.slot, sequence.computed, stop)
