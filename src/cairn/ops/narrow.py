"""Weights that are kept in 8 bits for serving, and rows times such weights.

One scale an output of the weight, one a row of what comes in: E4M3, the largest magnitude at the
format's largest number. A row is scaled by itself, so that what it gives does not depend on what
else is in the batch. The plain PyTorch here is the definition; on a GPU a kernel casts and the
library multiplies (sums in fp32, scales applied after), but for few rows a kernel of ours.
Legend: T rows, I inner dimension, O outputs.
"""

import torch
from torch import Tensor
from torch.nn import functional

from cairn.base.errors import UserError
from cairn.ops import paths
from cairn.ops.fp8 import E4M3, LIMITS, WIDTH, magnitudes, problem, rounded, scale_of
from cairn.ops.order import order_is_fixed, ordered_product

FEW = 16  # rows: fewer do not fill the library's tiles, and our product reads weights faster


def unfit(weight: Tensor) -> str:
    """Why a weight cannot be kept so on its device; empty where it can."""
    if weight.device.type == "cpu":
        return ""
    if any(size % WIDTH for size in weight.shape):
        return f"a weight of {list(weight.shape)} is no multiple of {WIDTH}"
    return problem("current", weight.device)


def cast_rows(x: Tensor, *, squared_relu: bool = False) -> tuple[Tensor, Tensor]:
    """x [T, I] in E4M3, and fp32 [T] that gives it back by multiplication.

    With `squared_relu`, of max(x, 0)^2, computed in fp32. What is not finite becomes NaN.
    """
    if paths.choose("cast_rows", x.device, triton=paths.for_kernel(x)) == "triton":
        from cairn.ops.triton.narrow import cast_rows as kernel

        return kernel(x, squared_relu)
    wide = x.float()
    if squared_relu:
        wide = functional.relu(wide).square()
    scale = scale_of(magnitudes(wide).amax(1, keepdim=True), LIMITS[E4M3], whole=False)
    return rounded(wide, scale, E4M3, None), (1 / scale).squeeze(1)


def narrowed(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A weight [O, I] as `narrow_linear` takes it; UserError where it cannot be kept so."""
    why = unfit(weight)
    if why:
        raise UserError("weights", "float8", why, "leave the weights as they are")
    return cast_rows(weight)


def narrow_linear(
    x: Tensor,
    values: Tensor,
    inverse: Tensor,
    bias: Tensor | None = None,
    *,
    squared_relu: bool = False,
) -> Tensor:
    """x [..., I] times the transpose of a weight, plus bias [O]: [..., O] in x's dtype.

    The weight is values E4M3 [O, I] times inverse fp32 [O]. With `squared_relu`, of max(x, 0)^2.
    Not differentiable.
    """
    rows, scales = cast_rows(x.reshape(-1, x.shape[-1]), squared_relu=squared_relu)
    path = _path(rows)
    if path == "triton" or order_is_fixed():
        y = ordered_product(rows, values, scales, inverse)
    elif path == "library":
        y = torch._scaled_mm(  # type: ignore[attr-defined]
            rows, values.t(), scales[:, None], inverse[None], out_dtype=torch.bfloat16
        )
    else:
        y = rows.float() @ values.float().t() * (scales[:, None] * inverse)
    y = y.to(x.dtype).view(*x.shape[:-1], -1)
    return y if bias is None else y + bias


def _path(rows: Tensor) -> paths.Path:
    """Who multiplies."""
    if rows.device.type == "cpu":
        why = "on a CPU there are no products of 8-bit floats"
        return paths.choose("narrow_product", rows.device, library=why)
    if len(rows) <= FEW:
        return paths.choose("narrow_product", rows.device, triton="")
    return paths.choose("narrow_product", rows.device, library=problem("current", rows.device))
