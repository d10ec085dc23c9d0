"""Rows times a weight, summed in an order that the weight's shape alone decides.

The weight is the tall operand of the matrix unit, so that few rows waste little of it, and it is
read once. The inner dimension is summed in blocks of a fixed size, from the first to the last,
within a fixed number of parts, which are added in order: how many rows there are changes nothing
in any of them. Weights and rows of 8 bits are widened in registers, where that is exact.
Legend: T rows, K inner dimension, O outputs.
"""

# pyright: reportAttributeAccessIssue=false, reportMissingImports=false, reportIndexIssue=false

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from cairn.ops.triton.early import early, in_turn

OUTPUTS = 64  # of a program
INNER = 128  # of a step
ENOUGH = 200  # programs that keep a GPU's memory busy
MOST_PARTS = 8
MOST_ROWS = 64  # of a program


def product(
    x: Tensor,
    weight: Tensor,
    scales: Tensor | None = None,
    inverse: Tensor | None = None,
    dtype: torch.dtype | None = None,
    launch: dict[str, int] | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """x [T, K] times the transpose of weight [O, K], times scales [T] and inverse [O], plus bias.

    Weight and rows in fp32, bf16 or E4M3; sums in fp32; [T, O] in `dtype` (x's).
    """
    x = x if x.stride(-1) == 1 else x.contiguous()
    weight = weight if weight.stride(-1) == 1 else weight.contiguous()
    (T, K), (OUT, _) = x.shape, weight.shape
    constants = _constants(OUT, K, weight.itemsize, **(launch or {}))
    parts = constants["PARTS"]
    rows = min(MOST_ROWS, max(16, 1 << (T - 1).bit_length()))
    out = torch.empty(T, OUT, dtype=dtype or x.dtype, device=x.device)
    held = out
    if parts > 1:
        held = torch.empty(parts, T, OUT, dtype=torch.float32, device=x.device)
    if not T:
        return out
    grid = -(-OUT // constants["BLOCK_O"]), parts, -(-T // rows)
    _product[grid](
        x, weight, scales, inverse, bias, held, T, x.stride(0), weight.stride(0),
        BLOCK_T=rows, **constants, **early(x),
    )  # fmt: skip
    if parts > 1:
        grid = T, -(-OUT // 1024)
        _join[grid](
            held, scales, inverse, bias, out, T, OUT=OUT, PARTS=parts, BLOCK=1024, num_warps=4,
            **early(x),
        )  # fmt: skip
    return out


@cache
def _constants(outputs: int, inner: int, itemsize: int, **launch: int) -> dict[str, int]:
    """What `_product` is launched with, for weights of 4, 2 or 1 bytes."""
    tile = {"BLOCK_O": OUTPUTS, "BLOCK_K": INNER, "num_warps": 4, "num_stages": 4}
    if itemsize == 4:
        tile |= {"BLOCK_K": 32, "num_stages": 2}
    elif itemsize == 1:
        tile |= {"BLOCK_O": 32, "BLOCK_K": 256}
    tile |= launch
    parts = tile.get("PARTS", 0) or parts_of(outputs, inner, tile["BLOCK_O"], tile["BLOCK_K"])
    return tile | {"K": inner, "OUT": outputs, "PARTS": parts}


def parts_of(outputs: int, inner: int, block_o: int = OUTPUTS, block_k: int = INNER) -> int:
    """Parts that the inner dimension is summed in."""
    parts, programs = 1, -(-outputs // block_o)
    while parts < MOST_PARTS and programs * parts < ENOUGH and inner // (2 * parts) >= 4 * block_k:
        parts *= 2
    return parts


@triton.jit(do_not_specialize=["T"])
def _product(
    x,
    weight,
    scales,
    inverse,
    bias,
    out,
    T,
    x_row,
    w_row,
    K: tl.constexpr,
    OUT: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EARLY: tl.constexpr,
):
    STEPS: tl.constexpr = ((K + BLOCK_K - 1) // BLOCK_K + PARTS - 1) // PARTS
    o = tl.program_id(0).to(tl.int64) * BLOCK_O + tl.arange(0, BLOCK_O)
    part = tl.program_id(1)
    t = tl.program_id(2).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    k = part * STEPS * BLOCK_K + tl.arange(0, BLOCK_K)
    w_at = weight + o[:, None] * w_row + k[None, :]
    x_at = x + t[None, :] * x_row + k[:, None]
    o_in, t_in = o < OUT, t < T
    if EARLY:
        in_turn()
    acc = tl.zeros([BLOCK_O, BLOCK_T], tl.float32)
    for step in range(STEPS):
        k_in = k + step * BLOCK_K < K
        w = tl.load(w_at + step * BLOCK_K, mask=o_in[:, None] & k_in[None, :], other=0.0)
        v = tl.load(x_at + step * BLOCK_K, mask=t_in[None, :] & k_in[:, None], other=0.0)
        if w.dtype.is_fp8():
            w, v = w.to(tl.float16), v.to(tl.float16)  # the cast that a GPU has
        acc = tl.dot(w, v, acc, input_precision="ieee")
    at = t[None, :] * OUT + o[:, None]
    if PARTS > 1:
        at += part.to(tl.int64) * T * OUT
    else:
        if scales is not None:
            acc *= tl.load(scales + t, mask=t_in, other=0.0)[None, :]
        if inverse is not None:
            acc *= tl.load(inverse + o, mask=o_in, other=0.0)[:, None]
        if bias is not None:
            acc += tl.load(bias + o, mask=o_in, other=0.0).to(tl.float32)[:, None]
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=o_in[:, None] & t_in[None, :])


@triton.jit(do_not_specialize=["T"])
def _join(
    held,
    scales,
    inverse,
    bias,
    out,
    T,
    OUT: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
    EARLY: tl.constexpr,
):
    if EARLY:
        in_turn()
    t = tl.program_id(0).to(tl.int64)
    o = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = o < OUT
    total = tl.zeros([BLOCK], tl.float32)
    for part in tl.static_range(PARTS):
        total += tl.load(held + (part * T + t) * OUT + o, mask=inside, other=0.0)
    if scales is not None:
        total *= tl.load(scales + t)
    if inverse is not None:
        total *= tl.load(inverse + o, mask=inside, other=0.0)
    if bias is not None:
        total += tl.load(bias + o, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + t * OUT + o, total.to(out.dtype.element_ty), mask=inside)
