"""LayerNorm, as StarCoder2 has it."""

from torch import Tensor
from torch.nn import functional


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last dimension.

    x [..., D]; weight, bias [D]. Computed in at least fp32, returned in x's dtype.
    """
    return functional.layer_norm(x, weight.shape, weight, bias, eps).to(x.dtype)
