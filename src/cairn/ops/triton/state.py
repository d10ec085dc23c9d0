"""State update of one or a few tokens: one kernel convolves, one updates, gates and norms.

(Convolving in the second kernel as well was a third slower: every head of a group convolved B and
C again.)
"""

# pyright: reportAttributeAccessIssue=false, reportMissingImports=false, reportIndexIssue=false

from typing import TYPE_CHECKING

import triton
import triton.language as tl
from torch import Tensor

from cairn.ops.norm import gated_rms_norm
from cairn.ops.triton.early import early, in_turn
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
    from cairn.ops.state import Rows, Stored


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
    shape = shape_of(stored.state, form, tile)
    mixed, steps = mix(xbc, dt, weights, form, stored.window, None, rows, shape)
    y, out, arrivals = outputs(z, form, rows)
    _update[shape["PARTS"] * form.groups, rows.slots.shape[0]](
        z, mixed, steps, y, out, stored.state, stored.scales,
        weights.A_log, weights.D, weights.norm, rows.bounds, rows.slots, rows.positions,
        arrivals, rows.seed or 0, z.stride(0), form.eps,
        NORMED=out is not y, NOISY=noisy(stored.state, rows), **shape, **early(z),
    )  # fmt: skip
    if out is not y:
        return out
    return gated_rms_norm(y, z, weights.norm, form.norm_groups, form.eps)


@triton.jit(do_not_specialize=["seed"])
def _update(
    z, mixed, steps, y, out, state, scales, A_log, D, norm,
    bounds, slots, positions, arrivals, seed, z_row, eps,
    H: tl.constexpr, P: tl.constexpr, N: tl.constexpr, G: tl.constexpr, PARTS: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_I: tl.constexpr, NORMED: tl.constexpr,
    NOISY: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Some rows of a group's states in one slot, token by token."""
    if EARLY:
        in_turn()
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
        zeros(out, start, stop, place, row_in, INNER)
    elif start < stop:
        row = slot * INNER + place
        at = row[:, None] * N + n[None, :]
        within = row_in[:, None] & n_in[None, :]
        S = load_state(state, scales, at, row, row_in, within)
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
        store_state(S, state, scales, at, row, row_in, within, seed, after, place, n, NOISY)
        if NORMED:
            finish(
                y, z, out, norm, arrivals, start, stop, span, group, z_row, eps,
                G, PARTS, SIZE, INNER, BLOCK_I,
            )  # fmt: skip
