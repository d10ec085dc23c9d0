"""Rows to 8-bit floats, each by a scale of its own: `cairn.ops.narrow.cast_rows`.

A program takes one row, twice: for its largest magnitude, and to cast it.
"""

# pyright: reportAttributeAccessIssue=false, reportMissingImports=false, reportIndexIssue=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from cairn.ops.fp8 import E4M3, LARGEST_SCALE, LIMITS
from cairn.ops.triton.fp8_codes import codes_of, inverse_of, magnitude, scale_of


def cast_rows(x: Tensor, squared: bool) -> tuple[Tensor, Tensor]:
    """x [T, I], of any row stride, in E4M3 and the inverse scales fp32 [T]."""
    x = x if x.stride(-1) == 1 else x.contiguous()
    rows, size = x.shape
    values = torch.empty(rows, size, dtype=E4M3, device=x.device)
    inverse = torch.empty(rows, dtype=torch.float32, device=x.device)
    if rows:
        block = min(8192, triton.next_power_of_2(size))
        _cast_row[(rows,)](
            x, values.view(torch.uint8), inverse, x.stride(0),
            SIZE=size, BLOCK=block, SQUARED=squared, LIMIT=LIMITS[E4M3], LARGEST=LARGEST_SCALE,
            HARDWARE=x.is_cuda, num_warps=max(1, min(16, block // 512)),
        )  # fmt: skip
    return values, inverse


@triton.jit
def _part(x, at, inside, SQUARED: tl.constexpr):
    v = tl.load(x + at, mask=inside, other=0).to(tl.float32)
    if SQUARED:
        v = tl.where(v < 0, 0.0, v)  # keeps NaN
        v *= v
    return v


@triton.jit
def _cast_row(
    x,
    values,
    inverse,
    row,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    SQUARED: tl.constexpr,
    LIMIT: tl.constexpr,
    LARGEST: tl.constexpr,
    HARDWARE: tl.constexpr,
):
    t = tl.program_id(0).to(tl.int64)
    x += t * row
    i = tl.arange(0, BLOCK)
    if SIZE <= BLOCK:
        v = _part(x, i, i < SIZE, SQUARED)
        scale = scale_of(tl.max(magnitude(v), 0), LIMIT, LARGEST)
        codes = codes_of(v, v * scale, LIMIT, 3, HARDWARE)
        tl.store(values + t * SIZE + i, codes, mask=i < SIZE)
    else:
        largest = tl.zeros([BLOCK], tl.float32)
        for start in range(0, SIZE, BLOCK):
            largest = tl.maximum(largest, magnitude(_part(x, start + i, start + i < SIZE, SQUARED)))
        scale = scale_of(tl.max(largest, 0), LIMIT, LARGEST)
        for start in range(0, SIZE, BLOCK):
            v = _part(x, start + i, start + i < SIZE, SQUARED)
            codes = codes_of(v, v * scale, LIMIT, 3, HARDWARE)
            tl.store(values + t * SIZE + start + i, codes, mask=start + i < SIZE)
    tl.store(inverse + t, inverse_of(scale))
