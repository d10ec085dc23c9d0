"""State update of one or a few tokens in one kernel: convolution, recurrence, gate and norm.

A program owns some rows of one head's state in one slot. The last program of a group to arrive
gates and norms the group's outputs and moves its convolution window on, since no other program
reads them any more.
"""

# pyright: reportAttributeAccessIssue=false, reportMissingImports=false, reportIndexIssue=false

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from cairn.ops.norm import gated_rms_norm

if TYPE_CHECKING:
    from cairn.ops.mamba import MixerForm, MixerWeights
    from cairn.ops.state import Ring, Rows, Stored

_arrivals: dict[tuple[torch.device, int], Tensor] = {}


def update(
    z: Tensor,
    xbc: Tensor,
    dt: Tensor,
    weights: "MixerWeights",
    form: "MixerForm",
    stored: "Stored",
    rows: "Rows",
    tile: dict[str, int] | None = None,
) -> Tensor:
    """`cairn.ops.state.state_update`; `tile` overrides the block's height and warps."""
    H, P, N = stored.state.shape[1:]
    normed = form.groups == form.norm_groups
    shape = _shape(H, P, N, form, weights, tile)
    y = torch.empty(z.shape, dtype=torch.float32, device=z.device)
    out = torch.empty_like(z, memory_format=torch.contiguous_format) if normed else y
    z, xbc, dt = (_rows_contiguous(t) for t in (z, xbc, dt))
    parts = triton.cdiv(P, shape["BLOCK_P"]) * H
    _update[(parts, len(rows.slots))](
        z,
        xbc,
        dt,
        y,
        out,
        stored.window,
        stored.state,
        stored.scales,
        *_parameters(weights),
        rows.bounds,
        rows.slots,
        rows.positions,
        _counters(z.device, len(rows.slots) * form.groups),
        rows.seed or 0,
        z.stride(0),
        xbc.stride(0),
        dt.stride(0),
        form.eps,
        *(form.dt_limits or (0.0, 0.0)),
        DT_LIMITED=form.dt_limits is not None,
        NORMED=normed,
        NOISY=_noisy(stored.state, rows),
        **shape,
    )
    return out if normed else gated_rms_norm(y, z, weights.norm, form.norm_groups, form.eps)


def replay(
    z: Tensor,
    xbc: Tensor,
    dt: Tensor,
    weights: "MixerWeights",
    form: "MixerForm",
    ring: "Ring",
    rows: "Rows",
    tile: dict[str, int] | None = None,
) -> Tensor:
    """`cairn.ops.state.replayed_update`; `tile` overrides the block's height and warps."""
    H, P, N = ring.state.shape[1:]
    normed = form.groups == form.norm_groups
    shape = _shape(H, P, N, form, weights, tile)
    shape["BLOCK_P"] = max(16, shape["BLOCK_P"])  # the least that a matrix product takes
    y = torch.empty(z.shape, dtype=torch.float32, device=z.device)
    out = torch.empty_like(z, memory_format=torch.contiguous_format) if normed else y
    z, xbc, dt = (_rows_contiguous(t) for t in (z, xbc, dt))
    parts = triton.cdiv(P, shape["BLOCK_P"]) * H
    _replay[(parts, len(rows.slots))](
        z,
        xbc,
        dt,
        y,
        out,
        ring.inputs,
        ring.steps,
        ring.state,
        ring.scales,
        *_parameters(weights),
        rows.bounds,
        rows.slots,
        rows.positions,
        rows.fresh,
        _counters(z.device, len(rows.slots) * form.groups),
        rows.seed or 0,
        z.stride(0),
        xbc.stride(0),
        dt.stride(0),
        form.eps,
        *(form.dt_limits or (0.0, 0.0)),
        L=ring.inputs.shape[1],
        EVERY=ring.every,
        BLOCK_J=max(16, triton.next_power_of_2(ring.every + rows.longest)),
        DT_LIMITED=form.dt_limits is not None,
        NORMED=normed,
        NOISY=_noisy(ring.state, rows),
        **shape,
    )
    return out if normed else gated_rms_norm(y, z, weights.norm, form.norm_groups, form.eps)


def _shape(
    H: int,
    P: int,
    N: int,
    form: "MixerForm",
    weights: "MixerWeights",
    tile: dict[str, int] | None,
) -> dict[str, Any]:
    """Compile-time sizes, and a block that wastes no lane where P has a factor of 16."""
    divisor = P & -P
    height = min(divisor, 32) if divisor >= 16 else min(triton.next_power_of_2(P), 64)
    shape = {
        "H": H,
        "P": P,
        "N": N,
        "G": form.groups,
        "TAPS": weights.conv.shape[-1],
        "BLOCK_P": height,
        "BLOCK_N": max(16, triton.next_power_of_2(N)),
        "BLOCK_I": triton.next_power_of_2(H * P // form.groups),
        "num_warps": 4,
    }
    return shape | (tile or {})


def _parameters(weights: "MixerWeights") -> tuple[Tensor | None, ...]:
    return (
        weights.conv,
        weights.conv_bias,
        weights.A_log,
        weights.D,
        weights.dt_bias,
        weights.norm,
    )


def _noisy(state: Tensor, rows: "Rows") -> bool:
    return rows.seed is not None and state.dtype in (torch.float16, torch.int8)


def _rows_contiguous(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _counters(device: torch.device, count: int) -> Tensor:
    """Zeros [count or more] that every launch leaves as zeros; streams do not share them."""
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    held = _arrivals.get((device, stream))
    if held is None or len(held) < count:
        held = torch.zeros(max(count, 4096), dtype=torch.int32, device=device)
        _arrivals[device, stream] = held
    return held


@triton.jit
def _silu(x):
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
def _time_step(dt, dt_bias, head, low, high, DT_LIMITED: tl.constexpr):
    d = _softplus(dt.to(tl.float32) + tl.load(dt_bias + head).to(tl.float32))
    if DT_LIMITED:
        d = tl.minimum(tl.maximum(d, low), high)
    return d


@triton.jit
def _hash(word):
    word = (word ^ (word >> 16)) * 0x7FEB352D
    word = (word ^ (word >> 15)) * 0x846CA68B
    return word ^ (word >> 16)


@triton.jit
def _noise(seed, position, row, column):
    """Random words [rows, columns]; see cairn.ops.state.noise_of."""
    key = _hash(position.to(tl.uint32) ^ _hash(seed.to(tl.uint32)))
    r = _hash(row.to(tl.uint32) ^ key)
    c = _hash((column.to(tl.uint32) + 0x51ED270B) ^ key)
    word = (r[:, None] ^ c[None, :]) * 0x9E3779B1
    return word ^ (word >> 15)


@triton.jit
def _load_state(state, scales, at, row, p_in, within):
    S = tl.load(state + at, mask=within, other=0).to(tl.float32)
    if scales is not None:
        S *= tl.load(scales + row, mask=p_in, other=0)[:, None]
    return S


@triton.jit
def _store_state(
    S, state, scales, at, row, p_in, within, seed, position, place, n, NOISY: tl.constexpr
):
    """Round and store states; `place` are their rows in [H * P], `row` those in the pool."""
    if scales is not None:
        top = tl.max(tl.abs(S), 1)
        inverse = tl.where(top > 0, 127 / tl.where(top > 0, top, 1.0), 0.0)
        steps = S * inverse[:, None]
        if NOISY:
            noise = _noise(seed, position, place, n)
            steps += (noise >> 8).to(tl.float32) * 5.9604644775390625e-08
        else:
            steps += 0.5
        steps = tl.minimum(tl.maximum(tl.floor(steps), -127.0), 127.0)
        tl.store(state + at, steps.to(tl.int8), mask=within)
        tl.store(scales + row, top / 127, mask=p_in)
    elif NOISY:  # fp16; see cairn.ops.state._rounded_to_half
        magnitude = tl.minimum(tl.abs(S), 65504.0)
        lift = tl.where(magnitude < 6.103515625e-05, 6.103515625e-05, 0.0)
        bits = (magnitude + lift).to(tl.uint32, bitcast=True)
        bits += _noise(seed, position, place, n) >> 19
        down = (bits & 0xFFFFE000).to(tl.float32, bitcast=True) - lift
        down = tl.minimum(down, 65504.0)
        tl.store(state + at, tl.where(S < 0, -down, down).to(tl.float16), mask=within)
    else:
        tl.store(state + at, S.to(state.dtype.element_ty), mask=within)


@triton.jit
def _mix(
    xbc,
    window,
    conv,
    conv_bias,
    t,
    start,
    channel,
    inside,
    row,
    C: tl.constexpr,
    TAPS: tl.constexpr,
):
    """SiLU of the convolution at token t, for some channels; what is before `start` is old."""
    total = tl.zeros(channel.shape, tl.float32)
    for tap in tl.static_range(TAPS):
        j = t - (TAPS - 1) + tap
        x = tl.load(xbc + j * row + channel, mask=inside & (j >= start), other=0).to(tl.float32)
        back = window + (j - start + TAPS - 1) * C + channel
        x += tl.load(back, mask=inside & (j < start), other=0).to(tl.float32)
        total += x * tl.load(conv + channel * TAPS + tap, mask=inside, other=0).to(tl.float32)
    if conv_bias is not None:
        total += tl.load(conv_bias + channel, mask=inside, other=0).to(tl.float32)
    return _silu(total)


@triton.jit
def _move_window(
    xbc, window, start, stop, channel, inside, row, C: tl.constexpr, TAPS: tl.constexpr
):
    """The last inputs of some channels; row by row, each read before it is overwritten."""
    for i in tl.static_range(TAPS - 1):
        j = stop - (TAPS - 1) + i
        new = tl.load(xbc + j * row + channel, mask=inside & (j >= start), other=0)
        back = window + (j - start + TAPS - 1) * C + channel
        old = tl.load(back, mask=inside & (j < start), other=0)
        value = new.to(tl.float32) + old.to(tl.float32)
        tl.store(window + i * C + channel, value.to(window.dtype.element_ty), mask=inside)


@triton.jit
def _gate_and_norm(
    y,
    z,
    out,
    norm,
    start,
    stop,
    group,
    z_row,
    eps,
    SIZE: tl.constexpr,
    INNER: tl.constexpr,
    BLOCK_I: tl.constexpr,
):
    """RMSNorm of y * SiLU(z) over one group of every token."""
    i = tl.arange(0, BLOCK_I)
    inside = i < SIZE
    channel = group * SIZE + i
    weight = tl.load(norm + channel, mask=inside, other=0).to(tl.float32)
    for t in range(start, stop):
        # Other programs wrote y: past the first-level cache.
        v = tl.load(y + t * INNER + channel, mask=inside, other=0, cache_modifier=".cg")
        gate = tl.load(z + t * z_row + channel, mask=inside, other=0).to(tl.float32)
        v *= _silu(gate)
        v *= tl.rsqrt(tl.sum(v * v, 0) / SIZE + eps) * weight
        tl.store(out + t * INNER + channel, v.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["seed", "z_row", "xbc_row", "dt_row"])
def _update(
    z,
    xbc,
    dt,
    y,
    out,
    window,
    state,
    scales,
    conv,
    conv_bias,
    A_log,
    D,
    dt_bias,
    norm,
    bounds,
    slots,
    positions,
    arrivals,
    seed,
    z_row,
    xbc_row,
    dt_row,
    eps,
    low,
    high,
    H: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    G: tl.constexpr,
    TAPS: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_I: tl.constexpr,
    DT_LIMITED: tl.constexpr,
    NORMED: tl.constexpr,
    NOISY: tl.constexpr,
):
    INNER: tl.constexpr = H * P
    C: tl.constexpr = INNER + 2 * G * N
    PARTS: tl.constexpr = (P + BLOCK_P - 1) // BLOCK_P
    span = tl.program_id(1)
    head = tl.program_id(0) // PARTS
    p = (tl.program_id(0) % PARTS) * BLOCK_P + tl.arange(0, BLOCK_P)
    n = tl.arange(0, BLOCK_N)
    p_in, n_in = p < P, n < N
    group = head // (H // G)
    x_channel = head * P + p
    b_channel, c_channel = INNER + group * N + n, INNER + (G + group) * N + n
    start, stop = tl.load(bounds + span), tl.load(bounds + span + 1)
    slot = tl.load(slots + span).to(tl.int64)
    if slot < 0:
        for t in range(start, stop):
            tl.store(
                out + t * INNER + x_channel, tl.zeros([BLOCK_P], out.dtype.element_ty), mask=p_in
            )
    elif start < stop:
        row = slot * INNER + x_channel
        at = row[:, None] * N + n[None, :]
        within = p_in[:, None] & n_in[None, :]
        S = _load_state(state, scales, at, row, p_in, within)
        window += slot * (TAPS - 1) * C
        A = -tl.exp(tl.load(A_log + head).to(tl.float32))
        skip = tl.load(D + head).to(tl.float32)
        for t in range(start, stop):
            x = _mix(xbc, window, conv, conv_bias, t, start, x_channel, p_in, xbc_row, C, TAPS)
            b = _mix(xbc, window, conv, conv_bias, t, start, b_channel, n_in, xbc_row, C, TAPS)
            c = _mix(xbc, window, conv, conv_bias, t, start, c_channel, n_in, xbc_row, C, TAPS)
            d = _time_step(tl.load(dt + t * dt_row + head), dt_bias, head, low, high, DT_LIMITED)
            S = S * tl.exp(d * A) + (d * x)[:, None] * b[None, :]
            v = tl.sum(S * c[None, :], 1) + skip * x
            tl.store(y + t * INNER + x_channel, v, mask=p_in)
        position = stop - start
        if NOISY:
            position += tl.load(positions + span)
        _store_state(S, state, scales, at, row, p_in, within, seed, position, x_channel, n, NOISY)
        tl.debug_barrier()  # the program has read its inputs' window, and written its y
        _move_window(xbc, window, start, stop, x_channel, p_in, xbc_row, C, TAPS)
        arrived = tl.atomic_add(arrivals + span * G + group, 1)
        if arrived == PARTS * (H // G) - 1:
            tl.store(arrivals + span * G + group, 0)
            _move_window(xbc, window, start, stop, b_channel, n_in, xbc_row, C, TAPS)
            _move_window(xbc, window, start, stop, c_channel, n_in, xbc_row, C, TAPS)
            if NORMED:
                _gate_and_norm(
                    y, z, out, norm, start, stop, group, z_row, eps, INNER // G, INNER, BLOCK_I
                )


@triton.jit
def _ring_row(xbc, ring, q, position, start, row, L, C: tl.constexpr):
    """Pointers' offsets of inputs at positions q: (this call's, the ring's)."""
    return (start + q - position) * row, ((q + L) % L) * C


@triton.jit
def _mix_ring(
    xbc, ring, conv, conv_bias, q, position, start, channel, inside, row, L, C: tl.constexpr,
    TAPS: tl.constexpr,
):  # fmt: skip
    """SiLU of the convolution at positions q [J], for some channels: [J, channels], fp32."""
    total = tl.zeros([q.shape[0], channel.shape[0]], tl.float32)
    for tap in tl.static_range(TAPS):
        j = q - (TAPS - 1) + tap
        new, old = _ring_row(xbc, ring, j, position, start, row, L, C)
        is_new = (j >= position)[:, None] & inside
        is_old = ((j < position) & (j >= 0))[:, None] & inside
        x = tl.load(xbc + new[:, None] + channel[None, :], mask=is_new, other=0).to(tl.float32)
        x += tl.load(ring + old[:, None] + channel[None, :], mask=is_old, other=0).to(tl.float32)
        w = tl.load(conv + channel * TAPS + tap, mask=channel < C, other=0).to(tl.float32)
        total += x * w[None, :]
    if conv_bias is not None:
        bias = tl.load(conv_bias + channel, mask=channel < C, other=0).to(tl.float32)
        total += bias[None, :]
    return _silu(total)


@triton.jit
def _append(xbc, ring, position, start, stop, channel, inside, row, L, C: tl.constexpr):
    for t in range(start, stop):
        value = tl.load(xbc + t * row + channel, mask=inside, other=0)
        at = ((position + t - start) % L) * C + channel
        tl.store(ring + at, value.to(ring.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["seed", "z_row", "xbc_row", "dt_row"])
def _replay(
    z,
    xbc,
    dt,
    y,
    out,
    ring,
    steps,
    state,
    scales,
    conv,
    conv_bias,
    A_log,
    D,
    dt_bias,
    norm,
    bounds,
    slots,
    positions,
    fresh,
    arrivals,
    seed,
    z_row,
    xbc_row,
    dt_row,
    eps,
    low,
    high,
    H: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    G: tl.constexpr,
    L: tl.constexpr,
    EVERY: tl.constexpr,
    TAPS: tl.constexpr,
    BLOCK_J: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_I: tl.constexpr,
    DT_LIMITED: tl.constexpr,
    NORMED: tl.constexpr,
    NOISY: tl.constexpr,
):
    INNER: tl.constexpr = H * P
    C: tl.constexpr = INNER + 2 * G * N
    PARTS: tl.constexpr = (P + BLOCK_P - 1) // BLOCK_P
    span = tl.program_id(1)
    head = tl.program_id(0) // PARTS
    part = tl.program_id(0) % PARTS
    p = part * BLOCK_P + tl.arange(0, BLOCK_P)
    n = tl.arange(0, BLOCK_N)
    p_in, n_in = p < P, n < N
    group = head // (H // G)
    x_channel = head * P + p
    b_channel, c_channel = INNER + group * N + n, INNER + (G + group) * N + n
    start, stop = tl.load(bounds + span), tl.load(bounds + span + 1)
    slot = tl.load(slots + span).to(tl.int64)
    if slot < 0:
        for t in range(start, stop):
            tl.store(
                out + t * INNER + x_channel, tl.zeros([BLOCK_P], out.dtype.element_ty), mask=p_in
            )
    elif start < stop:
        row = slot * INNER + x_channel
        at = row[:, None] * N + n[None, :]
        within = p_in[:, None] & n_in[None, :]
        S = _load_state(state, scales, at, row, p_in, within)
        ring += slot * L * C
        steps += slot * L * H + head
        A = -tl.exp(tl.load(A_log + head).to(tl.float32))
        skip = tl.load(D + head).to(tl.float32)
        position, replayed = tl.load(positions + span), tl.load(fresh + span)
        count = replayed + stop - start
        j = tl.arange(0, BLOCK_J)
        j_in = j < count
        q = position - replayed + j
        x_in, b_in = j_in[:, None] & p_in[None, :], j_in[:, None] & n_in[None, :]
        X = _mix_ring(
            xbc, ring, conv, conv_bias, q, position, start, x_channel, x_in, xbc_row, L, C, TAPS
        )
        B = _mix_ring(
            xbc, ring, conv, conv_bias, q, position, start, b_channel, b_in, xbc_row, L, C, TAPS
        )
        is_new = j_in & (j >= replayed)
        step = tl.load(dt + (start + j - replayed) * dt_row + head, mask=is_new, other=0)
        held = tl.load(steps + (q % L) * H, mask=j_in & (j < replayed), other=0)
        d = _time_step(
            step.to(tl.float32) + held.to(tl.float32), dt_bias, head, low, high, DT_LIMITED
        )
        d = tl.where(j_in, d, 0.0)
        X, B = tl.where(x_in, X, 0.0), tl.where(b_in, B, 0.0)  # SiLU of a bias is not 0
        decay = tl.cumsum(d * A, 0)  # falls from the stored state on
        for t in range(start, stop):
            here = replayed + t - start
            c = _mix_ring(
                xbc, ring, conv, conv_bias, position + t - start + tl.zeros([1], tl.int32),
                position, start, c_channel, n_in[None, :], xbc_row, L, C, TAPS,
            )  # fmt: skip
            c = tl.where(n_in[None, :], c, 0.0)  # [1, BLOCK_N]
            until = tl.sum(tl.where(j == here, decay, 0.0), 0)
            given = tl.exp(tl.minimum(until - decay, 0.0)) * d * tl.sum(B * c, 1)
            given = tl.where(j <= here, given, 0.0)
            given += tl.where(j == here, skip, 0.0)
            v = tl.exp(until) * tl.sum(S * c, 1)
            v += tl.sum(given[:, None] * X, 0)
            tl.store(y + t * INNER + x_channel, v, mask=p_in)
        if count > EVERY:
            end = tl.sum(d * A, 0)
            left = tl.exp(tl.minimum(end - decay, 0.0)) * d
            S *= tl.exp(end)
            S += tl.dot(tl.trans(X * left[:, None]), B, input_precision="ieee")
            after = position + stop - start
            _store_state(S, state, scales, at, row, p_in, within, seed, after, x_channel, n, NOISY)
        # No program of this call reads the rows that it writes.
        _append(xbc, ring, position, start, stop, x_channel, p_in, xbc_row, L, C)
        if part == 0:
            for t in range(start, stop):
                value = tl.load(dt + t * dt_row + head).to(steps.dtype.element_ty)
                tl.store(steps + ((position + t - start) % L) * H, value)
            if head % (H // G) == 0:
                _append(xbc, ring, position, start, stop, b_channel, n_in, xbc_row, L, C)
                _append(xbc, ring, position, start, stop, c_channel, n_in, xbc_row, L, C)
        if NORMED:
            tl.debug_barrier()
            arrived = tl.atomic_add(arrivals + span * G + group, 1)
            if arrived == PARTS * (H // G) - 1:
                tl.store(arrivals + span * G + group, 0)
                _gate_and_norm(
                    y, z, out, norm, start, stop, group, z_row, eps, INNER // G, INNER, BLOCK_I
                )
