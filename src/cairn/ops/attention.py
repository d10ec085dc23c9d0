"""Ragged causal attention with grouped queries: spans of like lengths share a padded batch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from inspect import signature
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cairn.ops import paths
from cairn.ops.gradient import recorded
from cairn.ops.native import prompt
from cairn.ops.order import order_is_fixed
from cairn.ops.ragged import Places

if TYPE_CHECKING:
    from cairn.ops.triton.attention import Tables

# Given the numbers of some spans, the keys and values at positions `start` to `stop` of each,
# [B, heads, stop - start, width] both.
ReadMemory = Callable[[tuple[int, ...], int, int], tuple[Tensor, Tensor]]
# Given the numbers of some spans and how many tokens the longest has: the same, in batches.
Split = Callable[[np.ndarray, int], list[np.ndarray]]

STEP = 32  # queries in a batch without memory, beyond as many, are a multiple of this
LEAST_BLOCK = 128  # queries that share a slice of the keys, where a window makes slices


@dataclass(frozen=True)
class Block:
    """Queries `rows` of a batch against the keys at positions `start` to `stop`."""

    rows: slice
    start: int
    stop: int
    mask: Tensor | None
    """bool [B or 1, 1, rows, stop - start], or None where `causal` says all."""
    causal: bool
    """Whether row i sees keys 0 to i of the block; else, without a mask, it sees all."""


@dataclass(frozen=True)
class Attends:
    """Spans that are computed together: padded queries [B, L] in blocks."""

    spans: tuple[int, ...]
    queries: int
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Pages:
    """Keys and values in memory, where they lie."""

    keys: Tensor
    """[pages, heads, size, width], or flat [T, heads, width], where a page begins at any token."""
    values: Tensor
    """The same."""
    table: Tensor
    """int32 or int64 [S, n]: the pages of each span; of flat keys, its first token [S, 1]."""
    kept: dict[str, Any] = field(default_factory=dict, repr=False)
    """What kernels make of keys and values, for every call of a memory that keeps it."""

    @property
    def size(self) -> int | None:
        """Keys of a page; None where each span has one page alone."""
        return None if self.table.shape[1] == 1 else self.keys.shape[2]

    def strides(self, x: Tensor) -> tuple[int, ...]:
        """From page to page, from head to head, from key to key of `keys` or `values`."""
        if x.ndim == 3:
            row, head, _ = x.stride()
            return row, head, row
        return x.stride()[:3]


@dataclass(frozen=True)
class AttentionPlan:
    """How T queries in spans, each after a past in memory, are grouped and padded.

    What only the padded path needs is laid out when it first asks: masks are as large as queries
    times keys.
    """

    lengths: tuple[int, ...]
    """New tokens of each span."""
    past: tuple[int, ...] | None
    """Tokens of each span that are in memory already; None where there is no memory."""
    window: int | None
    """Keys that a query sees at most, its own included; None is all before it."""
    device: torch.device
    """Where the tensors below are."""
    split: Split | None = None
    laid: "Tables | None" = None
    """What kernels read, where it is on the device alone; `lengths` and `past` then only count."""
    _tables: dict[tuple[int, int], "Tables"] = field(default_factory=dict, repr=False)
    _few: dict[int, "tuple[AttentionPlan | None, Tensor]"] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        lengths: Sequence[int],
        past: Sequence[int] | None,
        device: torch.device | str,
        window: int | None = None,
        split: Split | None = None,
    ) -> "AttentionPlan":
        """For spans of these lengths; `past` tokens of each are in memory (None: no memory).

        `split` may part what would be computed together, where memory is better read so.
        """
        before = None if past is None else tuple(past)
        return cls(tuple(lengths), before, window, torch.device(device), split)

    @classmethod
    def of_tables(
        cls, tables: "Tables", spans: int, device: torch.device, window: int | None
    ) -> "AttentionPlan":
        """For one new token in each of so many spans, all with a past, as `tables` say."""
        return cls((1,) * spans, (1,) * spans, window, device, laid=tables)

    def few(self, least: int) -> "tuple[AttentionPlan | None, Tensor]":
        """Spans of fewer than `least` queries after a past, one by one, and their tokens.

        A plan in which the others are empty, or None where there are no such spans; int64 [T].
        """
        if least not in self._few:
            past = self.past or (0,) * len(self.lengths)
            pairs = zip(self.lengths, past, strict=True)
            lengths = tuple(new if old and new < least else 0 for new, old in pairs)
            here = np.repeat(np.asarray(lengths, bool), self.lengths)
            plan = type(self).of(lengths, past, self.device, self.window, _each)
            found = plan if here.any() else None
            self._few[least] = found, torch.from_numpy(here.nonzero()[0])
        return self._few[least]

    @cached_property
    def fresh(self) -> bool:
        """Whether nothing is in memory yet."""
        return self.past is None or not any(self.past)

    @cached_property
    def even(self) -> bool:
        """Whether spans have one length and see all of what is before."""
        return self.window is None and len(set(self.lengths)) == 1

    @property
    def batches(self) -> tuple[Attends, ...]:
        """What is computed together."""
        return self._padded[0]

    @property
    def places(self) -> Places:
        """Tokens to the padded queries of all batches, and back."""
        return self._padded[1]

    @cached_property
    def _padded(self) -> tuple[tuple[Attends, ...], Places]:
        length = np.asarray(self.lengths, np.int64)
        before = np.zeros_like(length) if self.past is None else np.asarray(self.past, np.int64)
        start = np.concatenate([[0], np.cumsum(length)[:-1]])
        batches, index, valid = [], [], []
        split = _each if order_is_fixed() else self.split
        for spans in _batches(length, before, split):
            whole = self.past is None
            batch = _batch(spans, length, before, self.window, self.device, whole)
            position = np.arange(batch.queries)
            here = length[spans][:, None]
            index.append((start[spans][:, None] + np.minimum(position, here - 1)).ravel())
            valid.append((position < here).ravel())
            batches.append(batch)
        tokens = int(length.sum())
        places = Places.of(np.concatenate(index), np.concatenate(valid), tokens, self.device)
        return tuple(batches), places

    @property
    def keys(self) -> tuple[int, ...]:
        """Keys of each span, those of its past too."""
        past = self.past or (0,) * len(self.lengths)
        return tuple(old + new for old, new in zip(past, self.lengths, strict=True))

    def bounds(self, device: torch.device) -> Tensor:
        """int32 [S + 1]: where spans begin, on a device."""
        return self.tables(1, 64, device).bounds

    def tables(self, share: int, tokens: int, device: torch.device) -> "Tables":
        """The plan on a device, as kernels read it; made once for every tile's size."""
        if self.laid is not None:
            return self.laid
        if (share, tokens) not in self._tables:
            from cairn.ops.triton.attention import Tables

            self._tables[share, tokens] = Tables.of(self, share, tokens, device)
        return self._tables[share, tokens]


def _batches(length: np.ndarray, before: np.ndarray, split: Split | None) -> Iterator[np.ndarray]:
    """Numbers of the spans of every batch."""
    for spans in _alike(length, before):
        if split is None:
            yield spans
        else:
            yield from split(spans, int((length + before)[spans].max()))


def _each(spans: np.ndarray, stop: int) -> list[np.ndarray]:
    """Every span by itself."""
    return [spans[i : i + 1] for i in range(len(spans))]


def _alike(length: np.ndarray, before: np.ndarray) -> list[np.ndarray]:
    """Numbers of the spans that are not empty, grouped so that padding stays below half."""
    found: dict[tuple[int, int, bool], list[int]] = {}
    for span, (new, old) in enumerate(zip(length.tolist(), before.tolist(), strict=True)):
        if new:
            key = ((new - 1).bit_length(), (new + old - 1).bit_length(), old > 0)
            found.setdefault(key, []).append(span)
    return [np.asarray(spans, np.int64) for spans in found.values()]


def _batch(
    spans: np.ndarray,
    length: np.ndarray,
    before: np.ndarray,
    window: int | None,
    device: torch.device,
    whole: bool,
) -> Attends:
    new, old = length[spans], before[spans]
    queries, keys = int(new.max()), int((new + old).max())
    if whole and queries > STEP:  # the library compiles, and keeps, products for every size
        queries = keys = -(-queries // STEP) * STEP
    size = queries if window is None else max(window, LEAST_BLOCK)
    rows = [slice(at, min(at + size, queries)) for at in range(0, queries, size)]
    blocks = tuple(_block(part, old, keys, window, device) for part in rows)
    return Attends(tuple(spans.tolist()), queries, blocks)


def _block(
    rows: slice, old: np.ndarray, keys: int, window: int | None, device: torch.device
) -> Block:
    """`rows` of queries after `old` [B] tokens each, where `keys` keys are there at most."""
    least, most = int(old.min()), int(old.max())
    start = 0 if window is None else max(0, least + rows.start - window + 1)
    stop = min(most + rows.stop, keys)
    if most == 0 and rows.start == 0 and (window is None or rows.stop <= window):
        return Block(rows, start, stop, None, causal=rows.stop > 1)
    if rows.stop - rows.start == 1 and least == most:
        return Block(rows, start, stop, None, causal=False)
    if least == most:
        old = old[:1]
    # Rows that are padding lie beyond the last key; they see it, so that no softmax is empty.
    seen = np.minimum(old[:, None, None] + np.arange(rows.start, rows.stop)[:, None], stop - 1)
    key = np.arange(start, stop)
    mask = key <= seen
    if window is not None:
        mask &= key > seen - window
    return Block(rows, start, stop, torch.from_numpy(mask).unsqueeze(1).to(device), causal=False)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plan: AttentionPlan,
    read: ReadMemory | None = None,
    pages: Pages | None = None,
) -> Tensor:
    """Softmax attention of every token to its span's past and to itself, scale 1/sqrt(width).

    q [T, heads, width]; k, v [T, key_value_heads, width], each shared by consecutive query heads.
    With a window in `plan`, a token sees itself and the `window - 1` tokens before it.
    With `read`, keys and values (those of this call included) come from memory; `pages` tells
    where they lie there, for kernels that read them in place. Or k and v hold those of each span's
    past too, before its own, and `read` cuts them. Returns q's shape.
    """
    library, triton = _fast_paths(q, k, v, plan, pages)
    native = prompt.unfit_for(q, k, v, plan)
    path = paths.choose("attention", q.device, native=native, triton=triton, library=library)
    if path == "native":
        return prompt.attend(q, k, v, plan, read, _padded)
    if path == "library":
        return _library(q, k, v, plan)
    if path == "triton":
        from cairn.ops.triton.attention import attend

        return attend(q, pages or _flat(k, v, plan), plan)
    return _padded(q, k, v, plan, read)


def _fast_paths(
    q: Tensor, k: Tensor, v: Tensor, plan: AttentionPlan, pages: Pages | None
) -> tuple[str | None, str | None]:
    """What `choose` takes as `library` (PyTorch's fused attention) and as `triton`.

    On a Hopper GPU our kernel is the fastest and plans nothing, where cuDNN plans for 70 ms what it
    meets at a new length; elsewhere cuDNN serves spans of one length, ours ragged ones and pages.
    Only a library's has a gradient.
    """
    if order_is_fixed():
        return "it takes spans in other orders in other company", paths.for_kernel(q)
    trained = recorded(q, k, v)
    few = max(plan.lengths, default=0) * (q.shape[1] // k.shape[1]) <= 16
    carried = k.shape[0] > q.shape[0]  # the past's keys lie before each span's own
    width = q.shape[-1]
    served = q.dtype in (torch.bfloat16, torch.float16) and width % 8 == 0 and width <= 256
    if served and not few and (carried or (plan.fresh and (trained or plan.even))):
        if trained or carried or not _by_warp_groups(q, k, v, pages):
            return "", "PyTorch's kernel serves it"
        return "ours is faster", ""
    if trained or carried:  # padded batches, each in a fused kernel of PyTorch's
        return None, None
    return None, paths.for_kernel(q)


def _by_warp_groups(q: Tensor, k: Tensor, v: Tensor, pages: Pages | None) -> bool:
    """Whether `cairn.ops.triton.hopper` serves the keys where they lie."""
    if not q.is_cuda or not paths.has_triton():
        return False
    from cairn.ops.triton.attention import unfit_on_hopper

    where = (k, v, None) if pages is None else (pages.keys, pages.values, pages.size)
    return not unfit_on_hopper(q, *where)


def _library(q: Tensor, k: Tensor, v: Tensor, plan: AttentionPlan) -> Tensor:
    """cuDNN's attention for spans of one length, else FlashAttention over ragged ones."""
    if plan.even and len(k) == len(q):
        from torch.nn.attention import SDPBackend, sdpa_kernel

        order = [
            SDPBackend.CUDNN_ATTENTION,
            SDPBackend.FLASH_ATTENTION,
            SDPBackend.EFFICIENT_ATTENTION,
            SDPBackend.MATH,
        ]
        with sdpa_kernel(order, set_priority=True):
            return _padded(q, k, v, plan, None)
    from torch.nn.attention.varlen import varlen_attn

    bounds, longest = plan.bounds(q.device), max(plan.lengths)
    # With more keys than queries, the last query of a span is the one that sees its last key.
    begins = torch.tensor([0, *accumulate(plan.keys)], dtype=torch.int32, device=q.device)
    widest = max(plan.keys)
    left = -1 if plan.window is None else plan.window - 1
    more: Any = {"enable_gqa": True} if "enable_gqa" in signature(varlen_attn).parameters else {}
    out = varlen_attn(q, k, v, bounds, begins, longest, widest, window_size=(left, 0), **more)
    assert isinstance(out, Tensor)
    return out


def _flat(k: Tensor, v: Tensor, plan: AttentionPlan) -> Pages:
    """Keys and values of this call alone."""
    k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (k, v))
    return Pages(k, v, plan.bounds(k.device)[:-1, None])


def _padded(
    q: Tensor, k: Tensor, v: Tensor, plan: AttentionPlan, read: ReadMemory | None
) -> Tensor:
    padded = [plan.places.pad(x) for x in ((q,) if read else (q, k, v))]
    out, at = [], 0
    for batch in plan.batches:
        count, shape = len(batch.spans), (len(batch.spans), batch.queries)
        parts = [x[at : at + count * batch.queries].unflatten(0, shape) for x in padded]
        heads = [x.transpose(1, 2) for x in parts]
        blocks = []
        for block in batch.blocks:
            if read:
                keys, values = read(batch.spans, block.start, block.stop)
            else:
                keys, values = (x[:, :, block.start : block.stop] for x in heads[1:])
            blocks.append(_attend(heads[0][:, :, block.rows], keys, values, block))
        whole = torch.cat(blocks, 1) if len(blocks) > 1 else blocks[0]
        out.append(whole.flatten(0, 1))
        at += count * batch.queries
    return plan.places.unpad(torch.cat(out) if len(out) > 1 else out[0])


def _attend(q: Tensor, k: Tensor, v: Tensor, block: Block) -> Tensor:
    """q [B, heads, rows, width] against k, v [B, key_value_heads, keys, width], rows first."""
    count, heads, rows, width = q.shape
    shared = heads // k.shape[1]
    if rows == 1 and shared > 1:
        # One query: those that share a key head are rows of one product, and no key is read twice.
        q = q.reshape(count, k.shape[1], shared, width)
    y = functional.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=block.mask,
        is_causal=block.causal,
        enable_gqa=rows > 1 and shared > 1,
    )
    return y.reshape(count, heads, rows, width).transpose(1, 2)
