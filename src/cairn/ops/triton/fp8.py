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
from cairn.ops.triton.fp8_codes import fours, inverse_of, magnitude, scale_of, tally_of

WARPS = 4  # of a program; more of the one that keeps a tile's fp32 elements for its one scale
TILE_WARPS = 16
_WIDE = 512  # columns that a program looks for the largest magnitude in


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
        kernel = _cast_tiles if tiles else _cast_rows
        kernel[(triton.cdiv(R, BLOCK), triton.cdiv(C, BLOCK))](
            *source, *parts, counted, *_sizes(x, first, second), *_steps(first, second),
            SQUARED=squared, **_form(E4M3, x), num_warps=TILE_WARPS if tiles else WARPS,
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
    largest = torch.zeros(1, dtype=torch.int32, device=x.device)
    inverse = torch.empty(1, device=x.device)
    outer, kind = R + -R % WIDTH, "tensor"
    first = Operand(_empty(outer, C, dtype, x), inverse, kind) if rows else None
    second = Operand(_empty(C, outer, dtype, x), inverse, kind) if columns else None
    grid = triton.cdiv(R, BLOCK // 4), triton.cdiv(C, _WIDE)
    if x.numel():
        _largest[grid](
            *source, largest, R, C,
            SQUARED=squared, BLOCK_R=BLOCK // 4, BLOCK_C=_WIDE, num_warps=8,
        )  # fmt: skip
    if group is not None:  # bits of numbers that are not negative are ordered as they are
        dist.all_reduce(largest, dist.ReduceOp.MAX, group)
    if x.numel():
        _cast_one[(triton.cdiv(R, BLOCK), triton.cdiv(C, BLOCK))](
            *source, largest, _parts(first, torch.uint8)[0], _parts(second, torch.int32)[0],
            inverse, counts, R, C, outer,
            SQUARED=squared, **_form(dtype, x), num_warps=WARPS,
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
def _count(
    counts, tally, x, of, row, of_row, first, c, R, C, SQUARED: tl.constexpr, BLOCK: tl.constexpr
):
    """Add a tile's sums. Hardly any has what is not finite, of which NaN is looked for again."""
    total = tl.sum(tally)
    under, wild = total & 0xFFFF, total >> 16
    tl.atomic_add(counts + 2, under.to(tl.int64), mask=under > 0)
    if wild > 0:
        nan = 0
        for k in range(4):
            r = first + 4 * tl.arange(0, BLOCK // 4) + k
            v = _tile(x, of, row, of_row, r, c, R, C, SQUARED)
            nan += tl.sum((v != v).to(tl.int32))
        tl.atomic_add(counts, nan.to(tl.int64))
        tl.atomic_add(counts + 1, (wild - nan).to(tl.int64))


@triton.jit(do_not_specialize=["R"])
def _largest(
    x,
    of,
    row,
    of_row,
    largest,
    R,
    C,
    SQUARED: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    r = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    found = tl.max(tl.max(magnitude(_tile(x, of, row, of_row, r, c, R, C, SQUARED)), 1), 0)
    # Bits of numbers that are not negative are ordered as they are.
    tl.atomic_max(largest, found.to(tl.int32, bitcast=True))


@triton.jit(do_not_specialize=["R"])
def _cast_one(
    x,
    of,
    row,
    of_row,
    largest,
    values,
    turned,
    inverse,
    counts,
    R,
    C,
    outer,
    SQUARED: tl.constexpr,
    LIMIT: tl.constexpr,
    MANTISSA: tl.constexpr,
    HARDWARE: tl.constexpr,
    BLOCK: tl.constexpr,
    LARGEST: tl.constexpr,
):
    """values [outer, C]; turned [C, outer / 4], four rows' bytes a word; either may be missing."""
    first = tl.program_id(0).to(tl.int64) * BLOCK
    i = tl.arange(0, BLOCK // 4)
    c = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    scale = scale_of(tl.load(largest).to(tl.float32, bitcast=True), LIMIT, LARGEST, False)
    if tl.program_id(0) + tl.program_id(1) == 0:
        tl.store(inverse, inverse_of(scale))
    words = tl.zeros((BLOCK // 4, BLOCK), tl.int32)
    some = tl.zeros_like(words)
    for k in tl.static_range(4):
        r = first + 4 * i + k
        v = _tile(x, of, row, of_row, r, c, R, C, SQUARED)
        codes = fours(v, v * scale, LIMIT, MANTISSA, HARDWARE)
        some += (v != 0).to(tl.int32)
        words |= codes.to(tl.int32) << 8 * k
        if values is not None:
            there = (r < outer)[:, None] & (c < C)[None, :]
            tl.store(values + r[:, None] * C + c[None, :], codes, mask=there)
    if turned is not None:
        _store_turned(turned, words, first // 4 + i, c, outer // 4, C)
    _count(counts, tally_of(words, some), x, of, row, of_row, first, c, R, C, SQUARED, BLOCK)


@triton.jit
def _store_turned(turned, words, w, c, row, C):
    there = (c < C)[:, None] & (w < row)[None, :]
    tl.store(turned + c[:, None] * row + w[None, :], tl.trans(words), mask=there)


@triton.jit(do_not_specialize=["R"])
def _cast_rows(
    x,
    of,
    row,
    of_row,
    values,
    inverse,
    turned,
    inverse_t,
    counts,
    R,
    C,
    outer,
    K,
    outer_t,
    K_t,
    step,
    step_t,
    SQUARED: tl.constexpr,
    LIMIT: tl.constexpr,
    MANTISSA: tl.constexpr,
    HARDWARE: tl.constexpr,
    BLOCK: tl.constexpr,
    LARGEST: tl.constexpr,
):
    """values [outer, K] by scales along K; turned [outer_t, K_t / 4] by scales along K_t.

    Scales of columns are known when all rows were read, which are then read again, from a cache.
    """
    p, q = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    i, c = tl.arange(0, BLOCK // 4), q * BLOCK + tl.arange(0, BLOCK)
    words = tl.zeros((BLOCK // 4, BLOCK), tl.int32)
    some = tl.zeros_like(words)
    size = tl.zeros((BLOCK // 4, BLOCK), tl.float32)
    for k in tl.static_range(4):
        r = p * BLOCK + 4 * i + k
        v = _tile(x, of, row, of_row, r, c, R, C, SQUARED)
        some += (v != 0).to(tl.int32)
        a = magnitude(v)
        if turned is not None:
            size = tl.maximum(size, a)
        if values is not None:
            scale = scale_of(tl.max(a, 1), LIMIT, LARGEST, True)
            codes = fours(v, v * scale[:, None], LIMIT, MANTISSA, HARDWARE)
            words |= codes.to(tl.int32) << 8 * k
            tl.store(inverse + q * step + r, inverse_of(scale), mask=r < outer)
            there = (r < outer)[:, None] & (c < K)[None, :]
            tl.store(values + r[:, None] * K + c[None, :], codes, mask=there)
    tally = tally_of(words, some)
    if turned is not None:
        scale = scale_of(tl.max(size, 0), LIMIT, LARGEST, True)
        words = tl.zeros((BLOCK // 4, BLOCK), tl.int32)
        for k in tl.static_range(4):
            v = _tile(x, of, row, of_row, p * BLOCK + 4 * i + k, c, R, C, SQUARED)
            codes = fours(v, v * scale[None, :], LIMIT, MANTISSA, HARDWARE)
            words |= codes.to(tl.int32) << 8 * k
        tl.store(inverse_t + p * step_t + c, inverse_of(scale), mask=c < outer_t)
        if values is None:
            tally = tally_of(words, some)
        _store_turned(turned, words, p * (BLOCK // 4) + i, c, K_t // 4, outer_t)
    _count(counts, tally, x, of, row, of_row, p * BLOCK, c, R, C, SQUARED, BLOCK)


@triton.jit(do_not_specialize=["R"])
def _cast_tiles(
    x,
    of,
    row,
    of_row,
    values,
    inverse,
    turned,
    inverse_t,
    counts,
    R,
    C,
    outer,
    K,
    outer_t,
    K_t,
    step,
    step_t,
    SQUARED: tl.constexpr,
    LIMIT: tl.constexpr,
    MANTISSA: tl.constexpr,
    HARDWARE: tl.constexpr,
    BLOCK: tl.constexpr,
    LARGEST: tl.constexpr,
):
    """values [outer, K] and turned [outer_t, K_t / 4] by one scale a tile."""
    p, q = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    i, c = tl.arange(0, BLOCK // 4), q * BLOCK + tl.arange(0, BLOCK)
    words = tl.zeros((BLOCK // 4, BLOCK), tl.int32)
    some = tl.zeros_like(words)
    size = tl.zeros((BLOCK // 4, BLOCK), tl.float32)
    for k in tl.static_range(4):
        v = _tile(x, of, row, of_row, p * BLOCK + 4 * i + k, c, R, C, SQUARED)
        size = tl.maximum(size, magnitude(v))
    scale = scale_of(tl.max(tl.max(size, 1), 0), LIMIT, LARGEST, True)
    for k in tl.static_range(4):
        r = p * BLOCK + 4 * i + k
        v = _tile(x, of, row, of_row, r, c, R, C, SQUARED)
        codes = fours(v, v * scale, LIMIT, MANTISSA, HARDWARE)
        some += (v != 0).to(tl.int32)
        words |= codes.to(tl.int32) << 8 * k
        if values is not None:
            there = (r < outer)[:, None] & (c < K)[None, :]
            tl.store(values + r[:, None] * K + c[None, :], codes, mask=there)
    if values is not None:
        tl.store(inverse + p * step + q, inverse_of(scale))
    if turned is not None:
        tl.store(inverse_t + q * step_t + p, inverse_of(scale))
        _store_turned(turned, words, p * (BLOCK // 4) + i, c, K_t // 4, outer_t)
    _count(counts, tally_of(words, some), x, of, row, of_row, p * BLOCK, c, R, C, SQUARED, BLOCK)
