"""A few rows times a weight of 16 bits, as fast as a GPU's memory gives the weight.

One row is multiplied outside of the matrix units: a program has a few outputs and all of the inner
dimension, so that nothing is joined afterwards. More are served by `rows`, in other blocks than
where sums may not depend on the batch. Sums in fp32, in an order that shapes alone decide.
Legend: T rows, K inner dimension, O outputs.
"""

# pyright: reportAttributeAccessIssue=false, reportMissingImports=false, reportIndexIssue=false
# pyright: reportOperatorIssue=false

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from cairn.ops.triton import rows
from cairn.ops.triton.early import early, in_turn

# What was fastest on an H200, of ten settings each (python bench/rows.py --tiles).
INNER = 1024  # of a step: 16 bytes of a weight a thread
AT_ONCE = 5  # steps at most whose loads are under way together
HELD = 24 * 1024  # of a weight, what a program multiplies
TILE = {"BLOCK_O": 64, "BLOCK_K": 128, "num_warps": 4, "num_stages": 4}
PROGRAMS = 132  # of fewer, the inner dimension is cut in two


def product(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    dtype: torch.dtype | None = None,
    launch: dict[str, int] | None = None,
) -> Tensor:
    """x [T, K] times the transpose of weight [O, K], plus bias [O]: [T, O] in `dtype` (x's)."""
    (T, K), (outputs, _) = x.shape, weight.shape
    if T != 1:
        tile = _tile_of_rows(outputs) | (launch or {})
        return rows.product(x, weight, dtype=dtype, launch=tile, bias=bias)
    x = x if x.stride(-1) == 1 else x.contiguous()
    weight = weight if weight.stride(-1) == 1 else weight.contiguous()
    out = torch.empty(1, outputs, dtype=dtype or x.dtype, device=x.device)
    grid, constants = _launch(outputs, K) if launch is None else _launch(outputs, K, **launch)
    _row[grid](x, weight, bias, out, outputs, weight.stride(0), **constants, **early(x))
    return out


@cache
def _launch(outputs: int, inner: int, **tile: int) -> tuple[tuple[int], dict[str, int]]:
    """Grid and constants of `_row`; kept, as at every launch setting is kept that shapes decide.

    A step of decoding has hundreds of launches of a few microseconds, which is what a few lines of
    Python take.
    """
    tile = tile_of(inner) | tile
    grid = (triton.cdiv(outputs, tile["BLOCK_O"]),)
    return grid, {"K": inner, "BLOCK_K": INNER, "num_warps": 4} | tile


@cache
def _tile_of_rows(outputs: int) -> dict[str, int]:
    return TILE | {"PARTS": 1 if triton.cdiv(outputs, TILE["BLOCK_O"]) >= PROGRAMS else 2}


def tile_of(inner: int) -> dict[str, int]:
    """Outputs of a program, and steps whose loads are under way together."""
    steps, outputs = -(-inner // INNER), 4
    while outputs > 1 and outputs * inner > HELD:
        outputs //= 2
    return {"BLOCK_O": outputs, "UNROLL": steps if steps <= AT_ONCE else AT_ONCE - 1}


@triton.jit(do_not_specialize=["outputs"])
def _row(
    x,
    weight,
    bias,
    out,
    outputs,
    w_row,
    K: tl.constexpr,
    EARLY: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_K: tl.constexpr,
    UNROLL: tl.constexpr,
):
    o = tl.program_id(0) * BLOCK_O + tl.arange(0, BLOCK_O)
    at = weight + tl.minimum(o, outputs - 1).to(tl.int64)[:, None] * w_row
    sums = tl.zeros([BLOCK_O, BLOCK_K], tl.float32)
    if EARLY:
        in_turn()
    for start in range(0, K, BLOCK_K * UNROLL):
        for part in tl.static_range(UNROLL):
            k = start + part * BLOCK_K + tl.arange(0, BLOCK_K)
            inside = k < K
            w = tl.load(at + k[None, :], mask=inside[None, :], other=0.0).to(tl.float32)
            sums += w * tl.load(x + k, mask=inside, other=0.0).to(tl.float32)[None, :]
    y = tl.sum(sums, 1)
    if bias is not None:
        y += tl.load(bias + o, mask=o < outputs, other=0.0).to(tl.float32)
    tl.store(out + o, y.to(out.dtype.element_ty), mask=o < outputs)
