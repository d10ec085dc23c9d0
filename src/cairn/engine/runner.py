"""Slices of sequences through the one forward: flat tokens and spans in, hidden states out."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cairn.engine.pool import Pool
from cairn.engine.scheduler import Slice
from cairn.model import Decoder, Spans

FEW = 8  # tokens: spans up to this long go together, apart from the prompts


@dataclass(frozen=True)
class Rows:
    """Hidden states of one step: `hidden` [T, D], and where each slice's rows begin."""

    hidden: Tensor
    starts: list[int]


@dataclass(frozen=True)
class Held:
    """States from before the slices with drafts."""

    states: tuple[Tensor, ...]
    slots: list[int]


class Runner:
    """One model and the pool that its sequences live in."""

    def __init__(self, model: Decoder, pool: Pool) -> None:
        self.model, self.pool = model, pool

    def run(self, slices: list[Slice]) -> Rows:
        """Compute the slices, in their order; the pool remembers their tokens afterwards.

        Where sequences that draw run beside prompts, each kind has a forward of its own: a scan
        pads every span to a chunk, and a chunk for one token is wasted.
        """
        few = [part for part in slices if part.size <= FEW]
        if not few or len(few) == len(slices) or not self.pool.recurrent:
            hidden = self._forward(slices)
        else:
            many = [part for part in slices if part.size > FEW]
            parts = (
                iter(self._forward(few).split([part.size for part in few])),
                iter(self._forward(many).split([part.size for part in many])),
            )
            hidden = torch.cat([next(parts[part.size > FEW]) for part in slices])
        starts, at = [], 0
        for part in slices:
            starts.append(at)
            at += part.size
        return Rows(hidden, starts)

    def logits(self, rows: Rows, places: list[int]) -> Tensor:
        """Logits [R, V] of the rows at `places`, and of no others."""
        if len(places) == len(rows.hidden):
            return self.model.head(rows.hidden)
        return self.model.head(rows.hidden[torch.tensor(places, device=rows.hidden.device)])

    def hold(self, slices: list[Slice]) -> Held | None:
        """The states that a rejected draft would spoil; None if there are none."""
        slots = [part.slot for part in slices if part.drafts]
        if not slots or not self.pool.recurrent:
            return None
        return Held(self.pool.hold(slots), slots)

    def put_back(self, held: Held, slots: list[int]) -> None:
        """Take back what the drafts did to the states of `slots`."""
        self.pool.put_back(held.states, [held.slots.index(slot) for slot in slots], slots)

    def _forward(self, slices: list[Slice]) -> Tensor:
        tokens: list[int] = []
        for part in slices:
            tokens += part.sequence.tokens(part.start, part.stop)
            tokens += part.drafts
        slots = [part.slot for part in slices]
        self.pool.cache.lengths[slots] = torch.tensor([part.start for part in slices])
        spans = Spans.of([part.size for part in slices], slots)
        return self.model.hidden(torch.tensor(tokens), spans, self.pool.cache)
