"""Activations of feed-forward layers and rotary positions, forward and backward in one pass each.

They read parts of a wider projection where they lie, and write what the next matrix reads.
"""

# pyright: reportAttributeAccessIssue=false, reportMissingImports=false, reportIndexIssue=false

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from cairn.ops.gradient import once, recorded
from cairn.ops.triton.early import early, in_turn

SQUARED_RELU, SWIGLU = 0, 1
_BLOCK = 1024


def squared_relu(x: Tensor) -> Tensor:
    """`cairn.ops.norm.squared_relu`."""
    return (
        _Activation.apply(x, None, SQUARED_RELU)
        if recorded(x)
        else _activated(x, None, SQUARED_RELU)
    )


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """`cairn.ops.activation.swiglu`."""
    if recorded(gate, up):
        return _Activation.apply(gate, up, SWIGLU)
    return _activated(gate, up, SWIGLU)


def _activated(x: Tensor, up: Tensor | None, kind: int, wanted: bool = False) -> Tensor:
    """The forward pass; `wanted`: whether its gradient is."""
    a, b = _rows(x), None if up is None else _rows(up)
    y = torch.empty(a.shape, dtype=x.dtype, device=x.device)
    strides = a.stride(0), 0 if b is None else b.stride(0)
    _launch(_activate, a, (a, b, y, *strides), kind, early(a, wanted))
    return y if x.ndim == 2 else y.view(x.shape)


class _Activation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, up: Tensor | None, kind: int) -> Tensor:
        ctx.save_for_backward(x, up)
        ctx.kind = kind
        return _activated(x, up, kind, wanted=True)

    @staticmethod
    @once
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, up = ctx.saved_tensors
        a, b, grad = _rows(x), None if up is None else _rows(up), _rows(grads[0])
        ga = torch.empty(a.shape, dtype=x.dtype, device=x.device)
        gb = None if b is None else torch.empty(b.shape, dtype=b.dtype, device=b.device)
        strides = a.stride(0), 0 if b is None else b.stride(0), grad.stride(0)
        _launch(_activate_backward, a, (a, b, grad, ga, gb, *strides), ctx.kind, {})
        return ga.view(x.shape), None if gb is None else gb.view(x.shape), None


def turn(x: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    """x [T, heads, width] turned by `sign` times the angles: `cairn.ops.rotary`."""
    if x.stride(-1) != 1:
        x = x.contiguous()
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    T, heads, width = x.shape
    if x.numel():
        _rotate[(T,)](
            x, cos.contiguous(), sin.contiguous(), y, x.stride(0), x.stride(1), float(sign),
            HEADS=heads, WIDTH=width, R=cos.shape[-1],
            BLOCK_H=triton.next_power_of_2(heads), BLOCK_W=triton.next_power_of_2(width),
            num_warps=4,
        )  # fmt: skip
    return y


def _rows(x: Tensor) -> Tensor:
    if x.ndim != 2 or x.stride(0) != x.shape[1]:  # see `norm._rows`
        x = x.reshape(-1, x.shape[-1])
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _launch(
    kernel: Any, like: Tensor, arguments: tuple[Any, ...], kind: int, more: dict[str, Any]
) -> None:
    T, F = like.shape
    if T and F:
        kernel[(T, -(-F // _BLOCK))](*arguments, F, KIND=kind, BLOCK=_BLOCK, **more)


@triton.jit
def _activate(
    a, b, y, a_row, b_row, F, KIND: tl.constexpr, BLOCK: tl.constexpr, EARLY: tl.constexpr
):
    t = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = i < F
    if EARLY:
        in_turn()
    x = tl.load(a + t * a_row + i, mask=inside, other=0).to(tl.float32)
    if KIND == 0:
        x = tl.maximum(x, 0.0)
        x *= x
    else:
        x = x / (1 + tl.exp(-x))
        x *= tl.load(b + t * b_row + i, mask=inside, other=0).to(tl.float32)
    tl.store(y + t * F + i, x.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _activate_backward(
    a, b, grad, ga, gb, a_row, b_row, grad_row, F, KIND: tl.constexpr, BLOCK: tl.constexpr
):
    t = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = i < F
    x = tl.load(a + t * a_row + i, mask=inside, other=0).to(tl.float32)
    g = tl.load(grad + t * grad_row + i, mask=inside, other=0).to(tl.float32)
    if KIND == 0:
        g *= 2 * tl.maximum(x, 0.0)
    else:
        up = tl.load(b + t * b_row + i, mask=inside, other=0).to(tl.float32)
        open_ = 1 / (1 + tl.exp(-x))
        tl.store(gb + t * F + i, (g * x * open_).to(gb.dtype.element_ty), mask=inside)
        g *= up * open_ * (1 + x * (1 - open_))
    tl.store(ga + t * F + i, g.to(ga.dtype.element_ty), mask=inside)


@triton.jit
def _rotate(
    x,
    cos,
    sin,
    y,
    x_row,
    x_head,
    sign,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    R: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """One token's heads; each channel reads itself and its partner."""
    t = tl.program_id(0).to(tl.int64)
    h, w = tl.arange(0, BLOCK_H), tl.arange(0, BLOCK_W)
    inside = (h < HEADS)[:, None] & (w < WIDTH)[None, :]
    turned = w < 2 * R
    pair = tl.where(w < R, w, w - R)
    other = tl.where(w < R, w + R, tl.where(turned, w - R, w))
    c = tl.load(cos + t * R + pair, mask=turned, other=1)
    s = tl.load(sin + t * R + pair, mask=turned, other=0) * sign
    s = tl.where(w < R, -s, s)
    row = x + t * x_row + h[:, None] * x_head
    v = tl.load(row + w[None, :], mask=inside, other=0).to(tl.float32)
    u = tl.load(row + other[None, :], mask=inside & turned[None, :], other=0).to(tl.float32)
    v = v * c[None, :] + u * s[None, :]
    at = (t * HEADS + h[:, None]) * WIDTH + w[None, :]
    tl.store(y + at, v.to(y.dtype.element_ty), mask=inside)
