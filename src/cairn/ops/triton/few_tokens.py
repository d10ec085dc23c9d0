"""Convolution and time steps of one or a few tokens of every span, in one kernel.

Its last program in a span takes the time steps, the others some channels each.
"""

# pyright: reportAttributeAccessIssue=false, reportMissingImports=false, reportIndexIssue=false

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from cairn.ops.triton.early import early, in_turn

if TYPE_CHECKING:
    from cairn.ops.mamba import MixerForm, MixerWeights
    from cairn.ops.state import Ring, Rows


def mix(
    xbc: Tensor,
    dt: Tensor,
    weights: "MixerWeights",
    form: "MixerForm",
    window: Tensor,
    ring: "Ring | None",
    rows: "Rows",
    shape: dict[str, Any],
) -> tuple[Tensor, Tensor]:
    """Convolved inputs fp32 [T, C] and time steps fp32 [T, H]; moves the window on.

    With a ring, x, B and the time steps go there instead.
    """
    (T, C), H = xbc.shape, shape["H"]
    xbc = xbc if xbc.stride(-1) == 1 else xbc.contiguous()
    dt = dt if dt.stride(-1) == 1 else dt.contiguous()
    mixed = torch.empty(T, C, dtype=torch.float32, device=xbc.device)
    steps = torch.empty(T, H, dtype=torch.float32, device=xbc.device)
    block = 256
    _mix_tokens[-(-C // block) + 1, rows.slots.shape[0]](
        xbc, dt, mixed, steps if ring is None else ring.steps,
        None if ring is None else ring.mixed, window,
        weights.conv, weights.conv_bias, weights.dt_bias, rows.bounds, rows.slots,
        rows.positions, xbc.stride(0), dt.stride(0), *(form.dt_limits or (0.0, 0.0)),
        C=C, H=H, HELD=C - shape["G"] * shape["N"], L=1 if ring is None else ring.mixed.shape[1],
        TAPS=weights.conv.shape[-1], DT_LIMITED=form.dt_limits is not None,
        BLOCK=block, BLOCK_H=1 << (H - 1).bit_length(), num_warps=2, **early(xbc),
    )  # fmt: skip
    return mixed, steps


@triton.jit
def silu(x):
    return x / (1 + tl.exp(-x))


@triton.jit
def _softplus(x):
    """log(1 + exp(x)), exact for small exp(x) too; x itself above 20."""
    e = tl.exp(tl.minimum(x, 20.0))
    above = 1 + e
    # log(above) times what rounding 1 + e has lost (W. Kahan): there is no log1p to call.
    exact = tl.where(above == 1, e, tl.log(above) * (e / tl.where(above == 1, 1.0, above - 1)))
    return tl.where(x > 20, x, exact)


@triton.jit
def _mix_tokens(
    xbc, dt, mixed, steps, ring, window, conv, conv_bias, dt_bias, bounds, slots, positions,
    xbc_row, dt_row, low, high,
    C: tl.constexpr, H: tl.constexpr, HELD: tl.constexpr, L: tl.constexpr, TAPS: tl.constexpr,
    DT_LIMITED: tl.constexpr, BLOCK: tl.constexpr, BLOCK_H: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Convolution of some channels over a span, and their window; the last program: time steps."""
    if EARLY:
        in_turn()
    part, span = tl.program_id(0), tl.program_id(1)
    start, stop = tl.load(bounds + span), tl.load(bounds + span + 1)
    slot = tl.load(slots + span).to(tl.int64)
    if slot >= 0:
        position = 0
        if ring is not None:
            position = tl.load(positions + span)
            ring += slot * L * HELD
            steps += slot * L * H
        if part == tl.num_programs(0) - 1:
            _time_steps(
                dt, steps, dt_bias, start, stop, position, dt_row, low, high,
                H, L, ring is not None, DT_LIMITED, BLOCK_H,
            )  # fmt: skip
        else:
            _convolve(
                xbc, mixed, ring, window + slot * (TAPS - 1) * C, conv, conv_bias, start, stop,
                position, part * BLOCK + tl.arange(0, BLOCK), xbc_row, C, HELD, L, TAPS, BLOCK,
            )  # fmt: skip


@triton.jit
def _time_steps(
    dt, steps, dt_bias, start, stop, position, row, low, high,
    H: tl.constexpr, L: tl.constexpr, RING: tl.constexpr, LIMITED: tl.constexpr,
    BLOCK_H: tl.constexpr,
):  # fmt: skip
    """Of a span, after bias, softplus and limits; in a ring, token t is row t mod L."""
    h = tl.arange(0, BLOCK_H)
    shift = tl.load(dt_bias + h, mask=h < H, other=0).to(tl.float32)
    for t in range(start, stop):
        d = _softplus(tl.load(dt + t * row + h, mask=h < H, other=0).to(tl.float32) + shift)
        if LIMITED:
            d = tl.minimum(tl.maximum(d, low), high)
        to = (position + t - start) % L if RING else t
        tl.store(steps + to * H + h, d, mask=h < H)


@triton.jit
def _convolve(
    xbc, mixed, ring, window, conv, conv_bias, start, stop, position, channel, row,
    C: tl.constexpr, HELD: tl.constexpr, L: tl.constexpr, TAPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Some channels of a span, and the window after it; what a ring holds goes there alone."""
    inside = channel < C
    bias = tl.zeros([BLOCK], tl.float32)
    if conv_bias is not None:
        bias = tl.load(conv_bias + channel, mask=inside, other=0).to(tl.float32)
    for t in range(start, stop):
        total = bias
        for tap in tl.static_range(TAPS):
            x = _input(xbc, window, t - (TAPS - 1) + tap, start, channel, inside, row, C, TAPS)
            w = tl.load(conv + channel * TAPS + tap, mask=inside, other=0)
            total += x.to(tl.float32) * w.to(tl.float32)
        total = silu(total)
        if ring is None:
            tl.store(mixed + t * C + channel, total, mask=inside)
        else:
            held = ring + (position + t - start) % L * HELD + channel
            tl.store(held, total.to(ring.dtype.element_ty), mask=channel < HELD)
            tl.store(mixed + t * C + channel, total, mask=inside & (channel >= HELD))
    for i in tl.static_range(TAPS - 1):  # each row is read before it is overwritten
        x = _input(xbc, window, stop - (TAPS - 1) + i, start, channel, inside, row, C, TAPS)
        tl.store(window + i * C + channel, x.to(window.dtype.element_ty), mask=inside)


@triton.jit
def _input(xbc, window, t, start, channel, inside, row, C: tl.constexpr, TAPS: tl.constexpr):
    """The convolution's input at token t, which may lie before this call's `start`."""
    new = tl.load(xbc + t * row + channel, mask=inside & (t >= start), other=0).to(tl.float32)
    back = window + (t - start + TAPS - 1) * C + channel
    return new + tl.load(back, mask=inside & (t < start), other=0).to(tl.float32)
