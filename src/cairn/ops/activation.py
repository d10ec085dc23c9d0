"""Activations of feed-forward layers, plain and gated; squared ReLU is in `norm`."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from cairn.ops import paths
from cairn.ops.gradient import once, run
from cairn.ops.native import rows
from cairn.ops.native.library import unfit


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU by its tanh approximation (arXiv 1606.08415, section 2).

    PyTorch's own where there is a gradient and on a GPU: on an H200 a kernel of ours was an eighth
    slower, either way.
    """
    if paths.choose("gelu_tanh", x.device, native=unfit(x), library="") == "native":
        return rows.activate(x, "gelu_tanh")
    return functional.gelu(x, approximate="tanh")


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """SiLU(gate) * up (arXiv 2002.05202), both [..., F]. Differentiable once."""
    if paths.choose("swiglu", gate.device, triton=paths.for_kernel(gate)) == "triton":
        from cairn.ops.triton import activation

        return activation.swiglu(gate, up)
    return run(_Swiglu, gate, up)


class _Swiglu(torch.autograd.Function):
    """Keeps its two inputs for the backward pass, and not SiLU(gate) as well."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return functional.silu(gate).mul_(up)

    @staticmethod
    @once
    def backward(ctx: Any, *grads: Tensor) -> Any:
        gate, up = ctx.saved_tensors
        grad = grads[0]
        g_gate = torch.ops.aten.silu_backward(grad * up, gate)
        return g_gate, functional.silu(gate).mul_(grad)
