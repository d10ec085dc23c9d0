"""Causal attention of ragged spans to keys in pages, with grouped queries and a window.

Query heads that share keys are rows of one tile, so that keys are read once for all of them. Spans
of few tokens are split over their keys; the last program of a tile to arrive joins the pieces.
Pieces have a fixed length inside `order.fixed_order`, so that what a span gets does not depend on
what else is in the call; else they are shorter where few spans would leave a GPU idle, and longer
where there are many. Keys of one flat list are pages as well: each span's page begins at its first
token.
"""

# pyright: reportAttributeAccessIssue=false, reportMissingImports=false, reportIndexIssue=false

from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from cairn.ops import paths
from cairn.ops.order import order_is_fixed
from cairn.ops.transfer import on_device
from cairn.ops.triton.arrivals import counters, last_of
from cairn.ops.triton.early import early, in_turn

if TYPE_CHECKING:
    from cairn.ops.attention import AttentionPlan, Pages

FEW_ROWS = 16  # rows (tokens times the heads that share keys) of a span that is split
PIECE = 512  # keys of one piece
LEAST_PIECE = 128  # where few sequences would leave multiprocessors idle
MOST_PIECE = 2048  # where there are many: what a piece costs beside its keys is paid less often
ENOUGH = 512  # programs: about as many as a GPU of today runs at once
_LOG2E = 1.4426950408889634


@dataclass(frozen=True)
class Tables:
    """A plan's spans on the device."""

    bounds: Tensor
    """int32 [S + 1]."""
    ends: Tensor
    """int32 [S]: keys of each span, this call's included."""
    few: Tensor
    """int32 [n, 2]: span and first token of every tile that is split over keys."""
    many: Tensor
    """int32 [n, 2]: the same of those that are not, the longest first."""
    pieces: int
    """Pieces of the keys of the longest span with few tokens."""
    alone: bool = False
    """Whether every span has one new token: then row, span and tile have one number."""

    @cached_property
    def tiles(self) -> tuple[int, int]:
        """How many there are of `many` and of `few`."""
        return len(self.many), len(self.few)

    @classmethod
    def of(cls, plan: "AttentionPlan", share: int, tokens: int, device: torch.device) -> "Tables":
        """For `share` query heads a key head, and tiles of so many tokens."""
        past = plan.past or (0,) * len(plan.lengths)
        few, many, longest = [], [], 0
        for s, (new, old) in enumerate(zip(plan.lengths, past, strict=True)):
            if new * share <= FEW_ROWS:
                few += [(s, 0)] if new else []
                longest = max(longest, new + old if new else 0)
            else:
                many += [(old + at, s, at) for at in range(0, new, tokens)]
        many.sort(reverse=True)
        bounds = [0]
        for new in plan.lengths:
            bounds.append(bounds[-1] + new)
        ends = [a + b for a, b in zip(plan.lengths, past, strict=True)]

        def put(rows: Any) -> Tensor:
            return on_device(rows, torch.int32, device)

        tiles = [(s, at) for _, s, at in many]
        alone = len(few) == len(plan.lengths) and set(plan.lengths) == {1}
        laid = put(bounds), put(ends), put(few), put(tiles)
        return cls(*laid, -(-longest // PIECE), alone)


def attend(
    q: Tensor, pages: "Pages", plan: "AttentionPlan", launch: dict[str, int] | None = None
) -> Tensor:
    """`cairn.ops.attention.attention` with keys in pages; `launch` overrides the tile.

    q [T, heads, width] of any strides whose channels lie together. Returns [T, heads, width].
    """
    T, heads, width = q.shape
    share = heads // pages.keys.shape[1]
    tile = _tile(width, share, q.dtype, _small(q.device), **(launch or {}))
    tables = plan.tables(share, tile["BLOCK_M"] // share, q.device)
    out = torch.empty(T, heads, width, dtype=q.dtype, device=q.device)
    q = q if q.stride(-1) == 1 else q.contiguous()
    many, few = tables.tiles
    if many and launch is None and not unfit_on_hopper(q, pages.keys, pages.values, pages.size):
        from cairn.ops.triton.hopper import attend_many

        attend_many(q, pages, out, tables, plan.window)
    elif many:
        _attend[many, heads // share, 1](
            q, pages.keys, pages.values, out, None, None, None, pages.table, tables.bounds,
            tables.ends, tables.many, *_strides(q, pages),
            **_sizes(heads, share, width, pages.size, plan.window), SPLIT=0, JOINED=0, ALONE=False,
            EARLY=False, **tile,
        )  # fmt: skip
    if few:
        _few(q, pages, out, tables, share, plan.window)
    return out


@cache
def _tile(width: int, share: int, dtype: torch.dtype, small: bool, **launch: int) -> dict[str, int]:
    tile = _tile_of_many(max(16, triton.next_power_of_2(width)), dtype, small) | launch
    return tile | {"BLOCK_M": max(tile["BLOCK_M"], triton.next_power_of_2(share))}


def _tile_of_many(block_w: int, dtype: torch.dtype, small: bool) -> dict[str, int]:
    """Of spans that are not split, by the heads' width; on a GPU with `small` shared memory."""
    tile = {"BLOCK_M": 128, "BLOCK_N": 128, "num_warps": 8, "num_stages": 3}
    if block_w > 128:
        tile |= {"BLOCK_N": 64, "num_stages": 2}
    if block_w > 128 and small:
        tile |= {"BLOCK_M": 64, "BLOCK_N": 32, "num_warps": 4}
    if dtype == torch.float32:
        tile |= {"BLOCK_M": 32, "BLOCK_N": 32}
        if block_w > 128 and small:
            tile |= {"num_warps": 8, "num_stages": 1}
    return tile


@cache
def _small(device: torch.device) -> bool:
    """Whether a program has less than 128 KiB: 99 on GPUs for graphics, 163 and more on others."""
    if device.type != "cuda":
        return False
    return torch.cuda.get_device_properties(device).shared_memory_per_block_optin < 128 * 1024


def unfit_on_hopper(q: Tensor, keys: Tensor, values: Tensor, size: int | None) -> str:
    """Why `cairn.ops.triton.hopper` cannot serve tiles of many rows; empty where it can."""
    if not q.is_cuda or paths.generation(q.device) != 9:
        return "it is for Hopper GPUs"
    from cairn.ops.triton.hopper import unfit

    return unfit(q, keys, values, size)


def _few(
    q: Tensor,
    pages: "Pages",
    out: Tensor,
    tables: Tables,
    share: int,
    window: int | None,
) -> None:
    T, heads, width = out.shape
    count = tables.tiles[1]
    programs = count * heads // share
    split, keys = split_of(programs, tables.pieces), tables.pieces * PIECE
    if pages.keys.ndim == 4:  # no more than the table has room for
        keys = min(keys, pages.table.shape[1] * pages.keys.shape[2])
    pieces = -(-keys // split)
    parts = sums = arrivals = None
    if pieces == 1:  # one kernel for them all
        split = max(split, MOST_PIECE)
    else:
        parts = torch.empty(pieces, T, heads, width, device=q.device)
        sums = torch.empty(pieces, T, heads, device=q.device)
        arrivals = counters(q.device, programs)
    narrowed = q.dtype == torch.float32 and width > 128 and _small(q.device)
    _attend[count, heads // share, pieces](
        q, pages.keys, pages.values, out, parts, sums, arrivals, pages.table, tables.bounds,
        tables.ends, tables.few, *_strides(q, pages),
        **_sizes(heads, share, width, pages.size, window), SPLIT=split, ALONE=tables.alone,
        **_tile_of_few(share, tables.alone and pieces > 1, narrowed), **early(q),
    )  # fmt: skip


@cache
def _tile_of_few(share: int, single: bool, one_stage: bool) -> dict[str, int]:
    """Where tokens are `single`, no rows but theirs are joined; else all of a tile, of any number
    of tokens: each number would be compiled for."""
    rows = max(16, triton.next_power_of_2(share))
    joined = triton.next_power_of_2(share) if single else rows
    tile = {"JOINED": joined, "BLOCK_M": rows, "BLOCK_N": 64}
    return tile | {"num_warps": 4} | ({"num_stages": 1} if one_stage else {})


def split_of(programs: int, pieces: int) -> int:
    """Keys of a piece where so many programs would have `pieces` of PIECE keys each."""
    if order_is_fixed():
        return PIECE
    split, keys = PIECE, programs * pieces * PIECE
    while split > LEAST_PIECE and keys // split < ENOUGH:
        split //= 2
    while split < MOST_PIECE and keys // split >= 4 * ENOUGH:
        split *= 2
    return split


def _strides(q: Tensor, pages: "Pages") -> tuple[int, ...]:
    """From `q_row` to `rows`: arguments that both launches share."""
    T, heads, _ = q.shape
    q_row, q_head, _ = q.stride()
    return (
        q_row, q_head, *pages.strides(pages.keys), *pages.strides(pages.values),
        pages.table.stride(0), pages.table.shape[1], T * heads,
    )  # fmt: skip


@cache
def _sizes(
    heads: int, share: int, width: int, page: int | None, window: int | None
) -> dict[str, Any]:
    """Constants that both launches share."""
    return {
        "HEADS": heads,
        "SHARE": share,
        "WIDTH": width,
        "BLOCK_W": max(16, triton.next_power_of_2(width)),
        "PAGE": page or 0,
        "WINDOW": window or 0,
        "SCALE": width**-0.5 * _LOG2E,
    }


@triton.jit(do_not_specialize=["table_row", "columns", "rows"])
def _attend(
    q, keys, values, out, parts, sums, arrivals, table, bounds, ends, tiles,
    q_row, q_head, k_page, k_head, k_row, v_page, v_head, v_row, table_row, columns, rows,
    HEADS: tl.constexpr, SHARE: tl.constexpr, WIDTH: tl.constexpr, PAGE: tl.constexpr,
    WINDOW: tl.constexpr, SCALE: tl.constexpr, SPLIT: tl.constexpr, JOINED: tl.constexpr,
    ALONE: tl.constexpr, EARLY: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_W: tl.constexpr,
):  # fmt: skip
    """Queries of a tile against its span's keys, or against a piece of them where SPLIT."""
    if EARLY:
        in_turn()
    TOKENS: tl.constexpr = BLOCK_M // SHARE
    kv, piece = tl.program_id(1), tl.program_id(2)
    span, first = tl.program_id(0), 0
    start, stop = span, span + 1
    if not ALONE:
        span = tl.load(tiles + tl.program_id(0) * 2)
        first = tl.load(tiles + tl.program_id(0) * 2 + 1)
        start, stop = tl.load(bounds + span), tl.load(bounds + span + 1)
    end = tl.load(ends + span)
    past = end - (stop - start)
    r = tl.arange(0, BLOCK_M)
    token, head = first + r // SHARE, kv * SHARE + r % SHARE
    r_in = (r < TOKENS * SHARE) & (start + token < stop)
    position = past + token
    row, w = (start + token).to(tl.int64), tl.arange(0, BLOCK_W)
    w_in = w < WIDTH
    within = r_in[:, None] & w_in[None, :]
    at = row[:, None] * q_row + head[:, None] * q_head + w[None, :]
    Q = tl.load(q + at, mask=within, other=0)
    low, high = _range(past + first, end, piece, TOKENS, WINDOW, SPLIT, BLOCK_N)
    acc, top, total = _against(
        Q, position, low, high, keys + kv * k_head, values + kv * v_head, table + span * table_row,
        columns, w, k_page, k_row, v_page, v_row,
        WIDTH, PAGE, WINDOW, SCALE, BLOCK_M, BLOCK_N, BLOCK_W,
    )  # fmt: skip
    flat = row * HEADS + head
    at = flat[:, None] * WIDTH + w[None, :]
    if parts is None:
        tl.store(out + at, acc.to(out.dtype.element_ty), mask=within)
    elif low < high:
        earliest, last = 0, (tl.minimum(end, past + first + TOKENS) - 1) // SPLIT
        if WINDOW:
            earliest = tl.maximum(0, past + first - WINDOW + 1) // SPLIT
        if last == earliest:
            tl.store(out + at, acc.to(out.dtype.element_ty), mask=within)
        else:
            level = tl.where(total > 0, top + tl.log2(total), float("-inf"))
            away = tl.program_id(2).to(tl.int64) * rows
            tl.store(sums + flat + away, level, mask=r_in)
            tl.store(parts + at + away * WIDTH, acc, mask=within)
            if last_of(arrivals + tl.program_id(0) * tl.num_programs(1) + kv, last - earliest + 1):
                _join(
                    parts, sums, out, start + first, stop, kv, rows, earliest, last, w,
                    HEADS, SHARE, WIDTH, TOKENS, JOINED, BLOCK_W,
                )  # fmt: skip


@triton.jit
def _against(
    Q, position, low, high, keys, values, table, columns, w, k_page, k_row, v_page, v_row,
    WIDTH: tl.constexpr, PAGE: tl.constexpr, WINDOW: tl.constexpr, SCALE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """Queries against keys `low` to `high`: what they see, the highest score, the weights' sum."""
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_W], tl.float32)
    page = 0
    if not PAGE:
        page = tl.load(table).to(tl.int64)
    for j in range(low, high, BLOCK_N):
        n = j + tl.arange(0, BLOCK_N)
        n_in = (n < high)[:, None] & (w < WIDTH)[None, :]
        k_at, v_at = _places(n, columns, page, table, k_page, k_row, v_page, v_row, PAGE)
        K = tl.load(keys + k_at[:, None] + w[None, :], mask=n_in, other=0)
        scores = tl.dot(Q, tl.trans(K.to(Q.dtype)), input_precision="ieee") * SCALE
        seen = (n[None, :] <= position[:, None]) & (n[None, :] < high)
        if WINDOW:
            seen &= n[None, :] > position[:, None] - WINDOW
        scores = tl.where(seen, scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        level = tl.where(higher == float("-inf"), 0.0, higher)
        weights = tl.exp2(scores - level[:, None])
        fade = tl.exp2(top - level)
        total = total * fade + tl.sum(weights, 1)
        V = tl.load(values + v_at[:, None] + w[None, :], mask=n_in, other=0)
        acc = acc * fade[:, None]
        acc = tl.dot(weights.to(Q.dtype), V.to(Q.dtype), acc, input_precision="ieee")
        top = higher
    return acc / tl.where(total > 0, total, 1.0)[:, None], top, total


@triton.jit
def _range(
    position, end, piece, TOKENS: tl.constexpr, WINDOW: tl.constexpr, SPLIT: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """The keys that tokens from `position` on may see, from a multiple of BLOCK_N on."""
    low, high = 0, tl.minimum(end, position + TOKENS)
    if WINDOW:
        low = tl.maximum(0, position - WINDOW + 1)
    if SPLIT:
        low = tl.maximum(low, piece * SPLIT)
        high = tl.minimum(high, (piece + 1) * SPLIT)
    return low // BLOCK_N * BLOCK_N, high


@triton.jit
def _places(n, columns, page, table, k_page, k_row, v_page, v_row, PAGE: tl.constexpr):
    """Where keys and values n lie, but for the head; beyond the table's end, where others do."""
    if PAGE:
        pages = tl.load(table + n // PAGE, mask=n < columns * PAGE, other=0).to(tl.int64)
        k_at = pages * k_page + (n % PAGE) * k_row
        v_at = pages * v_page + (n % PAGE) * v_row
    else:
        k_at = page * k_page + n.to(tl.int64) * k_row
        v_at = page * v_page + n.to(tl.int64) * v_row
    return k_at, v_at


@triton.jit
def _join(
    parts, sums, out, begins, stop, kv, rows, earliest, last, w,
    HEADS: tl.constexpr, SHARE: tl.constexpr, WIDTH: tl.constexpr, TOKENS: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """Join what pieces `earliest` to `last` of a tile have found, from the first to the last."""
    # Pieces that are asked for before any is waited for.
    AT_ONCE: tl.constexpr = max(1, min(16, 64 // ROWS))
    r = tl.arange(0, ROWS)
    token = begins + r // SHARE
    r_in = (r < TOKENS * SHARE) & (token < stop)
    flat = token.to(tl.int64) * HEADS + kv * SHARE + r % SHARE
    at, within = flat[:, None] * WIDTH + w[None, :], r_in[:, None] & (w < WIDTH)[None, :]
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, BLOCK_W], tl.float32)
    for begin in range(earliest, last + 1, AT_ONCE):
        for i in tl.static_range(AT_ONCE):
            r_here, here = r_in & (begin + i <= last), within & (begin + i <= last)
            away = (begin + i) * rows.to(tl.int64)
            # Other programs wrote them: past the first-level cache.
            level = tl.load(sums + flat + away, mask=r_here, other=float("-inf"),
                            cache_modifier=".cg")  # fmt: skip
            part = tl.load(parts + at + away * WIDTH, mask=here, other=0, cache_modifier=".cg")
            higher = tl.maximum(top, level)
            base = tl.where(higher == float("-inf"), 0.0, higher)
            fade, weight = tl.exp2(top - base), tl.exp2(level - base)
            acc = acc * fade[:, None] + part * weight[:, None]
            total = total * fade + weight
            top = higher
    acc /= tl.where(total > 0, total, 1.0)[:, None]
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=within)
