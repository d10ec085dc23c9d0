"""Kernels of the SSD scan's backward: gradients of a block's tokens, then of its time steps.

What a pair of tokens gives to the decays between them is summed over rows and over columns of the
same fp32 products, so that what has to cancel does, whatever the inputs' dtype.
Legend: T tokens, K chunks, L tokens of a block, H heads, P head width, G groups, N state size.
"""

# pyright: reportAttributeAccessIssue=false, reportMissingImports=false, reportIndexIssue=false
# pyright: reportPossiblyUnboundVariable=false, reportOperatorIssue=false

import triton
import triton.language as tl

from cairn.ops.triton.scan_forward import softplus


@triton.jit
def pair_kernel(
    x,  # [T, H, P], rows `x_row` apart
    B, C,  # [T, G, N], rows `b_row` and `c_row` apart
    D,  # [H], where HAS_D
    steps, decay,
    gy,  # [T, H, P], rows `y_row` apart
    gx,  # out, [T, H, P], rows `gx_row` apart
    near,  # out, fp32 [2, T, G, N]: of the gradients of B and C
    g_steps,  # out, fp32 [H, T]: of the time steps, but through decays
    g_decay,  # out, fp32 [H, T]: of the decays (natural logarithms)
    g_skip,  # out, fp32 [K * BLOCKS, H]: each block's share of D's gradient
    by_chunk, K, T, H, share, x_row, b_row, c_row, y_row, gx_row,
    P1: tl.constexpr, P2: tl.constexpr, P: tl.constexpr, N: tl.constexpr, BLOCKS: tl.constexpr,
    L: tl.constexpr, HAS_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """What the tokens of a block give each other, for all heads of a group, one after another.

    Token j gives, token i takes; matrices of pairs are [j, i].
    """
    chunk = tl.program_id(0) // BLOCKS
    block = tl.program_id(0) % BLOCKS
    group = tl.program_id(1)
    length = tl.load(by_chunk + K + chunk) - block * L
    skips = g_skip + tl.program_id(0) * H + group * share
    if length <= 0:
        for head in range(share):
            tl.store(skips + head, 0.0)
        return
    r = tl.arange(0, L)
    t = tl.load(by_chunk + chunk).to(tl.int64) + block * L + r
    valid = r < length
    n = group * N + tl.arange(0, N)
    ct = tl.load(C + t[:, None] * c_row + n[None, :], mask=valid[:, None], other=0.0)
    bt = tl.load(B + t[:, None] * b_row + n[None, :], mask=valid[:, None], other=0.0)
    scores = tl.dot(bt, tl.trans(ct), input_precision=PRECISION)
    scores = tl.where(r[:, None] <= r[None, :], scores, 0.0)
    g_scores = tl.zeros((L, L), tl.float32)
    for head in range(share):
        h = group * share + head
        g_scores = _pairs(
            x + t[:, None] * x_row + h * P, gy + t[:, None] * y_row + h * P,
            gx + t[:, None] * gx_row + h * P, D, h, steps + h.to(tl.int64) * T + t,
            decay + h.to(tl.int64) * T + t, g_steps + h.to(tl.int64) * T + t,
            g_decay + h.to(tl.int64) * T + t, skips + head, scores, g_scores, r, valid, ct.dtype,
            P1, P2, P, L, HAS_D, PRECISION,
        )  # fmt: skip
    g_scores = tl.where(r[:, None] <= r[None, :], g_scores, 0.0).to(ct.dtype)
    width = tl.num_programs(1) * N
    place = t[:, None] * width + n[None, :]
    g_bt = tl.dot(g_scores, ct, input_precision=PRECISION)
    tl.store(near + place, g_bt, mask=valid[:, None])
    g_ct = tl.dot(tl.trans(g_scores), bt, input_precision=PRECISION)
    tl.store(near + (t + T)[:, None] * width + n[None, :], g_ct, mask=valid[:, None])


@triton.jit
def _pairs(
    xh, yh, to_x, D, h, steps, decay, g_steps, g_decay, g_skip, scores, g_scores, r, valid,
    DTYPE: tl.constexpr, P1: tl.constexpr, P2: tl.constexpr, P: tl.constexpr, L: tl.constexpr,
    HAS_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One head's pairs: its gradients, and the scores' with its share."""
    d = tl.load(decay, mask=valid, other=0.0)
    s = tl.load(steps, mask=valid, other=0.0)
    skip = tl.load(D + h).to(tl.float32) if HAS_D else 0.0
    decayed = tl.exp2(tl.minimum(d[None, :] - d[:, None], 0.0))
    m = (scores * decayed).to(DTYPE)
    pairs = tl.zeros((L, L), tl.float32)
    pairs = _pair_columns(xh, yh, to_x, m, s, skip, valid, pairs, 0, P1, P, PRECISION)
    if P2 > 0:
        pairs = _pair_columns(xh, yh, to_x, m, s, skip, valid, pairs, P1, P2, P, PRECISION)
    if HAS_D:
        tl.store(g_skip, tl.sum(tl.where(r[:, None] == r[None, :], pairs, 0.0)))
    pairs *= decayed
    g_scores += pairs * s[:, None]
    pairs *= scores
    g_step = tl.sum(pairs, axis=1)
    tl.store(g_steps, g_step, mask=valid)
    taken = tl.sum(pairs * s[:, None], axis=0)
    tl.store(g_decay, taken - s * g_step, mask=valid)
    return g_scores


@triton.jit
def _pair_columns(
    xh, yh, to_x, m, s, skip, valid, pairs,
    FIRST: tl.constexpr, WIDTH: tl.constexpr, P: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Some columns of a head: x's gradient, and what they add to the pairs."""
    p = FIRST + tl.arange(0, WIDTH)
    WHOLE: tl.constexpr = P >= FIRST + WIDTH
    ok = valid[:, None] if WHOLE else valid[:, None] & (p < P)[None, :]
    gys = tl.load(yh + p[None, :], mask=ok, other=0.0)
    xs = tl.load(xh + p[None, :], mask=ok, other=0.0)
    given = tl.dot(m, gys, input_precision=PRECISION) * s[:, None] + skip * gys.to(tl.float32)
    tl.store(to_x + p[None, :], given.to(to_x.dtype.element_ty), mask=ok)
    return tl.dot(xs, tl.trans(gys), pairs, input_precision=PRECISION)


@triton.jit
def far_kernel(
    u,  # [T, H, P], rows `u_row` apart: y's gradient, or x where REVERSE
    v,  # [T, G, N], rows `v_row` apart: C, or B where REVERSE
    other_u,  # the other of the two
    other_v,
    held,  # [K, H, P, N]: states before each chunk, or their gradients after it where REVERSE
    other_held,  # the other of the two
    steps,
    decay,
    near,  # fp32 [T, G, N], as pair_kernel left it
    gv,  # out, [T, G, N], rows `gv_row` apart
    gx,  # [T, H, P], rows `gx_row` apart: as pair_kernel left it; what states give is added
    g_steps,  # fp32 [H, T], likewise
    g_decay,  # fp32 [H, T], likewise
    by_chunk, K, T, H, share, u_row, v_row, other_u_row, other_v_row, gv_row, gx_row,
    P1: tl.constexpr, P2: tl.constexpr, P: tl.constexpr, N: tl.constexpr, BLOCKS: tl.constexpr,
    L: tl.constexpr, REVERSE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """What a block's tokens take from the state before it, or (REVERSE) give to the one after it.

    States are known at chunks' bounds. Of two blocks, the second takes the first's inputs to carry
    the state on to its own beginning; REVERSE, the first takes the second's gradients to carry the
    state's gradient back to its own end. All heads of a group, one after another.
    """
    chunk = tl.program_id(0) // BLOCKS
    block = tl.program_id(0) % BLOCKS
    length = tl.load(by_chunk + K + chunk)
    start = tl.load(by_chunk + chunk).to(tl.int64)
    if length <= block * L:
        return
    if block == (BLOCKS - 1 if REVERSE else 0):
        _far(
            u, v, other_u, other_v, held, other_held, steps, decay, near, gv, gx, g_steps, g_decay,
            start, length, block, chunk, T, H, share,
            u_row, v_row, other_u_row, other_v_row, gv_row, gx_row,
            P1, P2, P, N, L, BLOCKS == 1 and not REVERSE, False, REVERSE, PRECISION,
        )  # fmt: skip
    else:
        _far(
            u, v, other_u, other_v, held, other_held, steps, decay, near, gv, gx, g_steps, g_decay,
            start, length, block, chunk, T, H, share,
            u_row, v_row, other_u_row, other_v_row, gv_row, gx_row,
            P1, P2, P, N, L, True, True, REVERSE, PRECISION,
        )  # fmt: skip


@triton.jit
def _far(
    u, v, other_u, other_v, held, other_held, steps, decay, near, gv, gx, g_steps, g_decay,
    chunk_start, chunk_length, block, chunk, T, H, share,
    u_row, v_row, other_u_row, other_v_row, gv_row, gx_row,
    P1: tl.constexpr, P2: tl.constexpr, P: tl.constexpr, N: tl.constexpr, L: tl.constexpr,
    ENDS: tl.constexpr, CARRY: tl.constexpr, REVERSE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One block; CARRY: its state is not at hand; ENDS: <state, its gradient> is computed here."""
    group, r = tl.program_id(1), tl.arange(0, L)
    start, length = chunk_start + block * L, tl.minimum(chunk_length - block * L, L)
    t = start + r
    valid = r < length
    n = group * N + tl.arange(0, N)
    vt = tl.load(v + t[:, None] * v_row + n[None, :], mask=valid[:, None], other=0.0)
    to = t + L if REVERSE else t - L
    to_valid = r < (chunk_length - L if REVERSE else L)
    vo = vt
    if CARRY:
        places = other_v + to[:, None] * other_v_row + n[None, :]
        vo = tl.load(places, mask=to_valid[:, None], other=0.0)
    width = tl.num_programs(1) * N
    g_vt = tl.load(near + t[:, None] * width + n[None, :], mask=valid[:, None], other=0.0)
    for head in range(share):
        h = group * share + head
        at = h.to(tl.int64) * T
        taken = tl.load(g_decay + at + t, mask=valid, other=0.0)
        near_step = tl.load(g_steps + at + t, mask=valid, other=0.0) if REVERSE else taken
        base = tl.load(decay + at + start - 1, mask=block > 0, other=0.0)
        total = tl.load(decay + at + start + length - 1)
        s, reach, brought, left = _reaches(
            steps + at, decay + at, t, valid, to, to_valid, base, total,
            chunk_start + chunk_length - 1, CARRY, REVERSE,
        )  # fmt: skip
        tile = (chunk.to(tl.int64) * H + h) * (N * P)
        met, ended, g_vt = _far_columns(
            u, other_u, held + tile, other_held + tile, gx, h, t, valid, to, to_valid, vt, vo,
            brought, left, reach, s, g_vt, u_row, other_u_row, gx_row,
            0, P1, P, N, ENDS, CARRY, REVERSE, PRECISION,
        )  # fmt: skip
        if P2 > 0:
            met2, ended2, g_vt = _far_columns(
                u, other_u, held + tile, other_held + tile, gx, h, t, valid, to, to_valid, vt, vo,
                brought, left, reach, s, g_vt, u_row, other_u_row, gx_row,
                P1, P2, P, N, ENDS, CARRY, REVERSE, PRECISION,
            )  # fmt: skip
            met += met2
            ended += ended2
        met *= reach
        at_end = tl.exp2(tl.minimum(total - base, 0.0)) * ended if ENDS else 0.0
        if REVERSE:
            tl.store(g_steps + at + t, near_step + met, mask=valid)
            met *= -s
            at_end -= tl.sum(met)
        taken += met
        taken += tl.where(r == length - 1, at_end, 0.0)
        tl.store(g_decay + at + t, taken, mask=valid)
    places = gv + t[:, None] * gv_row + n[None, :]
    tl.store(places, g_vt.to(gv.dtype.element_ty), mask=valid[:, None])


@triton.jit
def _reaches(
    steps, decay, t, valid, to, to_valid, base, total, chunk_last,
    CARRY: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """Of one head: time steps, and what decays leave.

    Of the state where it is known, for each token; of the other block's tokens, where the state is
    carried; of the state that they are added to.
    """
    d = tl.load(decay + t, mask=valid, other=0.0)
    s, brought, left = d, d, 1.0
    if REVERSE:
        s = tl.load(steps + t, mask=valid, other=0.0)
        reach = tl.where(valid, tl.exp2(tl.minimum(total - d, 0.0)), 0.0)
        if CARRY:
            do = tl.load(decay + to, mask=to_valid, other=0.0)
            brought = tl.where(to_valid, tl.exp2(tl.minimum(do - total, 0.0)), 0.0)
            left = tl.exp2(tl.minimum(tl.load(decay + chunk_last) - total, 0.0))
    else:
        reach = tl.exp2(tl.minimum(d - base, 0.0))
        if CARRY:
            do = tl.load(decay + to)
            brought = tl.exp2(tl.minimum(base - do, 0.0)) * tl.load(steps + to)
            left = tl.exp2(base)
    return s, reach, brought, left


@triton.jit
def _far_columns(
    u, other_u, held, other_held, gx, h, t, valid, to, to_valid, vt, vo,
    brought, left, reach, s, g_vt, u_row, other_u_row, gx_row,
    FIRST: tl.constexpr, WIDTH: tl.constexpr, P: tl.constexpr, N: tl.constexpr,
    ENDS: tl.constexpr, CARRY: tl.constexpr, REVERSE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Some columns of a head: u (v state) [L], <state, its gradient>, and v's gradient [L, N]."""
    p = FIRST + tl.arange(0, WIDTH)
    inside = (p < P)[None, :]
    column = (h * P + p)[None, :]
    place = p[:, None] * N + tl.arange(0, N)[None, :]
    inside_rows = (p < P)[:, None]
    WHOLE: tl.constexpr = P >= FIRST + WIDTH
    # All that is read is asked for before the first product is waited for.
    state = _tile(held + place, inside_rows, WHOLE)
    ok = valid[:, None] & inside
    us = tl.load(u + t[:, None] * u_row + column, mask=ok, other=0.0)
    to_x = gx + t[:, None] * gx_row + column
    given = tl.load(to_x, mask=ok, other=0.0) if REVERSE else us
    met = _tile(other_held + place, inside_rows, WHOLE) if ENDS else state
    ended = 0.0
    if CARRY:
        places = other_u + to[:, None] * other_u_row + column
        uo = tl.load(places, mask=to_valid[:, None] & inside, other=0.0)
        scaled = (uo.to(tl.float32) * brought[:, None]).to(vo.dtype)
        moved = state.to(tl.float32) * left
        moved = tl.dot(tl.trans(scaled), vo, moved, input_precision=PRECISION)
        if ENDS:
            ended = tl.sum(moved * met.to(tl.float32))
        state = moved.to(state.dtype)
    elif ENDS:
        ended = tl.sum(state.to(tl.float32) * met.to(tl.float32))
    us = us.to(tl.float32)
    far = tl.dot(vt.to(state.dtype), tl.trans(state), input_precision=PRECISION)
    if REVERSE:
        found = given.to(tl.float32) + far * (reach * s)[:, None]
        tl.store(to_x, found.to(gx.dtype.element_ty), mask=ok)
        scaled = (us * (reach * s)[:, None]).to(state.dtype)
    else:
        scaled = (us * reach[:, None]).to(state.dtype)
    g_vt = tl.dot(scaled, state, g_vt, input_precision=PRECISION)
    return tl.sum(far * us, axis=1), ended, g_vt


@triton.jit
def _tile(places, inside, WHOLE: tl.constexpr):
    """A tile of a state."""
    if WHOLE:  # noqa: SIM108 - compiled, not chosen
        tile = tl.load(places)
    else:
        tile = tl.load(places, mask=inside, other=0.0)
    return tile


@triton.jit
def step_gradient_kernel(
    dt,
    bias,
    A,
    steps,
    g_steps,  # fp32 [H, T]
    g_decay,  # fp32 [H, T]
    g_dt,  # out, [T, H], rows `g_row` apart
    g_rates,  # out, fp32 [2, K * BLOCKS, H]: each block's share of A's and the bias's gradient
    by_chunk, K, T, H, dt_row, g_row, low, high,
    HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr, LIMITS: tl.constexpr,
    BLOCKS: tl.constexpr, L: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    """From gradients of decays to those of the time steps as they were given."""
    chunk = tl.program_id(0) // BLOCKS
    block = tl.program_id(0) % BLOCKS
    length = tl.load(by_chunk + K + chunk) - block * L
    start = tl.load(by_chunk + chunk).to(tl.int64) + block * L
    row = tl.arange(0, L)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    valid = (row < length)[:, None] & (head < H)[None, :]
    t = start + row
    place = head.to(tl.int64)[None, :] * T + t[:, None]
    step = tl.load(steps + place, mask=valid, other=0.0)
    falling = tl.cumsum(tl.load(g_decay + place, mask=valid, other=0.0), axis=0, reverse=True)
    rate = tl.load(A + head, mask=head < H, other=0.0).to(tl.float32)
    given = tl.load(g_steps + place, mask=valid, other=0.0) + falling * rate[None, :]
    raw = tl.load(dt + t[:, None] * dt_row + head[None, :], mask=valid, other=0.0).to(tl.float32)
    if HAS_BIAS:
        raw += tl.load(bias + head, mask=head < H, other=0.0).to(tl.float32)[None, :]
    if LIMITS:
        free = softplus(raw) if SOFTPLUS else raw
        given = tl.where((free >= low) & (free <= high), given, 0.0)
    if SOFTPLUS:
        given *= 1.0 / (1.0 + tl.exp(-raw))
    given = tl.where(valid, given, 0.0)
    tl.store(g_dt + t[:, None] * g_row + head[None, :], given.to(g_dt.dtype.element_ty), mask=valid)
    share = tl.program_id(0) * H + head
    tl.store(g_rates + share, tl.sum(falling * step, axis=0), mask=head < H)
    blocks = tl.num_programs(0)
    tl.store(g_rates + blocks * H + share, tl.sum(given, axis=0), mask=head < H)
