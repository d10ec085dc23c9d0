"""Casts to FP8 in both orders in one pass: `cairn.ops.fp8.cast`.

A program takes 128 x 128 elements, every fourth row at a time: four rows' bytes make a word, and
words are what is transposed. With one scale a tensor, a pass for the largest magnitude goes before;
with blocks, scales are found where the elements already are. What is counted and the largest
magnitude are integers, so that results do not depend on the order of programs.
"""

# pyright: reportAttributeAccessIssue=false, reportMissingImports=false, reportIndexIssue=false
# pyright: reportPossiblyUnboundVariable=false, reportOperatorIssue=false

from typing import Any

import torch
import torch.distributed as dist
import triton
import triton.language as tl
from torch import Tensor
from torch.distributed import ProcessGroup

from cairn.ops.fp8 import (
    BLOCK,
    E4M3,
    LARGEST_SCALE,
    LIMITS,
    ROLES,
    WIDTH,
    Before,
    Cast,
    Kind,
    Operand,
    Recipe,
    Role,
    format_of,
)
from cairn.ops.triton.fp8_codes import (
    fours,
    inverse_of,
    lost,
    magnitude,
    scale_of,
    whole_inverse_of,
    whole_scale_of,
    words,
)

# The fastest of those tried on an H200, for blocks of rows, tiles of fp32, and one scale a tensor.
# With 128 registers two programs share a multiprocessor: one reads while the other computes.
ROWS: dict[str, Any] = {"num_warps": 8, "maxnreg": 128}
TILES: dict[str, Any] = {"num_warps": 16}
ONE: dict[str, Any] = {"num_warps": 8, "maxnreg": 128}
LOOK: tuple[int, int, int] = (32, 512, 8)  # rows, columns and warps that look for the largest


def cast(
    x: Tensor,
    role: Role,
    recipe: Recipe,
    counts: Tensor,
    rows: bool,
    columns: bool,
    before: Before | None = None,
    of: Tensor | None = None,
    group: ProcessGroup | None = None,
) -> Cast:
    """`cairn.ops.fp8.cast`; counts int64 [3, 3] by role, of NaN, overflows and underflows."""
    x = x if x.stride(-1) == 1 else x.contiguous()
    if of is not None:
        of = of if of.stride(-1) == 1 else of.contiguous()
    source = x, of, x.stride(0), 0 if of is None else of.stride(0)
    squared = before == "squared_relu"
    counted = counts[ROLES.index(role)]
    if recipe == "current":
        dtype = format_of(recipe, role)
        return _cast_tensor(source, dtype, counted, rows, columns, squared, group)
    R, C = x.shape
    tiles = role == "weights"
    first = _blocks(R, C, tiles, x) if rows else None
    second = _blocks(C, R, tiles, x) if columns else None
    parts = (*_parts(first, torch.uint8), *_parts(second, torch.int32))
    if x.numel() and (rows or columns):
        _cast_blocks[(triton.cdiv(R, BLOCK), triton.cdiv(C, BLOCK))](
            *source, *parts, counted, *_sizes(x, first, second), *_steps(first, second),
            SQUARED=squared, LIMIT=LIMITS[E4M3], HARDWARE=x.is_cuda, BLOCK=BLOCK, TILES=tiles,
            **(TILES if tiles else ROWS),
        )  # fmt: skip
    return first, second


Source = tuple[Tensor, Tensor | None, int, int]  # x, `of`, and how far their rows lie apart


def _cast_tensor(
    source: Source,
    dtype: torch.dtype,
    counts: Tensor,
    rows: bool,
    columns: bool,
    squared: bool,
    group: ProcessGroup | None,
) -> Cast:
    x = source[0]
    R, C = x.shape
    largest = torch.zeros(2, dtype=torch.int32, device=x.device)
    inverse = torch.empty(1, device=x.device)
    outer, kind = R + -R % WIDTH, "tensor"
    first = Operand(_empty(outer, C, dtype, x), inverse, kind) if rows else None
    second = Operand(_empty(C, outer, dtype, x), inverse, kind) if columns else None
    rows_seen, columns_seen, warps = LOOK
    grid = triton.cdiv(R, rows_seen), triton.cdiv(C, columns_seen)
    if x.numel():
        _largest[grid](
            *source, largest, R, C,
            SQUARED=squared, BLOCK_R=rows_seen, BLOCK_C=columns_seen, num_warps=warps,
        )  # fmt: skip
    if group is not None:  # bits of numbers that are not negative are ordered as they are
        dist.all_reduce(largest, dist.ReduceOp.MAX, group)
    if x.numel():
        _cast_one[(triton.cdiv(R, BLOCK), triton.cdiv(C, BLOCK))](
            *source, largest, _parts(first, torch.uint8)[0], _parts(second, torch.int32)[0],
            inverse, counts, R, C, outer,
            SQUARED=squared, **_form(dtype, x), **ONE,
        )  # fmt: skip
    return first, second


def _blocks(outer: int, K: int, tiles: bool, like: Tensor) -> Operand:
    """An operand in blocks that the kernel fills."""
    blocks = triton.cdiv(K, BLOCK)
    outer = outer if tiles else outer + -outer % WIDTH
    values = _empty(outer, blocks * BLOCK, E4M3, like)
    kind: Kind = "row"
    shape = blocks, outer
    if tiles:
        kind, shape = "tile", (triton.cdiv(outer, BLOCK), blocks + -blocks % 4)
    return Operand(values, torch.zeros(shape, device=like.device), kind)


def _sizes(x: Tensor, first: Operand | None, second: Operand | None) -> tuple[int, ...]:
    """R and C as they are, then as the operands have them: rows and K of one, of the other."""
    one = (0, 0) if first is None else first.values.shape
    other = (0, 0) if second is None else second.values.shape
    return (*x.shape, *one, *other)


def _steps(first: Operand | None, second: Operand | None) -> tuple[int, ...]:
    """Numbers of inverse scales in a row of theirs."""
    return tuple(0 if x is None else x.inverse.shape[1] for x in (first, second))


def _parts(x: Operand | None, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
    return (None, None) if x is None else (x.values.view(dtype), x.inverse)


def _empty(rows: int, columns: int, dtype: torch.dtype, like: Tensor) -> Tensor:
    return torch.empty(rows, columns, dtype=dtype, device=like.device)


def _form(dtype: torch.dtype, x: Tensor) -> dict[str, Any]:
    """Constants of a format. The interpreter rounds to FP8 wrongly, so that bits are made there."""
    return {
        "LIMIT": LIMITS[dtype],
        "MANTISSA": 3 if dtype == E4M3 else 2,
        "HARDWARE": x.is_cuda,
        "BLOCK": BLOCK,
        "LARGEST": LARGEST_SCALE,
    }


@triton.jit
def _tile(x, of, row, of_row, r, c, R, C, SQUARED: tl.constexpr):
    """Elements in fp32 after what stands before the cast, 0 outside."""
    inside = (r < R)[:, None] & (c < C)[None, :]
    v = tl.load(x + r[:, None] * row + c[None, :], mask=inside, other=0).to(tl.float32)
    if SQUARED:
        v = tl.where(v < 0, 0.0, v)  # keeps NaN
        v *= v
    if of is not None:
        u = tl.load(of + r[:, None] * of_row + c[None, :], mask=inside, other=0).to(tl.float32)
        v *= 2 * tl.where(u < 0, 0.0, u)
    return v


@triton.jit
def _nan_where_wild(v):
    """v; NaN where it is infinite. (Comparing and choosing would be two instructions.)"""
    return tl.fma(v, 0.0, v)


@triton.jit
def _size(v, HARDWARE: tl.constexpr):
    """|v|, which the largest is sought of. The GPU's maximum passes NaN over, not so NumPy's."""
    if HARDWARE:
        return tl.abs(v)
    else:
        return magnitude(v)


@triton.jit
def _any_nan(a, b, c, d):
    """Whether any of four tiles has one."""
    e = tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)
    f = tl.maximum(c, d, propagate_nan=tl.PropagateNan.ALL)
    e = tl.maximum(e, f, propagate_nan=tl.PropagateNan.ALL)
    return tl.sum((e != e).to(tl.int32)) > 0


@triton.jit
def _count_wild(
    counts, x, of, row, of_row, first, c, R, C, SQUARED: tl.constexpr, BLOCK: tl.constexpr
):
    """Add what is NaN and what is infinite in a tile, which is rare: it is read again."""
    nan, over = 0, 0
    for k in range(4):
        r = first + 4 * tl.arange(0, BLOCK // 4) + k
        v = _tile(x, of, row, of_row, r, c, R, C, SQUARED)
        nan += tl.sum((v != v).to(tl.int32))
        over += tl.sum((tl.abs(v) == float("inf")).to(tl.int32))
    tl.atomic_add(counts, nan.to(tl.int64))
    tl.atomic_add(counts + 1, over.to(tl.int64))


@triton.jit
def _store(values, codes, r, c, outer, K):
    there = (r < outer)[:, None] & (c < K)[None, :]
    tl.store(values + r[:, None] * K + c[None, :], codes, mask=there)


@triton.jit
def _store_four(
    values, a, b, c, d, r, columns, outer, K,
    LIMIT: tl.constexpr, MANTISSA: tl.constexpr, HARDWARE: tl.constexpr,
):  # fmt: skip
    """Rows r, r + 1, r + 2 and r + 3 of what is scaled."""
    _store(values, fours(a, LIMIT, MANTISSA, HARDWARE), r, columns, outer, K)
    _store(values, fours(b, LIMIT, MANTISSA, HARDWARE), r + 1, columns, outer, K)
    _store(values, fours(c, LIMIT, MANTISSA, HARDWARE), r + 2, columns, outer, K)
    _store(values, fours(d, LIMIT, MANTISSA, HARDWARE), r + 3, columns, outer, K)


@triton.jit
def _store_turned(turned, words, w, c, row, C):
    there = (c < C)[:, None] & (w < row)[None, :]
    tl.store(turned + c[:, None] * row + w[None, :], tl.trans(words), mask=there)


@triton.jit(do_not_specialize=["R"])
def _largest(
    x, of, row, of_row, largest, R, C,
    SQUARED: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """largest[0]: bits of the largest finite magnitude; [1]: not 0 where anything is not finite."""
    r = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    v = _tile(x, of, row, of_row, r, c, R, C, SQUARED)
    found = tl.max(tl.max(magnitude(v), 1), 0)
    # Bits of numbers that are not negative are ordered as they are.
    tl.atomic_max(largest, found.to(tl.int32, bitcast=True))
    wild = tl.max(tl.max((tl.abs(v) < float("inf")).to(tl.int32) ^ 1, 1), 0)
    tl.atomic_max(largest + 1, wild, mask=wild > 0)


@triton.jit(do_not_specialize=["R"])
def _cast_one(
    x, of, row, of_row, largest, values, turned, inverse, counts, R, C, outer,
    SQUARED: tl.constexpr, LIMIT: tl.constexpr, MANTISSA: tl.constexpr, HARDWARE: tl.constexpr,
    BLOCK: tl.constexpr, LARGEST: tl.constexpr,
):  # fmt: skip
    """values [outer, C]; turned [C, outer / 4], four rows' bytes a word; either may be missing."""
    first = tl.program_id(0).to(tl.int64) * BLOCK
    i = tl.arange(0, BLOCK // 4)
    r, c = first + 4 * i, tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    scale = scale_of(tl.load(largest).to(tl.float32, bitcast=True), LIMIT, LARGEST)
    if tl.program_id(0) + tl.program_id(1) == 0:
        tl.store(inverse, inverse_of(scale))
    v0 = _tile(x, of, row, of_row, r, c, R, C, SQUARED)
    v1 = _tile(x, of, row, of_row, r + 1, c, R, C, SQUARED)
    v2 = _tile(x, of, row, of_row, r + 2, c, R, C, SQUARED)
    v3 = _tile(x, of, row, of_row, r + 3, c, R, C, SQUARED)
    if tl.load(largest + 1) > 0:
        _count_wild(counts, x, of, row, of_row, first, c, R, C, SQUARED, BLOCK)
        v0, v1 = _nan_where_wild(v0), _nan_where_wild(v1)
        v2, v3 = _nan_where_wild(v2), _nan_where_wild(v3)
    s0, s1, s2, s3 = v0 * scale, v1 * scale, v2 * scale, v3 * scale
    under = tl.sum(lost(v0, v1, v2, v3, s0, s1, s2, s3, MANTISSA, HARDWARE))
    tl.atomic_add(counts + 2, under.to(tl.int64), mask=under > 0)
    if values is not None:
        _store_four(values, s0, s1, s2, s3, r, c, outer, C, LIMIT, MANTISSA, HARDWARE)
    if turned is not None:
        w = words(s0, s1, s2, s3, LIMIT, MANTISSA, HARDWARE)
        _store_turned(turned, w, first // 4 + i, c, outer // 4, C)


@triton.jit
def _scaled_rows(v, inverse, r, outer, HARDWARE: tl.constexpr):
    """Rows by scales of their own, whose inverses are stored."""
    scale = whole_scale_of(tl.max(_size(v, HARDWARE), 1))
    tl.store(inverse + r, whole_inverse_of(scale), mask=r < outer)
    return v * scale[:, None]


@triton.jit(do_not_specialize=["R"])
def _cast_blocks(
    x, of, row, of_row, values, inverse, turned, inverse_t, counts,
    R, C, outer, K, outer_t, K_t, step, step_t,
    SQUARED: tl.constexpr, LIMIT: tl.constexpr, HARDWARE: tl.constexpr, BLOCK: tl.constexpr,
    TILES: tl.constexpr,
):  # fmt: skip
    """values [outer, K] by scales along K; turned [outer_t, K_t / 4] by scales along K_t.

    TILES: both by one scale a tile.
    """
    p, q = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    i, c = tl.arange(0, BLOCK // 4), q * BLOCK + tl.arange(0, BLOCK)
    r = p * BLOCK + 4 * i
    v0 = _nan_where_wild(_tile(x, of, row, of_row, r, c, R, C, SQUARED))
    v1 = _nan_where_wild(_tile(x, of, row, of_row, r + 1, c, R, C, SQUARED))
    v2 = _nan_where_wild(_tile(x, of, row, of_row, r + 2, c, R, C, SQUARED))
    v3 = _nan_where_wild(_tile(x, of, row, of_row, r + 3, c, R, C, SQUARED))
    most = tl.maximum(
        tl.maximum(_size(v0, HARDWARE), _size(v1, HARDWARE)),
        tl.maximum(_size(v2, HARDWARE), _size(v3, HARDWARE)),
    )
    wild = _any_nan(v0, v1, v2, v3)
    whole = 1.0
    if TILES:
        whole = whole_scale_of(tl.max(tl.max(most, 1), 0))
        s0, s1, s2, s3 = v0 * whole, v1 * whole, v2 * whole, v3 * whole
    under = 0
    if values is not None:
        if TILES:
            tl.store(inverse + p * step + q, whole_inverse_of(whole))
        else:
            at = inverse + q * step
            s0 = _scaled_rows(v0, at, r, outer, HARDWARE)
            s1 = _scaled_rows(v1, at, r + 1, outer, HARDWARE)
            s2 = _scaled_rows(v2, at, r + 2, outer, HARDWARE)
            s3 = _scaled_rows(v3, at, r + 3, outer, HARDWARE)
        _store_four(values, s0, s1, s2, s3, r, c, outer, K, LIMIT, 3, HARDWARE)
        under = tl.sum(lost(v0, v1, v2, v3, s0, s1, s2, s3, 3, HARDWARE))
    if turned is not None:
        if TILES:
            tl.store(inverse_t + q * step_t + p, whole_inverse_of(whole))
        else:
            scale = whole_scale_of(tl.max(most, 0))
            tl.store(inverse_t + p * step_t + c, whole_inverse_of(scale), mask=c < outer_t)
            by = scale[None, :]
            s0, s1, s2, s3 = v0 * by, v1 * by, v2 * by, v3 * by
        w = words(s0, s1, s2, s3, LIMIT, 3, HARDWARE)
        _store_turned(turned, w, p * (BLOCK // 4) + i, c, K_t // 4, outer_t)
        if values is None:
            under = tl.sum(lost(v0, v1, v2, v3, s0, s1, s2, s3, 3, HARDWARE))
    tl.atomic_add(counts + 2, under.to(tl.int64), mask=under > 0)
    if wild:
        _count_wild(counts, x, of, row, of_row, p * BLOCK, c, R, C, SQUARED, BLOCK)
