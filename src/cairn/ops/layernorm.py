"""LayerNorm, as StarCoder2 has it."""

from torch import Tensor
from torch.nn import functional

from cairn.ops import paths
from cairn.ops.native import rows


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last dimension.

    x [..., D]; weight, bias [D]. Computed in at least fp32, returned in x's dtype.
    """
    why = rows.add_norm_unfit(x, None, weight, bias)
    path = paths.choose("layer_norm", x.device, native=why, triton=paths.for_kernel(x))
    if path == "native":
        return rows.add_norm(x, None, weight, bias, eps)[0]
    if path == "triton":
        from cairn.ops.triton import norm

        return norm.layer_norm(x, weight, bias, eps)
    return functional.layer_norm(x, weight.shape, weight, bias, eps).to(x.dtype)


def add_layer_norm(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """LayerNorm of x + residual, and that sum: what stands between two mixers, in one pass.

    x, residual [..., D]; weight, bias [D]. The norm in x's dtype, the sum in the residual's.
    """
    why = rows.add_norm_unfit(x, residual, weight, bias)
    path = paths.choose("add_layer_norm", x.device, native=why, triton=paths.for_kernel(x))
    if path == "native":
        return rows.add_norm(x, residual, weight, bias, eps)
    if path == "triton":
        from cairn.ops.triton import norm

        return norm.add_layer_norm(x, residual, weight, bias, eps)
    total = (residual + x).to(residual.dtype)
    return functional.layer_norm(total, weight.shape, weight, bias, eps).to(x.dtype), total
