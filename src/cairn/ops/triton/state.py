"""State update of one or a few tokens: one kernel convolves, one updates, gates and norms.

A program of the second owns some rows of a group's states in one slot, whatever their heads are,
so that no head size wastes lanes. The last program of a group to arrive gates and norms the
group's outputs. (Convolving in the second kernel as well was a third slower: every head of a group
convolved B and C again.)
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
    """`cairn.ops.state.state_update`; `tile` overrides the block's rows and warps."""
    shape = _shape(stored.state, form, tile)
    mixed, steps = _mix(xbc, dt, weights, form, stored.window, None, rows, shape)
    y, out, arrivals = _outputs(z, form, rows)
    _update[(shape["PARTS"] * form.groups, len(rows.slots))](
        z, mixed, steps, y, out, stored.state, stored.scales,
        weights.A_log, weights.D, weights.norm, rows.bounds, rows.slots, rows.positions,
        arrivals, rows.seed or 0, z.stride(0), form.eps,
        NORMED=out is not y, NOISY=_noisy(stored.state, rows), **shape,
    )  # fmt: skip
    if out is not y:
        return out
    return gated_rms_norm(y, z, weights.norm, form.norm_groups, form.eps)


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
    """`cairn.ops.state.replayed_update`; `tile` overrides the block's rows and warps."""
    shape = _shape(ring.state, form, tile)
    shape["BLOCK"] = max(16, shape["BLOCK"])  # the least that a matrix product takes
    mixed, _ = _mix(xbc, dt, weights, form, ring.window, ring, rows, shape)
    y, out, arrivals = _outputs(z, form, rows)
    _replay[(shape["PARTS"] * form.groups, len(rows.slots))](
        z, mixed, y, out, ring.mixed, ring.steps, ring.state, ring.scales,
        weights.A_log, weights.D, weights.norm, rows.bounds, rows.slots, rows.positions, rows.fresh,
        arrivals, rows.seed or 0, z.stride(0), form.eps,
        L=ring.mixed.shape[1], EVERY=ring.every,
        BLOCK_J=max(16, triton.next_power_of_2(ring.every + rows.longest)),
        NORMED=out is not y, NOISY=_noisy(ring.state, rows), **shape,
    )  # fmt: skip
    if out is not y:
        return out
    return gated_rms_norm(y, z, weights.norm, form.norm_groups, form.eps)


def _shape(state: Tensor, form: "MixerForm", tile: dict[str, int] | None) -> dict[str, Any]:
    """Compile-time sizes. A block is some rows of a group's states, whatever their heads."""
    H, P, N = state.shape[1:]
    rows = H * P // form.groups
    shape = {
        "H": H,
        "P": P,
        "N": N,
        "G": form.groups,
        "BLOCK": min(64 if P % 64 == 0 else 32, max(16, triton.next_power_of_2(rows))),
        "BLOCK_N": max(16, triton.next_power_of_2(N)),
        "BLOCK_I": triton.next_power_of_2(rows),
    } | (tile or {})
    shape.setdefault("num_warps", max(1, shape["BLOCK"] // 16))
    shape["PARTS"] = triton.cdiv(rows, shape["BLOCK"])
    return shape


def _mix(
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
    xbc, dt = (x if x.stride(-1) == 1 else x.contiguous() for x in (xbc, dt))
    mixed = torch.empty(T, C, dtype=torch.float32, device=xbc.device)
    steps = torch.empty(T, H, dtype=torch.float32, device=xbc.device)
    block = 256
    _mix_tokens[(triton.cdiv(C, block) + 1, len(rows.slots))](
        xbc, dt, mixed, steps if ring is None else ring.steps,
        None if ring is None else ring.mixed, window,
        weights.conv, weights.conv_bias, weights.dt_bias, rows.bounds, rows.slots,
        rows.positions, xbc.stride(0), dt.stride(0), *(form.dt_limits or (0.0, 0.0)),
        C=C, H=H, HELD=C - shape["G"] * shape["N"], L=1 if ring is None else ring.mixed.shape[1],
        TAPS=weights.conv.shape[-1], DT_LIMITED=form.dt_limits is not None,
        BLOCK=block, BLOCK_H=triton.next_power_of_2(H), num_warps=2,
    )  # fmt: skip
    return mixed, steps


def _outputs(z: Tensor, form: "MixerForm", rows: "Rows") -> tuple[Tensor, Tensor, Tensor]:
    """y in fp32, the normed output (y itself where norms have other groups), and counters."""
    y = torch.empty(z.shape, dtype=torch.float32, device=z.device)
    out = y
    if form.groups == form.norm_groups:
        out = torch.empty_like(z, memory_format=torch.contiguous_format)
    return y, out, _counters(z.device, len(rows.slots) * form.groups)


def _noisy(state: Tensor, rows: "Rows") -> bool:
    return rows.seed is not None and state.dtype in (torch.float16, torch.int8)


def _counters(device: torch.device, count: int) -> Tensor:
    """Zeros [count or more] that every launch leaves as zeros; streams do not share them."""
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    held = _arrivals.get((device, stream))
    if held is None or len(held) < count:
        # Large from the start: captured graphs hold it by address.
        held = torch.zeros(max(count, 65_536), dtype=torch.int32, device=device)
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
    return (r[:, None] ^ c[None, :]) * 0x9E3779B1


@triton.jit
def _load_state(state, scales, at, row, row_in, within):
    S = tl.load(state + at, mask=within, other=0).to(tl.float32)
    if scales is not None:
        S *= tl.load(scales + row, mask=row_in, other=0)[:, None]
    return S


@triton.jit
def _store_state(
    S, state, scales, at, row, row_in, within, seed, position, place, n, NOISY: tl.constexpr
):
    """Round and store states; `place` are their rows in [H * P], `row` those in the pool."""
    if scales is not None:
        top = tl.max(tl.abs(S), 1)
        inverse = tl.where(top > 0, 127 / tl.where(top > 0, top, 1.0), 0.0)
        steps = S * inverse[:, None]
        if NOISY:
            noise = _noise(seed, position, place, n)
            steps += (noise >> 8).to(tl.int32).to(tl.float32) * 5.9604644775390625e-08
        else:
            steps += 0.5
        steps = tl.minimum(tl.maximum(tl.floor(steps), -127.0), 127.0)
        tl.store(state + at, steps.to(tl.int8), mask=within)
        tl.store(scales + row, top / 127, mask=row_in)
    elif NOISY:  # fp16; see cairn.ops.state._rounded_to_half
        lift = tl.where(S < 0, -6.103515625e-05, 6.103515625e-05)
        lift = tl.where(tl.abs(S) < 6.103515625e-05, lift, 0.0)
        bits = (S + lift).to(tl.uint32, bitcast=True)  # noise grows the magnitude of either sign
        bits += _noise(seed, position, place, n) >> 19
        down = (bits & 0xFFFFE000).to(tl.float32, bitcast=True) - lift
        down = tl.minimum(tl.maximum(down, -65504.0), 65504.0)
        tl.store(state + at, down.to(tl.float16), mask=within)
    else:
        tl.store(state + at, S.to(state.dtype.element_ty), mask=within)


@triton.jit(do_not_specialize=["xbc_row", "dt_row"])
def _mix_tokens(
    xbc,
    dt,
    mixed,
    steps,
    ring,
    window,
    conv,
    conv_bias,
    dt_bias,
    bounds,
    slots,
    positions,
    xbc_row,
    dt_row,
    low,
    high,
    C: tl.constexpr,
    H: tl.constexpr,
    HELD: tl.constexpr,
    L: tl.constexpr,
    TAPS: tl.constexpr,
    DT_LIMITED: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    """Convolution of some channels over a span, and their window; the last program: time steps."""
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
            h = tl.arange(0, BLOCK_H)
            shift = tl.load(dt_bias + h, mask=h < H, other=0).to(tl.float32)
            for t in range(start, stop):
                d = _softplus(
                    tl.load(dt + t * dt_row + h, mask=h < H, other=0).to(tl.float32) + shift
                )
                if DT_LIMITED:
                    d = tl.minimum(tl.maximum(d, low), high)
                row = t
                if ring is not None:
                    row = (position + t - start) % L
                tl.store(steps + row * H + h, d, mask=h < H)
        else:
            channel = part * BLOCK + tl.arange(0, BLOCK)
            inside = channel < C
            window += slot * (TAPS - 1) * C
            bias = tl.zeros([BLOCK], tl.float32)
            if conv_bias is not None:
                bias = tl.load(conv_bias + channel, mask=inside, other=0).to(tl.float32)
            for t in range(start, stop):
                total = bias
                for tap in tl.static_range(TAPS):
                    x = _input(
                        xbc, window, t - (TAPS - 1) + tap, start, channel, inside, xbc_row, C, TAPS
                    )
                    w = tl.load(conv + channel * TAPS + tap, mask=inside, other=0)
                    total += x.to(tl.float32) * w.to(tl.float32)
                total = _silu(total)
                if ring is None:
                    tl.store(mixed + t * C + channel, total, mask=inside)
                else:
                    held = ring + (position + t - start) % L * HELD + channel
                    tl.store(held, total.to(ring.dtype.element_ty), mask=channel < HELD)
                    tl.store(mixed + t * C + channel, total, mask=inside & (channel >= HELD))
            for i in tl.static_range(TAPS - 1):  # each row is read before it is overwritten
                x = _input(
                    xbc, window, stop - (TAPS - 1) + i, start, channel, inside, xbc_row, C, TAPS
                )
                tl.store(window + i * C + channel, x.to(window.dtype.element_ty), mask=inside)


@triton.jit
def _input(xbc, window, t, start, channel, inside, row, C: tl.constexpr, TAPS: tl.constexpr):
    """The convolution's input at token t, which may lie before this call's `start`."""
    new = tl.load(xbc + t * row + channel, mask=inside & (t >= start), other=0).to(tl.float32)
    back = window + (t - start + TAPS - 1) * C + channel
    return new + tl.load(back, mask=inside & (t < start), other=0).to(tl.float32)


@triton.jit
def _gate_and_norm(
    y, z, out, norm, start, stop, group, z_row, eps, SIZE: tl.constexpr, INNER: tl.constexpr,
    BLOCK_I: tl.constexpr,
):  # fmt: skip
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


@triton.jit
def _zeros(out, start, stop, channel, inside, INNER: tl.constexpr):
    """What the null slot gives."""
    for t in range(start, stop):
        nothing = tl.zeros(channel.shape, out.dtype.element_ty)
        tl.store(out + t * INNER + channel, nothing, mask=inside)


@triton.jit(do_not_specialize=["seed", "z_row"])
def _update(
    z,
    mixed,
    steps,
    y,
    out,
    state,
    scales,
    A_log,
    D,
    norm,
    bounds,
    slots,
    positions,
    arrivals,
    seed,
    z_row,
    eps,
    H: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    G: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_I: tl.constexpr,
    NORMED: tl.constexpr,
    NOISY: tl.constexpr,
):
    INNER: tl.constexpr = H * P
    C: tl.constexpr = INNER + 2 * G * N
    SIZE: tl.constexpr = INNER // G
    span, group = tl.program_id(1), tl.program_id(0) // PARTS
    i = (tl.program_id(0) % PARTS) * BLOCK + tl.arange(0, BLOCK)
    row_in = i < SIZE
    place, n = group * SIZE + i, tl.arange(0, BLOCK_N)
    n_in, head = n < N, place // P
    start, stop = tl.load(bounds + span), tl.load(bounds + span + 1)
    slot = tl.load(slots + span).to(tl.int64)
    if slot < 0:
        _zeros(out, start, stop, place, row_in, INNER)
    elif start < stop:
        row = slot * INNER + place
        at = row[:, None] * N + n[None, :]
        within = row_in[:, None] & n_in[None, :]
        S = _load_state(state, scales, at, row, row_in, within)
        A = -tl.exp(tl.load(A_log + head, mask=row_in, other=0).to(tl.float32))
        skip = tl.load(D + head, mask=row_in, other=0).to(tl.float32)
        for t in range(start, stop):
            token = mixed + t * C
            x = tl.load(token + place, mask=row_in, other=0)
            b = tl.load(token + INNER + group * N + n, mask=n_in, other=0)
            c = tl.load(token + INNER + (G + group) * N + n, mask=n_in, other=0)
            d = tl.load(steps + t * H + head, mask=row_in, other=0)
            S = S * tl.exp(d * A)[:, None] + (d * x)[:, None] * b[None, :]
            v = tl.sum(S * c[None, :], 1) + skip * x
            tl.store(y + t * INNER + place, v, mask=row_in)
        after = stop - start
        if NOISY:
            after += tl.load(positions + span)
        _store_state(S, state, scales, at, row, row_in, within, seed, after, place, n, NOISY)
        if NORMED:
            tl.debug_barrier()  # all of y is written
            arrived = tl.atomic_add(arrivals + span * G + group, 1)
            if arrived == PARTS - 1:
                tl.store(arrivals + span * G + group, 0)
                _gate_and_norm(
                    y, z, out, norm, start, stop, group, z_row, eps, SIZE, INNER, BLOCK_I
                )


@triton.jit(do_not_specialize=["seed", "z_row"])
def _replay(
    z,
    mixed,
    y,
    out,
    ring,
    steps,
    state,
    scales,
    A_log,
    D,
    norm,
    bounds,
    slots,
    positions,
    fresh,
    arrivals,
    seed,
    z_row,
    eps,
    H: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    G: tl.constexpr,
    L: tl.constexpr,
    EVERY: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_J: tl.constexpr,
    NORMED: tl.constexpr,
    NOISY: tl.constexpr,
):
    """The tokens since the stored state, from the ring: [J, rows] and [J, N]."""
    INNER: tl.constexpr = H * P
    C: tl.constexpr = INNER + 2 * G * N
    HELD: tl.constexpr = INNER + G * N
    SIZE: tl.constexpr = INNER // G
    span, group = tl.program_id(1), tl.program_id(0) // PARTS
    i = (tl.program_id(0) % PARTS) * BLOCK + tl.arange(0, BLOCK)
    row_in = i < SIZE
    place, n = group * SIZE + i, tl.arange(0, BLOCK_N)
    n_in, head = n < N, place // P
    if P % BLOCK == 0:  # one head: what follows from time steps alone has one column
        head = (group * SIZE + (tl.program_id(0) % PARTS) * BLOCK) // P + tl.arange(0, 1)
    start, stop = tl.load(bounds + span), tl.load(bounds + span + 1)
    slot = tl.load(slots + span).to(tl.int64)
    if slot < 0:
        _zeros(out, start, stop, place, row_in, INNER)
    elif start < stop:
        row = slot * INNER + place
        at = row[:, None] * N + n[None, :]
        within = row_in[:, None] & n_in[None, :]
        S = _load_state(state, scales, at, row, row_in, within)
        A = -tl.exp(tl.load(A_log + head, mask=head < H, other=0).to(tl.float32))
        skip = tl.load(D + head, mask=head < H, other=0).to(tl.float32)
        position, replayed = tl.load(positions + span), tl.load(fresh + span)
        count = replayed + stop - start
        j = tl.arange(0, BLOCK_J)
        held = slot * L + (position - replayed + j) % L
        x_in, b_in = (j < count)[:, None] & row_in[None, :], (j < count)[:, None] & n_in[None, :]
        X = tl.load(ring + held[:, None] * HELD + place[None, :], mask=x_in, other=0)
        B = tl.load(
            ring + held[:, None] * HELD + INNER + group * N + n[None, :], mask=b_in, other=0
        )
        X, B = X.to(tl.float32), B.to(tl.float32)
        d_in = (j < count)[:, None] & (head < H)[None, :]
        d = tl.load(steps + held[:, None] * H + head[None, :], mask=d_in, other=0)
        decay = tl.cumsum(d * A[None, :], 0)  # falls from the stored state on
        for t in range(start, stop):
            here = j[:, None] == replayed + t - start
            c = tl.load(mixed + t * C + INNER + (G + group) * N + n, mask=n_in, other=0)
            until = tl.sum(tl.where(here, decay, 0.0), 0)
            given = tl.exp(tl.minimum(until[None, :] - decay, 0.0)) * d
            given = tl.where(j[:, None] <= replayed + t - start, given, 0.0)
            given *= tl.sum(B * c[None, :], 1)[:, None]
            given += tl.where(here, skip[None, :], 0.0)
            v = tl.exp(until) * tl.sum(S * c[None, :], 1) + tl.sum(given * X, 0)
            tl.store(y + t * INNER + place, v, mask=row_in)
        if count > EVERY:
            end = tl.sum(d * A[None, :], 0)
            left = tl.exp(tl.minimum(end[None, :] - decay, 0.0)) * d
            S *= tl.exp(end)[:, None]
            S += tl.dot(tl.trans(X * left), B, input_precision="tf32x3")
            after = position + stop - start
            _store_state(S, state, scales, at, row, row_in, within, seed, after, place, n, NOISY)
        if NORMED:
            tl.debug_barrier()  # all of y is written
            arrived = tl.atomic_add(arrivals + span * G + group, 1)
            if arrived == PARTS - 1:
                tl.store(arrivals + span * G + group, 0)
                _gate_and_norm(
                    y, z, out, norm, start, stop, group, z_row, eps, SIZE, INNER, BLOCK_I
                )
