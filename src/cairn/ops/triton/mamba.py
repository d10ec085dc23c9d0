"""Convolution and scan of a Mamba-2 mixer with Triton kernels, as one step of autograd.

Gradients of x, B and C are written side by side, where the convolution's backward reads them;
what the convolution gave is computed again in backward, since it is the largest tensor.
Legend: T tokens, S spans, H heads, P head width, G groups, N state size, C channels.
"""

# pyright: reportAttributeAccessIssue=false, reportMissingImports=false, reportIndexIssue=false
# pyright: reportPossiblyUnboundVariable=false, reportOperatorIssue=false

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from cairn.ops.gradient import once, run
from cairn.ops.triton.conv import conv_backward, conv_forward
from cairn.ops.triton.scan import Gradients, Steps, scan_backward, scan_forward
from cairn.ops.triton.tables import MOST_TAPS, Tables


def conv_scan(
    xbc: Tensor,
    dt: Tensor,
    taps: Tensor,
    conv_bias: Tensor | None,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    inner: int,
    groups: int,
    limits: tuple[float, float] | None,
    tables: Tables,
    window: Tensor | None = None,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """From xbc [T, C] and dt [T, H], rows of either may lie apart, to the scan's y [T, inner].

    taps [C, 1, W + 1], W at most 3; dt_bias, A and D [H]; window [S, W, C] and state [S, H, P, N]
    are what spans begin with (zeros where None; they have no gradient). P and N must fit the
    kernels' tiles (`tables.fitting`). Returns y in xbc's dtype and the last states in fp32;
    differentiable once.
    """
    missing, narrow = MOST_TAPS - taps.shape[2], taps.dtype != torch.float32
    taps = taps[:, 0]
    if missing or not narrow:  # a copy either way, so that it begins at 16 bytes
        taps = functional.pad(taps, (missing, 0))
    taps = taps.float()
    if window is not None:
        window = window.detach()
        if missing or torch.is_grad_enabled():  # what a backward pass reads must not be a pool's
            window = functional.pad(window, (0, 0, missing, 0))
        window = window.contiguous()
    state = None if state is None else state.detach()
    given = (xbc, dt, taps, conv_bias, dt_bias, A, D)
    return run(_ConvScan, *given, window, state, inner, groups, limits, tables)


class _ConvScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        xbc: Tensor,
        dt: Tensor,
        taps: Tensor,
        conv_bias: Tensor | None,
        dt_bias: Tensor,
        A: Tensor,
        D: Tensor,
        window: Tensor | None,
        state: Tensor | None,
        inner: int,
        groups: int,
        limits: tuple[float, float] | None,
        tables: Tables,
    ) -> tuple[Tensor, Tensor]:
        T, channels = xbc.shape
        H, per_group = dt.shape[1], (channels - inner) // 2
        sizes = H, inner // H, groups, per_group // groups
        mixed = torch.empty(T, channels, dtype=xbc.dtype, device=xbc.device)
        conv_forward(xbc, taps, conv_bias, window, tables, mixed)
        x, B, C = _parts(mixed, *sizes)
        y = torch.empty(T, *sizes[:2], dtype=xbc.dtype, device=xbc.device)
        steps = Steps(dt, dt_bias, True, limits)
        last, decays = scan_forward(x, steps, A, B, C, D, tables, state, y)
        ctx.form = sizes, limits, tables
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(xbc, dt, taps, conv_bias, dt_bias, A, D, window, state, *decays)
        ctx.mark_non_differentiable(last)
        return y.flatten(1), last

    @staticmethod
    @once
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        xbc, dt, taps, conv_bias, dt_bias, A, D, window, state, *decays = ctx.saved_tensors
        sizes, limits, tables = ctx.form
        assert grads[0] is not None
        mixed, g_mixed = xbc.new_empty(xbc.shape), xbc.new_empty(xbc.shape)
        conv_forward(xbc, taps, conv_bias, window, tables, mixed)
        x, B, C = _parts(mixed, *sizes)
        gx, gB, gC = _parts(g_mixed, *sizes)
        g_dt = dt.new_empty(dt.shape)
        steps = Steps(dt, dt_bias, True, limits)
        gA, gD, g_dt_bias, _ = scan_backward(
            x, steps, A, B, C, D, tables, state, (decays[0], decays[1]),
            grads[0].view(x.shape), None, Gradients(gx, g_dt, gB, gC),
        )  # fmt: skip
        g_xbc = mixed  # read for the last time above
        g_taps, g_conv_bias = conv_backward(xbc, taps, conv_bias, window, tables, g_mixed, g_xbc)
        if conv_bias is not None:
            g_conv_bias = g_conv_bias.to(conv_bias.dtype)
        return (
            g_xbc, g_dt, g_taps, None if conv_bias is None else g_conv_bias, g_dt_bias, gA, gD,
            None, None, None, None, None, None,
        )  # fmt: skip


def _parts(mixed: Tensor, H: int, P: int, G: int, N: int) -> tuple[Tensor, Tensor, Tensor]:
    """x [T, H, P], B and C [T, G, N] of the convolution's channels."""
    T, _ = mixed.shape
    x, B, C = mixed.split_with_sizes([H * P, G * N, G * N], 1)
    return x.view(T, H, P), B.view(T, G, N), C.view(T, G, N)
