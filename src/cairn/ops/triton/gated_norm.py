"""Gated grouped RMSNorm with Triton kernels: one pass forward, one backward.

Legend: T tokens, I width, G groups.
"""

# pyright: reportMissingImports=false

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from cairn.ops.gradient import once, run

_ELEMENTS = 4096  # that a program holds at a time
_PROGRAMS = 512  # in a backward pass for each group: as many shares of the weight's gradient


def gated_rms_norm(x: Tensor, gate: Tensor, weight: Tensor, groups: int, eps: float) -> Tensor:
    """RMSNorm of x * SiLU(gate), by itself in each of `groups` slices: gate first, then norm.

    x, gate [T, I], rows may lie apart; weight [I]; in fp32, returned in the gate's dtype.
    Differentiable once.
    """
    return run(_GatedRmsNorm, x, gate, weight, groups, eps)


class _GatedRmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gate: Tensor, weight: Tensor, groups: int, eps: float
    ) -> Tensor:
        ctx.save_for_backward(x, gate, weight)
        ctx.form = groups, eps
        y = gate.new_empty(gate.shape)
        norm_forward(x, gate, weight, groups, eps, y)
        return y

    @staticmethod
    @once
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, gate, weight = ctx.saved_tensors
        gx, g_gate = x.new_empty(x.shape), gate.new_empty(gate.shape)
        g_weight = norm_backward(x, gate, weight, *ctx.form, grads[0], gx, g_gate)
        return gx, g_gate, g_weight, None, None


def _tile(width: int) -> tuple[int, int]:
    """Rows and columns of a program's tile for groups of this width."""
    columns = triton.next_power_of_2(width)
    return max(1, _ELEMENTS // columns), columns


def norm_forward(
    x: Tensor, gate: Tensor, weight: Tensor, groups: int, eps: float, y: Tensor
) -> None:
    """Fills y [T, I]."""
    T, width = x.shape[0], x.shape[1] // groups
    rows, columns = _tile(width)
    norm_kernel[triton.cdiv(T, rows), groups](
        x, gate, weight, y, T, width, x.stride(0), gate.stride(0), y.stride(0), eps, rows, columns,
        num_warps=4,
    )  # fmt: skip


def norm_backward(
    x: Tensor,
    gate: Tensor,
    weight: Tensor,
    groups: int,
    eps: float,
    gy: Tensor,
    gx: Tensor,
    g_gate: Tensor,
) -> Tensor:
    """Fills gx and g_gate [T, I]; returns the weight's gradient [I]."""
    T, width = x.shape[0], x.shape[1] // groups
    gy = gy.contiguous()
    rows, columns = _tile(width)
    rounds = triton.cdiv(triton.cdiv(T, rows), _PROGRAMS)
    programs = triton.cdiv(triton.cdiv(T, rows), rounds)
    shares = x.new_empty(programs, x.shape[1], dtype=torch.float32)
    norm_gradient_kernel[programs, groups](
        x, gate, weight, gy, gx, g_gate, shares, T, width, x.stride(0), gate.stride(0),
        gy.stride(0), gx.stride(0), g_gate.stride(0), eps, rounds, rows, columns, num_warps=4,
    )  # fmt: skip
    return shares.sum(0).to(weight.dtype)


@triton.jit
def norm_kernel(
    x,  # [T, I], rows `x_row` apart
    gate,  # [T, I], rows `gate_row` apart
    weight,  # [I]
    y,  # out, [T, I], rows `y_row` apart
    T,
    width,  # I / G
    x_row,
    gate_row,
    y_row,
    eps,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    t = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    c = tl.program_id(1) * width + column
    ok = (t < T)[:, None] & (column < width)[None, :]
    xs = tl.load(x + t[:, None] * x_row + c[None, :], mask=ok, other=0.0).to(tl.float32)
    z = tl.load(gate + t[:, None] * gate_row + c[None, :], mask=ok, other=0.0).to(tl.float32)
    w = tl.load(weight + c, mask=column < width, other=0.0).to(tl.float32)
    u = xs * (z / (1.0 + tl.exp(-z)))
    scale = tl.rsqrt(tl.sum(u * u, axis=1) / width + eps)
    found = u * scale[:, None] * w[None, :]
    tl.store(y + t[:, None] * y_row + c[None, :], found.to(y.dtype.element_ty), mask=ok)


@triton.jit
def norm_gradient_kernel(
    x,
    gate,
    weight,
    gy,  # [T, I], rows `y_row` apart
    gx,  # out, [T, I], rows `gx_row` apart
    g_gate,  # out, [T, I], rows `g_gate_row` apart
    shares,  # out, fp32 [programs, I]: each program's share of the weight's gradient
    T,
    width,
    x_row,
    gate_row,
    y_row,
    gx_row,
    g_gate_row,
    eps,
    rounds,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    column = tl.arange(0, COLUMNS)
    c = tl.program_id(1) * width + column
    w = tl.load(weight + c, mask=column < width, other=0.0).to(tl.float32)
    g_weight = tl.zeros((COLUMNS,), tl.float32)
    for i in range(rounds):
        t = (tl.program_id(0).to(tl.int64) * rounds + i) * ROWS + tl.arange(0, ROWS)
        ok = (t < T)[:, None] & (column < width)[None, :]
        xs = tl.load(x + t[:, None] * x_row + c[None, :], mask=ok, other=0.0).to(tl.float32)
        z = tl.load(gate + t[:, None] * gate_row + c[None, :], mask=ok, other=0.0).to(tl.float32)
        g = tl.load(gy + t[:, None] * y_row + c[None, :], mask=ok, other=0.0).to(tl.float32)
        open_ = 1.0 / (1.0 + tl.exp(-z))
        u = xs * (z * open_)
        scale = tl.rsqrt(tl.sum(u * u, axis=1) / width + eps)[:, None]
        normed = u * scale
        g_weight += tl.sum(g * normed, axis=0)
        g *= w[None, :]
        along = tl.sum(g * normed, axis=1) / width
        g_u = (g - normed * along[:, None]) * scale
        given = g_u * (z * open_)
        tl.store(gx + t[:, None] * gx_row + c[None, :], given.to(gx.dtype.element_ty), mask=ok)
        given = g_u * xs * (open_ * (1.0 + z * (1.0 - open_)))
        to_gate = g_gate + t[:, None] * g_gate_row + c[None, :]
        tl.store(to_gate, given.to(g_gate.dtype.element_ty), mask=ok)
    share = shares + tl.program_id(0) * tl.num_programs(1) * width + c
    tl.store(share, g_weight, mask=column < width)
