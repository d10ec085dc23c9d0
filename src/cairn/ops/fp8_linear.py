"""Linear layers in FP8: forward, and the two products of backward; one, or two with squared ReLU.

A weight is cast from its own dtype (fp32 main parameters are rounded once), and its gradient comes
in that. All widths have to be multiples of 16; any number of rows is filled up.
Legend: T rows, I inputs, O outputs, F inner width.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from cairn.ops import fp8
from cairn.ops.fp8 import Operand, Recipe, Statistics, cast, product
from cairn.ops.gradient import once, run


@dataclass(frozen=True)
class Scaled:
    """How layers multiply: the recipe, where casts are counted, and the dtype of results."""

    recipe: Recipe
    statistics: Statistics
    dtype: torch.dtype = torch.bfloat16
    group: ProcessGroup | None = None
    """Ranks that have parts of the layer: one scale a tensor is of all of them."""


def fp8_linear(x: Tensor, weight: Tensor, bias: Tensor | None, scaled: Scaled) -> Tensor:
    """x [..., I] times the transpose of weight [O, I], plus bias [O]: [..., O].

    All three products are in FP8: y of x and weight, x's gradient of y's and weight, weight's of
    y's and x. Differentiable once.
    """
    return run(_Linear, x, weight, bias, scaled)


def fp8_feed_forward(x: Tensor, up: Tensor, down: Tensor, scaled: Scaled) -> Tensor:
    """max(x up^T, 0)^2 down^T: x [..., I], up [F, I], down [O, F] to [..., O].

    Six products in FP8. What squared ReLU makes, and the gradient through it, are cast where they
    are computed, in fp32, and never written in full. Differentiable once.
    """
    return run(_FeedForward, x, up, down, scaled)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, scaled: Scaled) -> Tensor:
        of_x, of_weight = ctx.needs_input_grad[:2]
        rows = x.reshape(-1, x.shape[-1])
        a, a_turned = _cast(rows, "activations", scaled, columns=of_weight)
        w, w_turned = _cast(weight, "weights", scaled, columns=of_x)
        y = _product(a, w, scaled.dtype)[: len(rows)]
        if bias is not None:
            y = y + bias.to(scaled.dtype)
        ctx.kept = _keep(ctx, a_turned, w_turned)
        ctx.scaled, ctx.emulated = scaled, fp8.emulated()
        ctx.x_dtype, ctx.weight_dtype, ctx.shape = x.dtype, weight.dtype, x.shape
        ctx.bias_dtype = None if bias is None else bias.dtype
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    @once
    def backward(ctx: Any, *grads: Tensor) -> Any:
        a, w = _kept(ctx)
        grad = grads[0].reshape(-1, grads[0].shape[-1])
        of_bias = grad.sum(0, dtype=torch.float32) if ctx.bias_dtype is not None else None
        g_x = g_weight = None
        with fp8.emulation(ctx.emulated):
            g, g_turned = _cast(
                grad, "gradients", ctx.scaled, rows=w is not None, columns=a is not None
            )
            if w is not None:
                g_x = _product(g, w, ctx.scaled.dtype)[: len(grad)].view(ctx.shape).to(ctx.x_dtype)
            if a is not None:
                g_weight = _product(g_turned, a, ctx.weight_dtype)
        return g_x, g_weight, None if of_bias is None else of_bias.to(ctx.bias_dtype), None


class _FeedForward(torch.autograd.Function):
    """Keeps both inputs of products in FP8, and what squared ReLU was taken of."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, up: Tensor, down: Tensor, scaled: Scaled) -> Tensor:
        of_x, of_up, of_down = ctx.needs_input_grad[:3]
        rows = x.reshape(-1, x.shape[-1])
        a, a_turned = _cast(rows, "activations", scaled, columns=of_up)
        w, w_turned = _cast(up, "weights", scaled, columns=of_x)
        inner = _product(a, w, scaled.dtype)[: len(rows)]
        h, h_turned = _cast(inner, "activations", scaled, columns=of_down, before="squared_relu")
        v, v_turned = _cast(down, "weights", scaled, columns=of_x or of_up)
        y = _product(h, v, scaled.dtype)[: len(rows)]
        ctx.kept = _keep(ctx, a_turned, w_turned, h_turned, v_turned, more=inner)
        ctx.scaled, ctx.emulated = scaled, fp8.emulated()
        ctx.x_dtype, ctx.shape, ctx.dtypes = x.dtype, x.shape, (up.dtype, down.dtype)
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    @once
    def backward(ctx: Any, *grads: Tensor) -> Any:
        a, w, h, v = _kept(ctx)
        inner, scaled = ctx.saved_tensors[-1], ctx.scaled
        grad = grads[0].reshape(-1, grads[0].shape[-1])
        g_x = g_up = g_down = None
        with fp8.emulation(ctx.emulated):
            g, g_turned = _cast(
                grad, "gradients", scaled, rows=v is not None, columns=h is not None
            )
            if h is not None:
                g_down = _product(g_turned, h, ctx.dtypes[1])
            if v is not None:
                g_h = _product(g, v, scaled.dtype)[: len(grad)]
                e, e_turned = _cast(
                    g_h, "gradients", scaled, rows=w is not None, columns=a is not None,
                    before="squared_relu_gradient", of=inner,
                )  # fmt: skip
                if w is not None:
                    g_x = _product(e, w, scaled.dtype)[: len(grad)].view(ctx.shape)
                    g_x = g_x.to(ctx.x_dtype)
                if a is not None:
                    g_up = _product(e_turned, a, ctx.dtypes[0])
        return g_x, g_up, g_down, None


def _cast(x: Tensor, role: fp8.Role, scaled: Scaled, **how: Any) -> fp8.Cast:
    return cast(x, role, scaled.recipe, scaled.statistics, group=scaled.group, **how)


def _product(a: Operand | None, b: Operand | None, dtype: torch.dtype) -> Tensor:
    assert a is not None
    assert b is not None
    return product(a, b, dtype)


def _keep(ctx: Any, *operands: Operand | None, more: Tensor | None = None) -> list[Any]:
    """Save operands for backward; returns their kinds, for `_kept`."""
    parts = [t for x in operands for t in ((None, None) if x is None else (x.values, x.inverse))]
    ctx.save_for_backward(*parts, more)
    return [None if x is None else x.kind for x in operands]


def _kept(ctx: Any) -> list[Operand | None]:
    parts = ctx.saved_tensors
    return [
        None if kind is None else Operand(parts[2 * at], parts[2 * at + 1], kind)
        for at, kind in enumerate(ctx.kept)
    ]
