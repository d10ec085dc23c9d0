"""Context parallelism: a list of tokens cut over ranks, and what mixers pass from rank to rank.

Every rank has an equal run of consecutive tokens, so that a span may begin on one rank and end
some ranks later. A convolution takes the inputs before its first token from the rank before; the
scan runs from zeros on all ranks at once and adds what the state before gives, which is linear in
it (Mamba-2, arXiv 2405.21060, section 8); attention reads the keys of all ranks before.
Legend: T tokens of a rank, R ranks, S spans of a rank, H heads, P head width, G groups, N state
size, W taps of the convolution before the current one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from cairn.ops.collectives import gather
from cairn.ops.conv import causal_conv
from cairn.ops.ragged import Chunks
from cairn.ops.scan import ssd_scan


@dataclass(frozen=True)
class Context:
    """Spans over a list of tokens that lies on R ranks; the part of one of them."""

    group: ProcessGroup
    """The ranks, in the order of their tokens."""
    rank: int
    """This one's number in the group."""
    ranks: int
    """R."""
    bounds: tuple[int, ...]
    """Of the spans of the whole list, from 0 to R * T."""

    def __post_init__(self) -> None:
        if self.bounds[-1] % self.ranks:
            raise ValueError(f"{self.bounds[-1]} tokens on {self.ranks} ranks: give equal parts")

    @property
    def tokens(self) -> int:
        """T."""
        return self.bounds[-1] // self.ranks

    @property
    def part(self) -> slice:
        """This rank's tokens in the whole list."""
        return slice(self.rank * self.tokens, (self.rank + 1) * self.tokens)

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each span that lie here; spans that lie elsewhere are not counted."""
        low, high = self.part.start, self.part.stop
        cut = [low, *(bound for bound in self.bounds if low < bound < high), high]
        return tuple(b - a for a, b in pairwise(cut))

    @cached_property
    def before(self) -> int:
        """Tokens of the first span here that lie on earlier ranks."""
        return self._before(self.rank)

    def _before(self, rank: int) -> int:
        start = rank * self.tokens
        return start - max(bound for bound in self.bounds if bound <= start)

    @cached_property
    def givers(self) -> tuple[int, ...]:
        """The ranks, nearest first, that the first span here lies on before it comes here."""
        count = -(-self.before // self.tokens)
        return tuple(range(self.rank - 1, self.rank - 1 - count, -1))


def conv_before(xbc: Tensor, window: int, context: Context) -> Tensor:
    """xbc [T, C] behind the last W rows of the rank before: [W + T, C]; zeros before a span.

    ValueError where a rank has fewer tokens than W.
    """
    if context.tokens < window:
        raise ValueError(f"{context.tokens} tokens a rank are less than {window} taps: take more")
    tails = gather(xbc[-window:], context.group).unflatten(0, (context.ranks, window))
    known = min(window, context.before)
    rows = tails[context.rank - 1]  # of rank 0 nothing is known, so that all of them are masked
    seen = torch.arange(window, device=xbc.device).ge(window - known)
    return torch.cat([torch.where(seen[:, None], rows, 0.0), xbc])


def context_conv(
    xbc: Tensor, weight: Tensor, bias: Tensor | None, chunks: Chunks, context: Context
) -> Tensor:
    """`causal_conv` over the tokens of all ranks: [T, C] to this rank's [T, C]."""
    window = chunks.window
    longer = (chunks.lengths[0] + window, *chunks.lengths[1:])
    wider = Chunks.of(longer, chunks.size, window, chunks.device)
    return causal_conv(conv_before(xbc, window, context), weight, bias, wider)[window:]


def context_scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, chunks: Chunks,
    context: Context,
) -> Tensor:  # fmt: skip
    """`ssd_scan` over the tokens of all ranks: this rank's y [T, H, P]."""
    y, last = ssd_scan(x, dt, A, B, C, D, chunks)
    with torch.autocast(x.device.type, enabled=False):
        step = dt * A  # [T, H], the log of each token's decay
        # What the last span here gives to its next token, and what a rank leaves of a state that
        # passes through it: then it has one span alone. One exchange, so that the backward of
        # every rank takes part in the same ones.
        given = torch.cat([last[-1].flatten(1), step.sum(0)[:, None]], 1)
        ends = gather(given.unsqueeze(0), context.group)  # [R, H, P * N + 1]
        if not context.givers:
            return y + 0.0 * ends.sum()
        state, passed = torch.zeros_like(last[0]), torch.zeros_like(step[0])
        for rank in context.givers:
            state = state + ends[rank, :, :-1].view_as(state) * torch.exp(passed)[:, None, None]
            passed = passed + ends[rank, :, -1]
        first = chunks.lengths[0]
        more = _from_state(state, C[:first], torch.exp(torch.cumsum(step[:first], 0)))
        return torch.cat([y[:first] + more, y[first:]])


def _from_state(state: Tensor, C: Tensor, reach: Tensor) -> Tensor:
    """What a state [H, P, N] before T tokens gives to their outputs: [T, H, P].

    C [T, G, N]; reach [T, H] is what is left of the state at each token.
    """
    states = state.unflatten(0, (C.shape[1], -1)).flatten(1, 2)  # [G, heads of a group * P, N]
    far = (C.transpose(0, 1) @ states.transpose(1, 2)).transpose(0, 1)
    return far.reshape(len(C), *state.shape[:2]) * reach[..., None]


class Keys:
    """Keys and values of all ranks' tokens: what attention reads in place of a memory."""

    def __init__(self, k: Tensor, v: Tensor, lengths: Sequence[int], context: Context) -> None:
        """From this rank's k, v [T, heads, width], and the tokens of its spans."""
        both = gather(torch.stack([k, v], 1), context.group)  # [R * T, 2, heads, width]
        start = context.part.start
        begins = start + np.cumsum([0, *lengths[:-1]])
        begins[0] -= context.before
        self._begins = begins
        self._ends = start + np.cumsum(lengths)
        self.low, self.high = int(begins[0]), context.part.stop
        self._both = both[self.low : self.high]

    @property
    def flat(self) -> tuple[Tensor, Tensor]:
        """Keys and values of this rank's spans [K, heads, width], those on earlier ranks first."""
        return self._both[:, 0], self._both[:, 1]

    def read(self, spans: tuple[int, ...], start: int, stop: int) -> tuple[Tensor, Tensor]:
        """As `attention.ReadMemory`; what is beyond a span's end repeats its last token."""
        which = np.asarray(spans)
        place = self._begins[which][:, None] + np.arange(start, stop)
        place = np.minimum(place, self._ends[which][:, None] - 1) - self.low
        index = torch.from_numpy(place).to(self._both.device)
        found = self._both[index]  # [B, keys, 2, heads, width]
        return found[:, :, 0].transpose(1, 2), found[:, :, 1].transpose(1, 2)
