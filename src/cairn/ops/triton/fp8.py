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
import triton
import triton.language as tl
from torch import Tensor

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
) -> Cast:
    """`cairn.ops.fp8.cast`; counts int64 [3, 3] by role, of NaN, overflows and underflows."""
    x = x if x.stride(-1) == 1 else x.contiguous()
    if of is not None:
        of = of if of.stride(-1) == 1 else of.contiguous()
    source = x, of, x.stride(0), 0 if of is None else of.stride(0)
    squared = before == "squared_relu"
    counted = counts[ROLES.index(role)]
    if recipe == "current":
        return _cast_tensor(source, format_of(recipe, role), counted, rows, columns, squared)
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
    source: Source, dtype: torch.dtype, counts: Tensor, rows: bool, columns: bool, squared: bool
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
def _made(scaled, LIMIT: tl.constexpr, MANTISSA: tl.constexpr):
    """Bytes of `scaled` in FP8, to nearest, even on ties, by integers; NaN stays one."""
    SHIFT: tl.constexpr = 23 - MANTISSA
    BIAS: tl.constexpr = 7 if MANTISSA == 3 else 15
    # Adding this leaves subnormal numbers' multiples of the smallest in the last bits.
    STEP: tl.constexpr = 2.0 ** (23 + 1 - BIAS - MANTISSA)
    a = tl.minimum(tl.abs(scaled), LIMIT)
    bits = a.to(tl.int32, bitcast=True)
    normal = (bits + ((bits >> SHIFT) & 1) + ((1 << (SHIFT - 1)) - 1)) >> SHIFT
    normal -= (127 - BIAS) << MANTISSA
    small = (a + STEP).to(tl.int32, bitcast=True) & 0xFF
    size = tl.where(a < 2.0 ** (1 - BIAS), small, normal)
    size = tl.where(scaled == scaled, size, 0x7F)
    sign = (scaled.to(tl.int32, bitcast=True) >> 24) & 0x80
    return (size | sign).to(tl.uint8)


@triton.jit
def _codes(v, scaled, LIMIT: tl.constexpr, MANTISSA: tl.constexpr, HARDWARE: tl.constexpr):
    """Bytes of `scaled` in FP8, to nearest, even on ties; NaN where v is not finite."""
    scaled = tl.where(tl.abs(v) < float("inf"), scaled, float("nan"))
    if HARDWARE:  # what rounding lifts over the limit becomes the limit
        if MANTISSA == 3:
            return scaled.to(tl.float8e4nv).to(tl.uint8, bitcast=True)
        else:
            return scaled.to(tl.float8e5).to(tl.uint8, bitcast=True)
    else:
        return _made(scaled, LIMIT, MANTISSA)


@triton.jit
def _fours(v, scaled, LIMIT: tl.constexpr, MANTISSA: tl.constexpr, HARDWARE: tl.constexpr):
    """`_codes`, four of a thread's at once, into one register.

    The compiler's own conversion makes two in half a register. Where bytes are stored and make
    words too, those that it makes on an H200 (Triton 3.6.0) are wrong.
    """
    if HARDWARE:
        scaled = tl.where(tl.abs(v) < float("inf"), scaled, float("nan"))
        if MANTISSA == 3:
            return tl.inline_asm_elementwise(
                "{ .reg .b16 a, b; cvt.rn.satfinite.e4m3x2.f32 a, $2, $1; "
                "cvt.rn.satfinite.e4m3x2.f32 b, $4, $3; mov.b32 $0, {a, b}; }",
                "=r,r,r,r,r", [scaled], dtype=tl.uint8, is_pure=True, pack=4,
            )  # fmt: skip
        else:
            return tl.inline_asm_elementwise(
                "{ .reg .b16 a, b; cvt.rn.satfinite.e5m2x2.f32 a, $2, $1; "
                "cvt.rn.satfinite.e5m2x2.f32 b, $4, $3; mov.b32 $0, {a, b}; }",
                "=r,r,r,r,r", [scaled], dtype=tl.uint8, is_pure=True, pack=4,
            )  # fmt: skip
    else:
        return _codes(v, scaled, LIMIT, MANTISSA, HARDWARE)


@triton.jit
def _bytes_set(word):
    """How many of a word's bytes have their highest bit set."""
    return (((word >> 7) & 0x01010101) * 0x01010101) >> 24


@triton.jit
def _tally(words, some):
    """2^16 for what is not finite, and 1 for what became 0: sums of a tile fit both.

    words holds four codes each, `some` how many of the four were not 0.
    """
    size = words & 0x7F7F7F7F
    return (some - _bytes_set(size + 0x7F7F7F7F)) + _bytes_set(size + 0x01010101) * 65536


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
    found = tl.max(tl.max(_magnitude(_tile(x, of, row, of_row, r, c, R, C, SQUARED)), 1), 0)
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
    scale = _scale_of(tl.load(largest).to(tl.float32, bitcast=True), LIMIT, LARGEST, False)
    if tl.program_id(0) + tl.program_id(1) == 0:
        tl.store(inverse, _inverse_of(scale))
    words = tl.zeros((BLOCK // 4, BLOCK), tl.int32)
    some = tl.zeros_like(words)
    for k in tl.static_range(4):
        r = first + 4 * i + k
        v = _tile(x, of, row, of_row, r, c, R, C, SQUARED)
        codes = _fours(v, v * scale, LIMIT, MANTISSA, HARDWARE)
        some += (v != 0).to(tl.int32)
        words |= codes.to(tl.int32) << 8 * k
        if values is not None:
            there = (r < outer)[:, None] & (c < C)[None, :]
            tl.store(values + r[:, None] * C + c[None, :], codes, mask=there)
    if turned is not None:
        _store_turned(turned, words, first // 4 + i, c, outer // 4, C)
    _count(counts, _tally(words, some), x, of, row, of_row, first, c, R, C, SQUARED, BLOCK)


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
        a = _magnitude(v)
        if turned is not None:
            size = tl.maximum(size, a)
        if values is not None:
            scale = _scale_of(tl.max(a, 1), LIMIT, LARGEST, True)
            codes = _fours(v, v * scale[:, None], LIMIT, MANTISSA, HARDWARE)
            words |= codes.to(tl.int32) << 8 * k
            tl.store(inverse + q * step + r, _inverse_of(scale), mask=r < outer)
            there = (r < outer)[:, None] & (c < K)[None, :]
            tl.store(values + r[:, None] * K + c[None, :], codes, mask=there)
    tally = _tally(words, some)
    if turned is not None:
        scale = _scale_of(tl.max(size, 0), LIMIT, LARGEST, True)
        words = tl.zeros((BLOCK // 4, BLOCK), tl.int32)
        for k in tl.static_range(4):
            v = _tile(x, of, row, of_row, p * BLOCK + 4 * i + k, c, R, C, SQUARED)
            codes = _fours(v, v * scale[None, :], LIMIT, MANTISSA, HARDWARE)
            words |= codes.to(tl.int32) << 8 * k
        tl.store(inverse_t + p * step_t + c, _inverse_of(scale), mask=c < outer_t)
        if values is None:
            tally = _tally(words, some)
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
        size = tl.maximum(size, _magnitude(v))
    scale = _scale_of(tl.max(tl.max(size, 1), 0), LIMIT, LARGEST, True)
    for k in tl.static_range(4):
        r = p * BLOCK + 4 * i + k
        v = _tile(x, of, row, of_row, r, c, R, C, SQUARED)
        codes = _fours(v, v * scale, LIMIT, MANTISSA, HARDWARE)
        some += (v != 0).to(tl.int32)
        words |= codes.to(tl.int32) << 8 * k
        if values is not None:
            there = (r < outer)[:, None] & (c < K)[None, :]
            tl.store(values + r[:, None] * K + c[None, :], codes, mask=there)
    if values is not None:
        tl.store(inverse + p * step + q, _inverse_of(scale))
    if turned is not None:
        tl.store(inverse_t + q * step_t + p, _inverse_of(scale))
        _store_turned(turned, words, p * (BLOCK // 4) + i, c, K_t // 4, outer_t)
    _count(counts, _tally(words, some), x, of, row, of_row, p * BLOCK, c, R, C, SQUARED, BLOCK)
