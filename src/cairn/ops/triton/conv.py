"""Causal depthwise convolution and SiLU over flat tokens, with Triton kernels.

A program walks down some tokens with the last inputs of its channels in registers, so that every
input is read once. Legend: T tokens, S spans, C channels, W taps before the current one.
"""

# pyright: reportAttributeAccessIssue=false, reportMissingImports=false, reportIndexIssue=false
# pyright: reportPossiblyUnboundVariable=false, reportOperatorIssue=false

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from cairn.ops.gradient import once, run
from cairn.ops.triton.tables import MOST_TAPS, Tables

CHANNELS = 512  # of a program: four a thread (eight were 15% slower on an H200)


def causal_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, tables: Tables, window: Tensor | None = None
) -> Tensor:
    """SiLU(conv(x)) over spans; x [T, C], rows may lie apart; weight [C, 1, W + 1]; bias [C].

    window [S, W, C] holds the inputs before each span (zeros where None; it has no gradient).
    W is at most 3. Sums are in fp32. Returns [T, C] in x's dtype; differentiable once.
    """
    missing = MOST_TAPS - weight.shape[2]
    assert missing >= 0
    x = x if x.stride(1) == 1 else x.contiguous()
    taps = functional.pad(weight[:, 0], (missing, 0)).float()
    if window is not None:
        window = functional.pad(window.detach(), (0, 0, missing, 0)).contiguous()
    return run(_Conv, x, taps, bias, window, tables)


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        taps: Tensor,
        bias: Tensor | None,
        window: Tensor | None,
        tables: Tables,
    ) -> Tensor:
        ctx.tables = tables
        ctx.save_for_backward(x, taps, bias, window)
        y = x.new_empty(x.shape)
        conv_forward(x, taps, bias, window, tables, y)
        return y

    @staticmethod
    @once
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, taps, bias, window = ctx.saved_tensors
        gx = x.new_empty(x.shape)
        g_taps, g_bias = conv_backward(x, taps, bias, window, ctx.tables, grads[0], gx)
        return gx, g_taps, None if bias is None else g_bias.to(bias.dtype), None, None


def conv_forward(
    x: Tensor,
    taps: Tensor,
    bias: Tensor | None,
    window: Tensor | None,
    tables: Tables,
    y: Tensor,
) -> None:
    """Fills y [T, C]; taps fp32 [C, 4], window [S, 3, C] contiguous."""
    T, C = x.shape
    channels, rows = _channels(C), 64
    conv_kernel[-(-T // rows), -(-C // channels)](
        x, taps, bias, window, y, tables.by_token, T, C, x.stride(0), y.stride(0),
        bias is not None, window is not None, rows, channels, num_warps=4,
    )  # fmt: skip


def conv_backward(
    x: Tensor,
    taps: Tensor,
    bias: Tensor | None,
    window: Tensor | None,
    tables: Tables,
    gy: Tensor,
    gx: Tensor,
) -> tuple[Tensor, Tensor]:
    """Fills gx [T, C]; returns the gradients of taps [C, 4] and bias [C], in fp32."""
    T, C = x.shape
    gy = gy.contiguous()
    channels, rows = _channels(C), 64 if T <= 2**14 else 256
    blocks = triton.cdiv(T, rows)
    shares = taps.new_empty(blocks, MOST_TAPS + 1, C)
    conv_gradient_kernel[blocks, triton.cdiv(C, channels)](
        x, taps, bias, window, gy, gx, shares, tables.by_token, T, C, x.stride(0), gy.stride(0),
        gx.stride(0), bias is not None, window is not None, rows, channels, num_warps=4,
    )  # fmt: skip
    found = shares.sum(0)
    return found[:-1].t(), found[-1]


def next_window(x: Tensor, tables: Tables, window: Tensor) -> Tensor:
    """The last W inputs of every span [S, W, C], to be carried on; x [T, C], window [S, W, C]."""
    S, W, C = window.shape
    window = window.contiguous()
    new = torch.empty_like(window, memory_format=torch.contiguous_format)
    channels = _channels(C)
    window_kernel[S, -(-C // channels)](
        x.detach(), window, new, tables.bounds, C, x.stride(0), W, channels, num_warps=4
    )
    return new


def _channels(C: int) -> int:
    """Of a program."""
    return min(CHANNELS, 1 << (C - 1).bit_length())


@triton.jit
def conv_kernel(
    x,  # [T, C], rows `x_row` apart
    taps,  # fp32 [C, 4]: the last one is the current token's
    bias,  # [C], where HAS_BIAS
    window,  # [S, 3, C], where HAS_WINDOW
    y,  # out, [T, C], rows `y_row` apart
    by_token,
    T,
    C,
    x_row,
    y_row,
    HAS_BIAS: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    start = tl.program_id(0).to(tl.int64) * ROWS
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    ok = c < C
    w0, w1, w2, w3, shift = _weights(taps, bias, c, ok, HAS_BIAS)
    x3 = _row(x, start - 3, x_row, c, ok, T)
    x2 = _row(x, start - 2, x_row, c, ok, T)
    x1 = _row(x, start - 1, x_row, c, ok, T)
    x0 = _row(x, start, x_row, c, ok, T)
    ahead = _row(x, start + 1, x_row, c, ok, T)
    position = tl.load(by_token + start)
    for i in range(ROWS):
        t = start + i
        following = _row(x, t + 2, x_row, c, ok, T)
        next_position = tl.load(by_token + tl.minimum(t + 1, T - 1))
        a1, a2, a3 = _before(x1, x2, x3, window, by_token, position, t, T, C, c, ok, HAS_WINDOW)
        z = w3 * x0.to(tl.float32) + w2 * a1 + w1 * a2 + w0 * a3 + shift
        found = z / (1.0 + tl.exp(-z))
        tl.store(y + t * y_row + c, found.to(y.dtype.element_ty), mask=ok & (t < T))
        x3, x2, x1, x0, ahead, position = x2, x1, x0, ahead, following, next_position


@triton.jit
def _weights(taps, bias, c, ok, HAS_BIAS: tl.constexpr):
    """The four taps and the bias of channels c."""
    w0 = tl.load(taps + c * 4, mask=ok, other=0.0)
    w1 = tl.load(taps + c * 4 + 1, mask=ok, other=0.0)
    w2 = tl.load(taps + c * 4 + 2, mask=ok, other=0.0)
    w3 = tl.load(taps + c * 4 + 3, mask=ok, other=0.0)
    if HAS_BIAS:  # noqa: SIM108 - compiled, not chosen
        shift = tl.load(bias + c, mask=ok, other=0.0).to(tl.float32)
    else:
        shift = tl.zeros_like(w0)
    return w0, w1, w2, w3, shift


@triton.jit
def _row(x, t, row, c, ok, T):
    """Token t's inputs, 0 outside the tokens."""
    return tl.load(x + t * row + c, mask=ok & (t >= 0) & (t < T), other=0.0)


@triton.jit
def _before(x1, x2, x3, window, by_token, position, t, T, C, c, ok, HAS_WINDOW: tl.constexpr):
    """The three inputs before token t in its span, in fp32: from its window where it begins."""
    a1 = tl.where(position >= 1, x1, 0.0).to(tl.float32)
    a2 = tl.where(position >= 2, x2, 0.0).to(tl.float32)
    a3 = tl.where(position >= 3, x3, 0.0).to(tl.float32)
    if HAS_WINDOW:  # noqa: SIM102 - the first is a constant, the second is not
        if position < 3:
            held = window + tl.load(by_token + T + tl.minimum(t, T - 1)).to(tl.int64) * 3 * C + c
            a3 += tl.load(held + position * C, mask=ok, other=0.0).to(tl.float32)
            second = ok & (position < 2)
            a2 += tl.load(held + (position + 1) * C, mask=second, other=0.0).to(tl.float32)
            first = ok & (position < 1)
            a1 += tl.load(held + (position + 2) * C, mask=first, other=0.0).to(tl.float32)
    return a1, a2, a3


@triton.jit
def conv_gradient_kernel(
    x,
    taps,
    bias,
    window,
    gy,  # [T, C], rows `y_row` apart
    gx,  # out, [T, C], rows `gx_row` apart
    shares,  # out, fp32 [blocks, 5, C]: each block's share of the taps' and the bias's gradients
    by_token, T, C, x_row, y_row, gx_row,
    HAS_BIAS: tl.constexpr, HAS_WINDOW: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """An input's gradient is complete when the third token after it has been seen."""
    start = tl.program_id(0).to(tl.int64) * ROWS
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    ok = c < C
    w0, w1, w2, w3, shift = _weights(taps, bias, c, ok, HAS_BIAS)
    x3 = _row(x, start - 3, x_row, c, ok, T)
    x2 = _row(x, start - 2, x_row, c, ok, T)
    x1 = _row(x, start - 1, x_row, c, ok, T)
    x0 = _row(x, start, x_row, c, ok, T)
    gy0 = _row(gy, start, y_row, c, ok, T)
    g0, g1, g2, g3, g_shift = shift * 0, shift * 0, shift * 0, shift * 0, shift * 0
    d1, d2, d3 = shift * 0, shift * 0, shift * 0
    position = tl.load(by_token + start)
    for i in range(ROWS + 3):
        t = start + i
        x_ahead = _row(x, t + 1, x_row, c, ok, T)
        gy_ahead = _row(gy, t + 1, y_row, c, ok, T)
        next_position = tl.load(by_token + tl.minimum(t + 1, T - 1))
        a1, a2, a3 = _before(x1, x2, x3, window, by_token, position, t, T, C, c, ok, HAS_WINDOW)
        a0 = x0.to(tl.float32)
        z = w3 * a0 + w2 * a1 + w1 * a2 + w0 * a3 + shift
        open_ = 1.0 / (1.0 + tl.exp(-z))
        g = gy0.to(tl.float32) * (open_ * (1.0 + z * (1.0 - open_)))
        done = d3 + tl.where(position >= 3, w0 * g, 0.0)
        d3 = d2 + tl.where(position >= 2, w1 * g, 0.0)
        d2 = d1 + tl.where(position >= 1, w2 * g, 0.0)
        d1 = w3 * g
        to = gx + (t - 3) * gx_row + c
        tl.store(to, done.to(gx.dtype.element_ty), mask=ok & (t - 3 >= start) & (t - 3 < T))
        own = tl.where(t < start + ROWS, g, 0.0)
        g0 += own * a3
        g1 += own * a2
        g2 += own * a1
        g3 += own * a0
        g_shift += own
        x3, x2, x1, x0, gy0, position = x2, x1, x0, x_ahead, gy_ahead, next_position
    share = shares + tl.program_id(0).to(tl.int64) * 5 * C + c
    tl.store(share, g0, mask=ok)
    tl.store(share + C, g1, mask=ok)
    tl.store(share + 2 * C, g2, mask=ok)
    tl.store(share + 3 * C, g3, mask=ok)
    tl.store(share + 4 * C, g_shift, mask=ok)


@triton.jit
def window_kernel(
    x,
    window,  # [S, W, C]
    new,  # out, [S, W, C]
    bounds,
    C,
    x_row,
    W: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    span = tl.program_id(0)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    ok = c < C
    start, end = tl.load(bounds + span), tl.load(bounds + span + 1)
    held = span.to(tl.int64) * W * C + c
    for j in tl.static_range(W):
        t = end - W + j
        inside = tl.load(x + t.to(tl.int64) * x_row + c, mask=ok & (t >= start), other=0.0)
        old = window + held + (j + end - start) * C
        before = tl.load(old, mask=ok & (t < start), other=0.0)
        found = tl.where(t >= start, inside.to(tl.float32), before.to(tl.float32))
        tl.store(new + held + j * C, found.to(new.dtype.element_ty), mask=ok)
