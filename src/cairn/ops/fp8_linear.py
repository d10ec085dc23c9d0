"""Rows times a weight matrix in FP8: forward, and the two products of backward."""

from typing import Any

import torch
from torch import Tensor

from cairn.ops import fp8
from cairn.ops.fp8 import Operand, Recipe, Statistics, cast, product
from cairn.ops.gradient import once, run
from cairn.ops.norm import squared_relu as squared


def fp8_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    recipe: Recipe,
    statistics: Statistics,
    dtype: torch.dtype = torch.bfloat16,
    *,
    squared_relu: bool = False,
) -> Tensor:
    """x [..., I] times the transpose of weight [O, I], plus bias [O]: [..., O] in `dtype`.

    All three products are in FP8: y of x and weight, x's gradient of y's and weight, weight's of
    y's and x. The weight is cast from its own dtype (fp32 main parameters are rounded once), its
    gradient comes in that. With `squared_relu`, of max(x, 0)^2, which is never written in full.
    I and O have to be multiples of 16; any number of rows is filled up. Differentiable once.
    """
    return run(_Linear, x, weight, bias, recipe, statistics, dtype, squared_relu)


class _Linear(torch.autograd.Function):
    """Keeps x and the weight in FP8, and x itself where an activation goes before."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        recipe: Recipe,
        statistics: Statistics,
        dtype: torch.dtype,
        squared_relu: bool,
    ) -> Tensor:
        of_x, of_weight = ctx.needs_input_grad[:2]
        rows = x.reshape(-1, x.shape[-1])
        a, a_turned = cast(
            rows, "activations", recipe, statistics, columns=of_weight, squared_relu=squared_relu
        )
        w, w_turned = cast(weight, "weights", recipe, statistics, columns=of_x)
        assert a is not None
        assert w is not None
        y = product(a, w, dtype)[: len(rows)]
        if bias is not None:
            y = y + bias.to(dtype)
        ctx.save_for_backward(
            x if squared_relu and of_x else None, *_tensors(a_turned), *_tensors(w_turned)
        )
        ctx.kinds = None if a_turned is None else a_turned.kind, w_turned and w_turned.kind
        ctx.recipe, ctx.statistics, ctx.emulated = recipe, statistics, fp8.emulated()
        ctx.x_dtype, ctx.weight_dtype, ctx.shape = x.dtype, weight.dtype, x.shape
        ctx.bias_dtype = None if bias is None else bias.dtype
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    @once
    def backward(ctx: Any, *grads: Tensor) -> Any:
        before, *parts = ctx.saved_tensors
        a, w = _operand(parts[:2], ctx.kinds[0]), _operand(parts[2:], ctx.kinds[1])
        grad = grads[0].reshape(-1, grads[0].shape[-1])
        of_bias = grad.sum(0, dtype=torch.float32) if ctx.bias_dtype is not None else None
        g_x = g_weight = None
        with fp8.emulation(ctx.emulated):
            g, g_turned = cast(
                grad, "gradients", ctx.recipe, ctx.statistics,
                rows=w is not None, columns=a is not None,
            )  # fmt: skip
            if g is not None and w is not None:
                g_x = product(g, w, grad.dtype)[: len(grad)].view(ctx.shape)
            if g_turned is not None and a is not None:
                g_weight = product(g_turned, a, ctx.weight_dtype)
        if g_x is not None:
            g_x = _through(squared, before, g_x) if before is not None else g_x.to(ctx.x_dtype)
        return (
            g_x,
            g_weight,
            None if of_bias is None else of_bias.to(ctx.bias_dtype),
            None, None, None, None,
        )  # fmt: skip


def _through(activation: Any, x: Tensor, grad: Tensor) -> Tensor:
    """The gradient of activation(x), from that of its result."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return torch.autograd.grad(activation(x), x, grad.to(x.dtype))[0]


def _tensors(x: Operand | None) -> tuple[Tensor | None, Tensor | None]:
    return (None, None) if x is None else (x.values, x.inverse)


def _operand(parts: list[Tensor | None], kind: Any) -> Operand | None:
    values, inverse = parts
    return None if values is None or inverse is None else Operand(values, inverse, kind)
