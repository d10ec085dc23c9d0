"""Slices of sequences through the one forward: flat tokens and spans in, hidden states out."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cairn.engine.pool import Pool
from cairn.engine.scheduler import Slice
from cairn.model import Decoder, Spans


@dataclass(frozen=True)
class Rows:
    """Hidden states of one step: `hidden` [T, D], and where each slice's rows begin."""

    hidden: Tensor
    starts: list[int]


class Runner:
    """One model and the pool that its sequences live in."""

    def __init__(self, model: Decoder, pool: Pool) -> None:
        self.model, self.pool = model, pool

    def run(self, slices: list[Slice]) -> Rows:
        """Compute the slices, in their order; the pool remembers their tokens afterwards."""
        self.pool.reserve(max(part.stop for part in slices))
        self.pool.open([part.slot for part in slices if part.start == 0])
        tokens: list[int] = []
        starts: list[int] = []
        for part in slices:
            starts.append(len(tokens))
            tokens += part.sequence.tokens(part.start, part.stop)
        lengths = [part.stop - part.start for part in slices]
        spans = Spans.of(lengths, [part.slot for part in slices])
        return Rows(self.model.hidden(torch.tensor(tokens), spans, self.pool.cache), starts)

    def logits(self, rows: Rows, places: list[int]) -> Tensor:
        """Logits [R, V] of the rows at `places`, and of no others."""
        return self.model.head(rows.hidden[torch.tensor(places, device=rows.hidden.device)])
