"""Ragged rows to padded places and back, differentiably, without scattered additions.

Legend: T tokens, S spans, K chunks, Q chunk size, W window, E places (padding included).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cairn.ops.gradient import once, run
from cairn.ops.kept import kept
from cairn.ops.transfer import sent
from cairn.ops.triton.tables import Tables


@dataclass(frozen=True)
class Places:
    """A one-to-one map of T tokens into E >= T places; the other places are padding.

    Padding reads a token of its own span, so that what is wrong in one span stays there.
    """

    index: Tensor
    """int64 [E]: the token that each place reads."""
    place: Tensor
    """int64 [T]: the place of each token."""
    pads: Tensor | None
    """int64: places that are padding; None where there is none."""
    identity: bool
    """Whether place e is token e for all: then nothing has to move."""

    @classmethod
    def of(
        cls, index: np.ndarray, valid: np.ndarray, tokens: int, device: torch.device
    ) -> "Places":
        """From the token at every place [E] and whether the place is no padding [E]."""
        place = np.empty(tokens, np.int64)
        places = np.flatnonzero(valid)
        place[index[places]] = places
        pads = np.flatnonzero(~valid)
        identity = len(pads) == 0 and bool((place == np.arange(tokens)).all())
        return cls(
            index=_to(index, device),
            place=_to(place, device),
            pads=_to(pads, device) if len(pads) else None,
            identity=identity,
        )

    def pad(self, x: Tensor) -> Tensor:
        """[T, ...] to [E, ...]; what padding holds is finite where x is, and has no gradient."""
        if self.identity:
            return x
        return run(_Rows, x, self.index, self.place, None)

    def unpad(self, y: Tensor) -> Tensor:
        """[E, ...] to [T, ...]; padding is dropped."""
        if self.identity:
            return y
        return run(_Rows, y, self.place, self.index, self.pads)


class _Rows(torch.autograd.Function):
    """x[there]; backward is a gather as well, since `back` inverts `there` but for padding."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, there: Tensor, back: Tensor, pads: Tensor | None) -> Tensor:
        ctx.save_for_backward(back, pads)
        return x.index_select(0, there)

    @staticmethod
    @once
    def backward(ctx: Any, *grads: Tensor) -> Any:
        back, pads = ctx.saved_tensors
        grad = grads[0].index_select(0, back)
        if pads is not None:
            grad.index_fill_(0, pads, 0)
        return grad, None, None, None


@dataclass(frozen=True)
class Chunks:
    """Spans cut into chunks of at most Q tokens, ordered by step, then by falling length.

    Chunk number c of every span that is long enough is at step c: a contiguous run of chunks,
    whose spans are the first `steps[c]` in `order`. So a recurrence over chunks only slices.
    What only one path needs is laid out when that path first asks.
    """

    lengths: tuple[int, ...]
    """Tokens of each span, 0 allowed."""
    size: int
    """Q."""
    window: int
    """W."""
    device: torch.device
    """Where the tensors below are."""

    @classmethod
    def of(
        cls, lengths: Sequence[int], size: int, window: int, device: torch.device | str
    ) -> "Chunks":
        """Cut spans of these lengths (0 allowed) into chunks of at most `size` tokens."""
        return _chunks(tuple(lengths), size, window, torch.device(device))

    @property
    def spans(self) -> int:
        """S."""
        return len(self.lengths)

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest span."""
        return max(self.lengths)

    @property
    def chunks(self) -> int:
        """K."""
        return sum(self.steps)

    @cached_property
    def steps(self) -> tuple[int, ...]:
        """How many spans have a chunk at each step; sums to K."""
        return tuple(len(spans) for spans in self._span_steps)

    @cached_property
    def bounds(self) -> Tensor:
        """int64 [S + 1]: span s is tokens bounds[s] to bounds[s + 1]."""
        return _to(np.concatenate([[0], np.cumsum(self._length)]), self.device)

    @cached_property
    def tables(self) -> Tables:
        """The spans as kernels read them."""
        return Tables.of(self.lengths, self.device)

    @cached_property
    def places(self) -> Places:
        """Tokens to [K * Q] places."""
        span, first = self._cuts
        length, start = self._length, self._start
        position = first[:, None] + np.arange(self.size)
        valid = position < length[span][:, None]
        index = start[span][:, None] + np.minimum(position, length[span][:, None] - 1)
        return Places.of(index.ravel(), valid.ravel(), int(length.sum()), self.device)

    @cached_property
    def order(self) -> Tensor | None:
        """int64 [S]: spans by falling number of chunks; None where that is the given order."""
        return None if self._in_order else _to(self._order, self.device)

    @cached_property
    def rank(self) -> Tensor | None:
        """int64 [S]: the inverse of `order`."""
        return None if self._in_order else _to(np.argsort(self._order), self.device)

    @cached_property
    def halo(self) -> "Halo":
        """Where the convolution finds the inputs before each chunk."""
        span, first = self._cuts
        window = self.window
        return Halo.of(self._length, self._start, span, first, self.size, window, self.device)

    # -- on the host ---------------------------------------------------------------------------

    @cached_property
    def _length(self) -> np.ndarray:
        return np.asarray(self.lengths, np.int64)

    @cached_property
    def _start(self) -> np.ndarray:
        return np.cumsum(self._length) - self._length

    @cached_property
    def _counts(self) -> np.ndarray:
        return -(-self._length // self.size)

    @cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(-self._counts, kind="stable")

    @property
    def _in_order(self) -> bool:
        return bool((self._order == np.arange(self.spans)).all())

    @cached_property
    def _span_steps(self) -> list[np.ndarray]:
        """The spans that have a chunk at each step."""
        counts = self._counts[self._order]
        return [self._order[: (counts > c).sum()] for c in range(int(counts.max(initial=0)))]

    @cached_property
    def _cuts(self) -> tuple[np.ndarray, np.ndarray]:
        """The span of every chunk and the position that it begins at, [K] each."""
        span = np.concatenate(self._span_steps or [self._order[:0]])
        return span, np.repeat(np.arange(len(self.steps)) * self.size, self.steps)


@kept(8)
def _chunks(lengths: tuple[int, ...], size: int, window: int, device: torch.device) -> Chunks:
    """Kept, since decoding cuts the same lengths at every step, and so do all layers."""
    return Chunks(lengths, max(1, min(size, max(lengths, default=1))), window, device)


@dataclass(frozen=True)
class Halo:
    """The inputs of a causal convolution: each chunk with the W inputs before it.

    Rows are tokens, but the first rows of a span come from its carried window [S, W].
    """

    index: Tensor
    """int64 [K * (W + Q)]: the token that each row reads."""
    before: Tensor
    """int64: rows of `index` that lie before their span, hence are in the window."""
    before_source: Tensor
    """int64: their places in the window, flattened [S * W]."""
    inside: Tensor
    """int64: rows among the first W of every chunk that are tokens of earlier chunks."""
    inside_token: Tensor
    """int64: those tokens."""
    token_row: Tensor
    """int64 [T]: the row of each token in its own chunk."""
    tail: Tensor
    """int64 [S * W]: the last W tokens of every span."""
    tail_before: Tensor
    """int64: places of `tail` that still are in the old window."""
    tail_source: Tensor
    """int64: their places in the old window."""

    @classmethod
    def of(
        cls,
        length: np.ndarray,
        start: np.ndarray,
        span: np.ndarray,
        first: np.ndarray,
        size: int,
        window: int,
        device: torch.device,
    ) -> "Halo":
        """For chunks that begin at position `first` of their `span`."""
        position = first[:, None] + np.arange(-window, size)
        before = position < 0
        last = length[span][:, None] - 1
        index = start[span][:, None] + np.clip(position, 0, last)
        source = span[:, None] * window + np.maximum(position, -window) + window
        inside = ~before & (np.arange(-window, size) < 0)
        tail = length[:, None] + np.arange(-window, 0)
        tail_before = tail < 0
        tail_source = np.arange(len(length))[:, None] * window + tail + window
        top = max(int(length.sum()) - 1, 0)
        own = (position >= first[:, None]) & (position <= last)
        token_row = np.empty(top + 1 if len(first) else 0, np.int64)
        token_row[index[own]] = np.flatnonzero(own)
        return cls(
            index=_to(index.ravel(), device),
            before=_to(np.flatnonzero(before), device),
            before_source=_to(source[before], device),
            inside=_to(np.flatnonzero(inside), device),
            inside_token=_to(index[inside], device),
            token_row=_to(token_row, device),
            tail=_to(np.clip(start[:, None] + np.maximum(tail, 0), 0, top).ravel(), device),
            tail_before=_to(np.flatnonzero(tail_before), device),
            tail_source=_to(tail_source[tail_before], device),
        )


def _to(array: np.ndarray, device: torch.device) -> Tensor:
    return sent(torch.from_numpy(np.ascontiguousarray(array, np.int64)), device)
