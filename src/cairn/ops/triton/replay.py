"""State update in its replayed form: the last inputs are in a ring, states are written rarely.

One kernel convolves into the ring, one replays it, gates and norms.
"""

# pyright: reportAttributeAccessIssue=false, reportMissingImports=false, reportIndexIssue=false

from typing import TYPE_CHECKING

import triton
import triton.language as tl
from torch import Tensor

from cairn.ops.norm import gated_rms_norm
from cairn.ops.triton.few_tokens import mix
from cairn.ops.triton.stored import (
    finish,
    load_state,
    noisy,
    outputs,
    shape_of,
    store_state,
    zeros,
)

if TYPE_CHECKING:
    from cairn.ops.mamba import MixerForm, MixerWeights
    from cairn.ops.state import Ring, Rows


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
    P = ring.state.shape[2]
    one_head = {"BLOCK": 64, "num_warps": 2} if P % 64 == 0 else {"BLOCK": 16, "num_warps": 1}
    shape = shape_of(ring.state, form, one_head if tile is None and P % 16 == 0 else tile)
    mixed, _ = mix(xbc, dt, weights, form, ring.window, ring, rows, shape)
    y, out, arrivals = outputs(z, form, rows)
    _replay[shape["PARTS"] * form.groups, rows.slots.shape[0]](
        z, mixed, y, out, ring.mixed, ring.steps, ring.state, ring.scales,
        weights.A_log, weights.D, weights.norm, rows.bounds, rows.slots, rows.positions, rows.fresh,
        arrivals, rows.seed or 0, z.stride(0), form.eps,
        L=ring.mixed.shape[1], EVERY=ring.every,
        BLOCK_J=max(16, triton.next_power_of_2(ring.every + rows.longest)),
        NORMED=out is not y, NOISY=noisy(ring.state, rows), **shape,
    )  # fmt: skip
    if out is not y:
        return out
    return gated_rms_norm(y, z, weights.norm, form.norm_groups, form.eps)


@triton.jit(do_not_specialize=["seed"])
def _replay(
    z, mixed, y, out, ring, steps, state, scales, A_log, D, norm,
    bounds, slots, positions, fresh, arrivals, seed, z_row, eps,
    H: tl.constexpr, P: tl.constexpr, N: tl.constexpr, G: tl.constexpr, L: tl.constexpr,
    EVERY: tl.constexpr, PARTS: tl.constexpr, BLOCK: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr, NORMED: tl.constexpr, NOISY: tl.constexpr,
):  # fmt: skip
    """Some rows of a group's states in one slot, and the tokens since they were stored."""
    INNER: tl.constexpr = H * P
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
        zeros(out, start, stop, place, row_in, INNER)
    elif start < stop:
        row = slot * INNER + place
        at = row[:, None] * N + n[None, :]
        within = row_in[:, None] & n_in[None, :]
        S = load_state(state, scales, at, row, row_in, within)
        A = -tl.exp(tl.load(A_log + head, mask=head < H, other=0).to(tl.float32))
        skip = tl.load(D + head, mask=head < H, other=0).to(tl.float32)
        position, replayed = tl.load(positions + span), tl.load(fresh + span)
        begin, count = position - replayed, replayed + stop - start
        ring += slot * L * HELD
        j = tl.arange(0, BLOCK_J)
        d = steps + (slot * L + (begin + j) % L)[:, None] * H + head[None, :]
        d = tl.load(d, mask=(j < count)[:, None] & (head < H)[None, :], other=0)
        decay = tl.cumsum(d * A[None, :], 0)  # falls from the stored state on
        _outputs(
            S, ring, mixed + INNER + (G + group) * N, y, j, d, decay, skip, begin, replayed, count,
            start, stop, place, row_in, n, n_in, group, INNER, HELD, N, INNER + 2 * G * N, L,
        )  # fmt: skip
        if count > EVERY:
            end = tl.sum(d * A[None, :], 0)
            left = tl.exp(tl.minimum(end[None, :] - decay, 0.0)) * d
            S = _carried(
                S * tl.exp(end)[:, None], ring, left, j, begin, count, place, row_in, n, n_in,
                group, INNER, HELD, N, L,
            )  # fmt: skip
            after = position + stop - start
            store_state(S, state, scales, at, row, row_in, within, seed, after, place, n, NOISY)
        if NORMED:
            finish(
                y, z, out, norm, arrivals, start, stop, span, group, z_row, eps,
                G, PARTS, SIZE, INNER, BLOCK_I,
            )  # fmt: skip


@triton.jit
def _outputs(
    S, ring, C, y, j, d, decay, skip, begin, replayed, count, start, stop, place, row_in, n, n_in,
    group, INNER: tl.constexpr, HELD: tl.constexpr, N: tl.constexpr, CHANNELS: tl.constexpr,
    L: tl.constexpr,
):  # fmt: skip
    """y of this call's tokens: from the stored state, and from the tokens since [J, rows]."""
    held = ring + ((begin + j) % L)[:, None] * HELD
    there = (j < count)[:, None]
    X = tl.load(held + place[None, :], mask=there & row_in[None, :], other=0).to(tl.float32)
    B = held + INNER + group * N + n[None, :]
    B = tl.load(B, mask=there & n_in[None, :], other=0).to(tl.float32)
    for t in range(start, stop):
        here = j[:, None] == replayed + t - start
        c = tl.load(C + t * CHANNELS + n, mask=n_in, other=0)
        until = tl.sum(tl.where(here, decay, 0.0), 0)
        given = tl.exp(tl.minimum(until[None, :] - decay, 0.0)) * d
        given = tl.where(j[:, None] <= replayed + t - start, given, 0.0)
        given *= tl.sum(B * c[None, :], 1)[:, None]
        given += tl.where(here, skip[None, :], 0.0)
        v = tl.exp(until) * tl.sum(S * c[None, :], 1) + tl.sum(given * X, 0)
        tl.store(y + t * INNER + place, v, mask=row_in)


@triton.jit
def _carried(
    S, ring, left, j, begin, count, place, row_in, n, n_in, group, INNER: tl.constexpr,
    HELD: tl.constexpr, N: tl.constexpr, L: tl.constexpr,
):  # fmt: skip
    """The state with the tokens of the ring, `left` [J, heads] of each, one after another."""
    for k in range(count):
        held = ring + (begin + k) % L * HELD
        x = tl.load(held + place, mask=row_in, other=0).to(tl.float32)
        b = tl.load(held + INNER + group * N + n, mask=n_in, other=0).to(tl.float32)
        weight = tl.sum(tl.where(j[:, None] == k, left, 0.0), 0)
        S += (weight * x)[:, None] * b[None, :]
    return S
