"""Casts to FP8 in both orders in one pass: `cairn.ops.fp8.cast`.

A program takes 128 x 128 elements. With one scale a tensor, a pass for the largest magnitude goes
before; with blocks, scales are found where the elements already are. What is counted and the
largest magnitude are integers, so that results do not depend on the order of programs.
"""

# pyright: reportAttributeAccessIssue=false, reportMissingImports=false, reportIndexIssue=false
# pyright: reportPossiblyUnboundVariable=false, reportOperatorIssue=false

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from cairn.ops.fp8 import (
    BLOCK,
    E4M3,
    LARGEST_SCALE,
    LIMITS,
    OVER,
    ROLES,
    WIDTH,
    Cast,
    Kind,
    Operand,
    Recipe,
    Role,
    format_of,
)

_WIDE = 512  # columns that a program looks for the largest magnitude in


def cast(
    x: Tensor,
    role: Role,
    recipe: Recipe,
    counts: Tensor,
    rows: bool,
    columns: bool,
    squared_relu: bool,
) -> Cast:
    """`cairn.ops.fp8.cast`; counts int64 [3, 3] by role, of NaN, overflows and underflows."""
    x = x if x.stride(-1) == 1 else x.contiguous()
    counted = counts[ROLES.index(role)]
    if recipe == "current":
        return _cast_tensor(x, format_of(recipe, role), counted, rows, columns, squared_relu)
    R, C = x.shape
    tiles = role == "weights"
    first = _blocks(R, C, tiles, x) if rows else None
    second = _blocks(C, R, tiles, x) if columns else None
    parts = [part for operand in (first, second) for part in _parts(operand)]
    if x.numel() and (rows or columns):
        _cast_blocks[(triton.cdiv(R, BLOCK), triton.cdiv(C, BLOCK))](
            x, *parts, counted, x.stride(0), *_sizes(x, first, second), *_steps(first, second),
            TILES=tiles, SQUARED=squared_relu, **_form(E4M3, x), num_warps=8,
        )  # fmt: skip
    return first, second


def _cast_tensor(
    x: Tensor, dtype: torch.dtype, counts: Tensor, rows: bool, columns: bool, squared: bool
) -> Cast:
    R, C = x.shape
    largest = torch.zeros(1, dtype=torch.int32, device=x.device)
    inverse = torch.empty(1, device=x.device)
    outer, kind = R + -R % WIDTH, "tensor"
    first = Operand(_empty(outer, C, dtype, x), inverse, kind) if rows else None
    second = Operand(_empty(C, outer, dtype, x), inverse, kind) if columns else None
    grid = triton.cdiv(R, BLOCK // 4), triton.cdiv(C, _WIDE)
    if x.numel():
        _largest[grid](
            x, largest, x.stride(0), R, C,
            SQUARED=squared, BLOCK_R=BLOCK // 4, BLOCK_C=_WIDE, num_warps=8,
        )  # fmt: skip
        _cast_one[(triton.cdiv(R, BLOCK), triton.cdiv(C, BLOCK))](
            x, largest, *(None if o is None else _bytes(o.values) for o in (first, second)),
            inverse, counts, x.stride(0), R, C, outer,
            SQUARED=squared, **_form(dtype, x), num_warps=8,
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


def _parts(x: Operand | None) -> tuple[Tensor | None, Tensor | None]:
    return (None, None) if x is None else (_bytes(x.values), x.inverse)


def _bytes(values: Tensor) -> Tensor:
    return values.view(torch.uint8)


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
        "OVER": LIMITS[dtype] * OVER,
    }


@triton.jit
def _tile(x, row, r, c, R, C, SQUARED: tl.constexpr):
    """Elements in fp32, 0 outside."""
    inside = (r < R)[:, None] & (c < C)[None, :]
    v = tl.load(x + r[:, None] * row + c[None, :], mask=inside, other=0).to(tl.float32)
    if SQUARED:
        v = tl.where(v < 0, 0.0, v)  # keeps NaN
        v *= v
    return v


@triton.jit
def _magnitude(v):
    """|v|, of what is not finite 0."""
    a = tl.abs(v)
    return tl.where(a < float("inf"), a, 0.0)


@triton.jit
def _scale_of(largest, LIMIT: tl.constexpr, LARGEST: tl.constexpr, WHOLE: tl.constexpr):
    """LIMIT / largest, 1 for 0; WHOLE down to a power of two."""
    some = largest > 0
    scale = tl.math.div_rn(tl.full(largest.shape, LIMIT, tl.float32), tl.where(some, largest, 1.0))
    scale = tl.minimum(scale, LARGEST)
    if WHOLE:
        scale = (scale.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)
    return tl.where(some, scale, 1.0)


@triton.jit
def _inverse_of(scale):
    return tl.math.div_rn(tl.full(scale.shape, 1.0, tl.float32), scale)


@triton.jit
def _codes(v, scaled, LIMIT: tl.constexpr, MANTISSA: tl.constexpr, HARDWARE: tl.constexpr):
    """Bytes of `scaled` within the limit in FP8; NaN where v is not finite."""
    scaled = tl.minimum(tl.maximum(scaled, -LIMIT), LIMIT)
    if HARDWARE:
        if MANTISSA == 3:
            codes = scaled.to(tl.float8e4nv).to(tl.uint8, bitcast=True)
        else:
            codes = scaled.to(tl.float8e5).to(tl.uint8, bitcast=True)
    else:
        SHIFT: tl.constexpr = 23 - MANTISSA
        BIAS: tl.constexpr = 7 if MANTISSA == 3 else 15
        # Adding this leaves subnormal numbers' multiples of the smallest in the last bits.
        STEP: tl.constexpr = 2.0 ** (23 + 1 - BIAS - MANTISSA)
        a = tl.abs(scaled)
        bits = a.to(tl.int32, bitcast=True)
        normal = (bits + ((bits >> SHIFT) & 1) + ((1 << (SHIFT - 1)) - 1)) >> SHIFT
        normal -= (127 - BIAS) << MANTISSA
        small = (a + STEP).to(tl.int32, bitcast=True) & 0xFF
        size = tl.where(a < 2.0 ** (1 - BIAS), small, normal)
        sign = (scaled.to(tl.int32, bitcast=True) >> 24) & 0x80
        codes = (size | sign).to(tl.uint8)
    return tl.where(tl.abs(v) < float("inf"), codes, 0x7F).to(tl.uint8)


@triton.jit
def _count(counts, v, scaled, codes, OVER: tl.constexpr):
    """Add how many are NaN, overflowed, became 0; most programs have none of the first two."""
    nan = v != v
    over = (tl.abs(v) == float("inf")) | ((tl.abs(scaled) > OVER) & (v == v))
    under = ((codes & 0x7F) == 0) & (v != 0)
    nans, overs = tl.sum(nan.to(tl.int32)), tl.sum(over.to(tl.int32))
    unders = tl.sum(under.to(tl.int32))
    tl.atomic_add(counts, nans.to(tl.int64), mask=nans > 0)
    tl.atomic_add(counts + 1, overs.to(tl.int64), mask=overs > 0)
    tl.atomic_add(counts + 2, unders.to(tl.int64), mask=unders > 0)


@triton.jit(do_not_specialize=["R", "C"])
def _largest(
    x, largest, row, R, C, SQUARED: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr
):
    r = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    found = tl.max(tl.max(_magnitude(_tile(x, row, r, c, R, C, SQUARED)), 1), 0)
    # Bits of numbers that are not negative are ordered as they are.
    tl.atomic_max(largest, found.to(tl.int32, bitcast=True))


@triton.jit(do_not_specialize=["R", "C", "outer"])
def _cast_one(
    x,
    largest,
    values,
    turned,
    inverse,
    counts,
    row,
    R,
    C,
    outer,
    SQUARED: tl.constexpr,
    LIMIT: tl.constexpr,
    MANTISSA: tl.constexpr,
    HARDWARE: tl.constexpr,
    BLOCK: tl.constexpr,
    LARGEST: tl.constexpr,
    OVER: tl.constexpr,
):
    """values [outer, C], turned [C, outer]; either may be missing."""
    r = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    c = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    v = _tile(x, row, r, c, R, C, SQUARED)
    scale = _scale_of(tl.load(largest).to(tl.float32, bitcast=True), LIMIT, LARGEST, False)
    if tl.program_id(0) + tl.program_id(1) == 0:
        tl.store(inverse, _inverse_of(scale))
    scaled = v * scale
    codes = _codes(v, scaled, LIMIT, MANTISSA, HARDWARE)
    _count(counts, v, scaled, codes, OVER)
    if values is not None:
        there = (r < outer)[:, None] & (c < C)[None, :]
        tl.store(values + r[:, None] * C + c[None, :], codes, mask=there)
    if turned is not None:
        there = (c < C)[:, None] & (r < outer)[None, :]
        tl.store(turned + c[:, None] * outer + r[None, :], tl.trans(codes), mask=there)


@triton.jit(do_not_specialize=["R", "C", "outer", "K", "outer_t", "K_t"])
def _cast_blocks(
    x,
    values,
    inverse,
    turned,
    inverse_t,
    counts,
    row,
    R,
    C,
    outer,
    K,
    outer_t,
    K_t,
    step,
    step_t,
    TILES: tl.constexpr,
    SQUARED: tl.constexpr,
    LIMIT: tl.constexpr,
    MANTISSA: tl.constexpr,
    HARDWARE: tl.constexpr,
    BLOCK: tl.constexpr,
    LARGEST: tl.constexpr,
    OVER: tl.constexpr,
):
    """values [outer, K] by scales along K; turned [outer_t, K_t] by scales along K_t."""
    p, q = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    r, c = p * BLOCK + tl.arange(0, BLOCK), q * BLOCK + tl.arange(0, BLOCK)
    v = _tile(x, row, r, c, R, C, SQUARED)
    size = _magnitude(v)
    if TILES:
        scale = _scale_of(tl.max(tl.max(size, 1), 0), LIMIT, LARGEST, True)
        scaled = v * scale
        codes = _codes(v, scaled, LIMIT, MANTISSA, HARDWARE)
        _count(counts, v, scaled, codes, OVER)
        if values is not None:
            tl.store(inverse + p * step + q, _inverse_of(scale))
        if turned is not None:
            tl.store(inverse_t + q * step_t + p, _inverse_of(scale))
    elif values is not None:
        scale = _scale_of(tl.max(size, 1), LIMIT, LARGEST, True)
        scaled = v * scale[:, None]
        codes = _codes(v, scaled, LIMIT, MANTISSA, HARDWARE)
        _count(counts, v, scaled, codes, OVER)
        tl.store(inverse + q * step + r, _inverse_of(scale), mask=r < outer)
    if values is not None:
        there = (r < outer)[:, None] & (c < K)[None, :]
        tl.store(values + r[:, None] * K + c[None, :], codes, mask=there)
    if turned is not None:
        if not TILES:
            scale = _scale_of(tl.max(size, 0), LIMIT, LARGEST, True)
            scaled = v * scale[None, :]
            codes = _codes(v, scaled, LIMIT, MANTISSA, HARDWARE)
            if values is None:
                _count(counts, v, scaled, codes, OVER)
            tl.store(inverse_t + p * step_t + c, _inverse_of(scale), mask=c < outer_t)
        there = (c < outer_t)[:, None] & (r < K_t)[None, :]
        tl.store(turned + c[:, None] * K_t + r[None, :], tl.trans(codes), mask=there)
