"""Root-mean-square norms and the feed-forward's activation."""

import torch
from torch import Tensor
from torch.nn import functional


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight over the last dimension, computed in at least fp32, in x's dtype.

    x [..., D]; weight [D].
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (wide * scale * weight).to(x.dtype)


def gated_rms_norm(x: Tensor, gate: Tensor, weight: Tensor, groups: int, eps: float) -> Tensor:
    """RMSNorm of x * SiLU(gate), by itself in each of `groups` slices: gate first, then norm.

    x, gate [..., D]; weight [D]; in at least fp32, returned in the gate's dtype.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    y = x.to(wide) * functional.silu(gate.to(wide))
    y = y.unflatten(-1, (groups, -1))
    y = (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps)).flatten(-2)
    return (y * weight).to(gate.dtype)


def squared_relu(x: Tensor) -> Tensor:
    """max(x, 0) squared."""
    return functional.relu(x).square()
