"""Root-mean-square norms and the feed-forward's activation, with gradients in few passes."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.nn import functional

from cairn.ops import paths
from cairn.ops.collectives import sum_over
from cairn.ops.gradient import once, run
from cairn.ops.native import operations as native
from cairn.ops.native import rows


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight over the last dimension, computed in at least fp32, in x's dtype.

    x [..., D]; weight [D]. Differentiable once.
    """
    why = native.norm_unfit(x, None, weight)
    path = paths.choose("rms_norm", x.device, native=why, triton=paths.for_kernel(x))
    if path == "native":
        return native.norm(x, None, weight, 1, eps)
    if path == "triton":
        from cairn.ops.triton import norm

        return norm.rms_norm(x, weight, eps)
    return run(_RmsNorm, x, weight, eps)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """RMSNorm of x + residual, and that sum: what stands between two mixers, in one pass.

    x, residual [..., D]; weight [D]. The norm in x's dtype, the sum in the residual's.
    Differentiable once.
    """
    why = rows.add_norm_unfit(x, residual, weight, None)
    path = paths.choose("add_rms_norm", x.device, native=why, triton=paths.for_kernel(x))
    if path == "native":
        return rows.add_norm(x, residual, weight, None, eps)
    if path == "triton":
        from cairn.ops.triton import norm

        return norm.add_rms_norm(x, residual, weight, eps)
    total = (residual + x).to(residual.dtype)
    return rms_norm(total, weight, eps).to(x.dtype), total


def gated_rms_norm(x: Tensor, gate: Tensor, weight: Tensor, groups: int, eps: float) -> Tensor:
    """RMSNorm of x * SiLU(gate), by itself in each of `groups` slices: gate first, then norm.

    x, gate [..., D]; weight [D]; in at least fp32, returned in the gate's dtype.
    Differentiable once.
    """
    why = native.norm_unfit(x, gate, weight)
    path = paths.choose("gated_rms_norm", x.device, native=why, triton=paths.for_kernel(x))
    if path == "native":
        return native.norm(x, gate, weight, groups, eps)
    if path == "triton":
        from cairn.ops.triton import norm

        return norm.gated_rms_norm(x, gate, weight, groups, eps)
    return run(_GatedRmsNorm, x, gate, weight, groups, eps)


def shared_gated_rms_norm(
    x: Tensor, gate: Tensor, weight: Tensor, eps: float, group: ProcessGroup
) -> Tensor:
    """`gated_rms_norm` of one slice that lies on several ranks, a part [..., D] on each."""
    product = functional.silu(_wide(gate)) * _wide(x)
    with torch.autocast(x.device.type, enabled=False):
        squares = sum_over(torch.linalg.vecdot(product, product), group)
        scale = (squares / (product.shape[-1] * dist.get_world_size(group)) + eps).rsqrt()
    return (product * scale.unsqueeze(-1) * weight).to(gate.dtype)


def squared_relu(x: Tensor) -> Tensor:
    """max(x, 0) squared. Differentiable once."""
    if paths.choose("squared_relu", x.device, triton=paths.for_kernel(x)) == "triton":
        from cairn.ops.triton import activation

        return activation.squared_relu(x)
    return run(_SquaredRelu, x)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _normed(x: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """x [..., D] as [..., G, D / G] over its root mean square, and one over that [..., G, 1]."""
    x = x.unflatten(-1, (groups, -1))
    with torch.autocast(x.device.type, enabled=False):  # it would take the squares' sum in bf16
        scale = torch.linalg.vecdot(x, x).div_(x.shape[-1]).add_(eps).rsqrt_().unsqueeze(-1)
    return x * scale, scale


def _normed_backward(grad: Tensor, normed: Tensor, scale: Tensor) -> Tensor:
    """Gradient [..., D] of what `_normed` took, from that of its result [..., D]."""
    grad = grad.view_as(normed)
    along = torch.linalg.vecdot(grad, normed).div_(normed.shape[-1]).unsqueeze(-1)
    return (grad - normed * along).mul_(scale).flatten(-2)


def _sum_rows(x: Tensor) -> Tensor:
    return x.flatten(0, -2).sum(0)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        normed, scale = _normed(_wide(x), 1, eps)
        ctx.save_for_backward(normed, scale, weight)
        ctx.dtype = x.dtype
        return (normed.squeeze(-2) * weight).to(x.dtype)

    @staticmethod
    @once
    def backward(ctx: Any, *grads: Tensor) -> Any:
        normed, scale, weight = ctx.saved_tensors
        grad = grads[0].to(normed.dtype)
        g_weight = _sum_rows(grad * normed.squeeze(-2)).to(weight.dtype)
        gx = _normed_backward(grad * weight, normed, scale)
        return gx.to(ctx.dtype), g_weight, None


class _GatedRmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gate: Tensor, weight: Tensor, groups: int, eps: float
    ) -> Tensor:
        open_ = functional.silu(_wide(gate))
        normed, scale = _normed(open_ * x, groups, eps)
        ctx.save_for_backward(x, gate, open_, normed, scale, weight)
        return (normed.flatten(-2) * weight).to(gate.dtype)

    @staticmethod
    @once
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, gate, open_, normed, scale, weight = ctx.saved_tensors
        grad = grads[0].to(normed.dtype)
        g_weight = _sum_rows(grad * normed.flatten(-2)).to(weight.dtype)
        g_product = _normed_backward(grad * weight, normed, scale)
        g_gate = torch.ops.aten.silu_backward(g_product * x, _wide(gate))
        return g_product.mul_(open_).to(x.dtype), g_gate.to(gate.dtype), g_weight, None, None


class _SquaredRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        positive = functional.relu(x)
        ctx.save_for_backward(positive)
        return positive * positive

    @staticmethod
    @once
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return (grads[0] * ctx.saved_tensors[0]).mul_(2)
