"""Kernels of the SSD scan's forward: time steps and decays, states before chunks, outputs.

Mamba-2 (arXiv 2405.21060), section 6. Spans are cut into chunks of Q tokens by themselves; a chunk
has Q / L blocks of L tokens, one or two. Decays are kept as base-2 logarithms that fall from the
chunk's first token; every exponent is a difference that is at most 0, and is clamped to it.
Legend: T tokens, S spans, K chunks, H heads, P head width, G groups, N state size.
"""

# pyright: reportAttributeAccessIssue=false, reportMissingImports=false, reportIndexIssue=false
# pyright: reportPossiblyUnboundVariable=false, reportOperatorIssue=false

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit(do_not_specialize=["K"])
def decay_kernel(
    dt,  # [T, H], any float; rows `dt_row` apart
    bias,  # [H], where HAS_BIAS
    A,  # fp32 [H]
    steps,  # out, fp32 [H, T]: time steps after bias, softplus and limits
    decay,  # out, fp32 [H, T]: sums of steps * A * log2(e) from the chunk's first token on
    by_chunk, K, T, H, dt_row, low, high,
    HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr, LIMITS: tl.constexpr,
    Q: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(0)
    start = tl.load(by_chunk + chunk).to(tl.int64)
    length = tl.load(by_chunk + K + chunk)
    row = tl.arange(0, Q)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    valid = (row < length)[:, None] & (head < H)[None, :]
    t = start + row
    raw = tl.load(dt + t[:, None] * dt_row + head[None, :], mask=valid, other=0.0).to(tl.float32)
    if HAS_BIAS:
        raw += tl.load(bias + head, mask=head < H, other=0.0).to(tl.float32)[None, :]
    step = softplus(raw) if SOFTPLUS else raw
    if LIMITS:
        step = tl.minimum(tl.maximum(step, low), high)
    step = tl.where(valid, step, 0.0)
    rate = tl.load(A + head, mask=head < H, other=0.0).to(tl.float32) * LOG2E
    total = tl.cumsum(step * rate[None, :], axis=0)
    place = head.to(tl.int64)[None, :] * T + t[:, None]
    tl.store(steps + place, step, mask=valid)
    tl.store(decay + place, total, mask=valid)


@triton.jit
def softplus(x):
    """log(1 + exp(x)), to fp32's precision also where it is small."""
    u = tl.exp(x)
    w = 1.0 + u
    small = tl.where(w == 1.0, u, tl.log(w) * (u / tl.where(w == 1.0, 1.0, w - 1.0)))
    return tl.where(x > 20.0, x, small)


@triton.jit(do_not_specialize=["S"])
def state_kernel(
    u,  # [T, H * P], rows `u_row` apart: x, or y's gradient where REVERSE
    v,  # [T, G * N], rows `v_row` apart: B, or C where REVERSE
    steps, decay,
    first,  # fp32 [S, H, P, N]: where the recurrence starts, where HAS_FIRST
    last,  # out, fp32 [S, H, P, N]: where it ends, where HAS_LAST
    out,  # out, [K, H, P, N]: what it holds before (REVERSE: after) each chunk
    by_span, S, T, H, group_width, u_row, v_row,
    P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, STEP: tl.constexpr,
    COLUMNS: tl.constexpr, REST: tl.constexpr, TILE: tl.constexpr, REVERSE: tl.constexpr,
    HAS_FIRST: tl.constexpr, HAS_LAST: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The recurrence of states over chunks (REVERSE: of their gradients), for some of [H * P].

    Columns come in tiles of one head each; or they are one head's, COLUMNS and REST.
    """
    column = tl.program_id(0) * (COLUMNS + REST)
    span = tl.load(by_span + tl.program_id(1)).to(tl.int64)
    start = tl.load(by_span + S + tl.program_id(1)).to(tl.int64)
    length = tl.load(by_span + 2 * S + tl.program_id(1))
    chunk = tl.load(by_span + 3 * S + tl.program_id(1)).to(tl.int64)
    TILES: tl.constexpr = COLUMNS // TILE
    PARTS: tl.constexpr = Q // STEP
    c, n, r = column + tl.arange(0, COLUMNS), tl.arange(0, N), tl.arange(0, STEP)
    of_head = ((column + tl.arange(0, TILES) * TILE) // P).to(tl.int64) * T
    v += (column // group_width) * N
    place = c[:, None] * N + n[None, :]
    state = _first(first, span * H * P * N + place, COLUMNS, N, HAS_FIRST)
    rest = state
    if REST:
        rest_c = column + COLUMNS + tl.arange(0, REST)
        rest_place = rest_c[:, None] * N + n[None, :]
        rest = _first(first, span * H * P * N + rest_place, REST, N, HAS_FIRST)
    rounds = tl.cdiv(length, STEP)
    i = rounds - 1 if REVERSE else 0
    scale, left = _step(steps, decay, of_head, start, length, i, STEP, PARTS, REVERSE)
    for done in range(rounds):
        i = rounds - 1 - done if REVERSE else done
        t, valid = start + i * STEP + r, r < length - i * STEP
        vs = tl.load(v + t[:, None] * v_row + n[None, :], mask=valid[:, None], other=0.0)
        us = tl.load(u + t[:, None] * u_row + c[None, :], mask=valid[:, None], other=0.0)
        if PARTS == 1 or (i % PARTS == PARTS - 1 or done == 0 if REVERSE else i % PARTS == 0):
            to = out + (chunk + i // PARTS) * H * (P * N)
            tl.store(to + place, state.to(out.dtype.element_ty))
            if REST:
                tl.store(to + rest_place, rest.to(out.dtype.element_ty))
        if REST:
            more = tl.load(u + t[:, None] * u_row + rest_c[None, :], mask=valid[:, None], other=0.0)
            more, rest = _scaled(more, rest, scale, left, STEP, 1, REST, N)
            rest = tl.dot(tl.trans(more.to(vs.dtype)), vs, rest, input_precision=PRECISION)
        scaled, state = _scaled(us, state, scale, left, STEP, TILES, TILE, N)
        # The next step's scales are asked for before this one's product is waited for.
        i = i - 1 if REVERSE else i + 1
        scale, left = _step(steps, decay, of_head, start, length, i, STEP, PARTS, REVERSE)
        state = tl.dot(tl.trans(scaled.to(vs.dtype)), vs, state, input_precision=PRECISION)
    if HAS_LAST:
        tl.store(last + span * H * P * N + place, state)
        if REST:
            tl.store(last + span * H * P * N + rest_place, rest)


@triton.jit
def _first(first, places, COLUMNS: tl.constexpr, N: tl.constexpr, HAS_FIRST: tl.constexpr):
    """The states that a recurrence starts from, fp32 [COLUMNS, N]."""
    if HAS_FIRST:
        state = tl.load(first + places).to(tl.float32)
    else:
        state = tl.zeros((COLUMNS, N), tl.float32)
    return state


@triton.jit
def _scaled(
    us, state, scale, left,
    STEP: tl.constexpr, TILES: tl.constexpr, TILE: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Tokens us [STEP, columns] times `scale`, states [columns, N] times `left`, tile by tile."""
    us = us.to(tl.float32)
    if TILES == 1:
        us *= scale
        state *= left[:, None]
    else:
        us = (us.reshape(STEP, TILES, TILE) * scale[:, :, None]).reshape(STEP, TILES * TILE)
        state = (state.reshape(TILES, TILE, N) * left[:, None, None]).reshape(TILES * TILE, N)
    return us, state


@triton.jit
def _step(
    steps, decay, of_head, start, length, i,
    STEP: tl.constexpr, PARTS: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """What scales the tokens of step `i` of a span [STEP, TILES], and the state before [TILES].

    Steps outside the span are asked for as well, and read nothing.
    """
    r = tl.arange(0, STEP)
    at = length * 0 + i * STEP
    inside = (of_head >= 0) & (at >= 0) & (at < length)
    valid = (r < length - i * STEP)[:, None] & inside[None, :]
    place = of_head[None, :] + (start + i * STEP + r)[:, None]
    end = start + tl.minimum(length, (i + 1) * STEP) - 1
    total = tl.load(decay + of_head + end, mask=inside, other=0.0)
    before = decay + of_head + start + i * STEP - 1
    before = tl.load(before, mask=inside & (at % (PARTS * STEP) > 0), other=0.0)
    d = tl.load(decay + place, mask=valid, other=0.0)
    if REVERSE:
        scale = tl.exp2(tl.minimum(d - before[None, :], 0.0))
    else:
        scale = tl.exp2(tl.minimum(total[None, :] - d, 0.0))
        scale *= tl.load(steps + place, mask=valid, other=0.0)
    return scale, tl.exp2(tl.minimum(total - before, 0.0))


@triton.jit(do_not_specialize=["K"])
def output_kernel(
    x,  # [T, H, P], rows `x_row` apart
    B, C,  # [T, G, N], rows `b_row` and `c_row` apart
    D,  # fp32 [H], where HAS_D
    steps, decay,
    states,  # [K, H, P, N]: before each chunk
    y,  # out, [T, H, P], rows `y_row` apart
    by_chunk, K, T, H,
    share,  # heads of a group
    x_row, b_row, c_row, y_row,
    P1: tl.constexpr, P2: tl.constexpr, P: tl.constexpr, N: tl.constexpr, BLOCKS: tl.constexpr,
    L: tl.constexpr, HEADS: tl.constexpr, HAS_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Outputs of a block of L tokens for HEADS heads of one group, which share C B^T.

    A head's P columns are in tiles of P1 and P2, of which the last may be masked in part.
    """
    chunk = tl.program_id(0) // BLOCKS
    block = tl.program_id(0) % BLOCKS
    length = tl.load(by_chunk + K + chunk) - block * L
    if length <= 0:
        return
    start = tl.load(by_chunk + chunk).to(tl.int64) + block * L
    first_head = tl.program_id(1) * HEADS
    r = tl.arange(0, L)
    n = first_head // share * N + tl.arange(0, N)
    t = start + r
    valid = r < length
    ct = tl.load(C + t[:, None] * c_row + n[None, :], mask=valid[:, None], other=0.0)
    bt = tl.load(B + t[:, None] * b_row + n[None, :], mask=valid[:, None], other=0.0)
    near = tl.dot(ct, tl.trans(bt), input_precision=PRECISION)
    near = tl.where(r[:, None] >= r[None, :], near, 0.0)
    earlier = (block > 0) & (r < L)
    far = near
    if BLOCKS == 2:
        places = B + (t - L)[:, None] * b_row + n[None, :]
        bo = tl.load(places, mask=earlier[:, None], other=0.0)
        far = tl.dot(ct, tl.trans(bo), input_precision=PRECISION)
    for i in range(HEADS):
        h = first_head + i
        skip = tl.load(D + h).to(tl.float32) if HAS_D else 0.0
        m, mo, from_start, from_block = _taken(
            steps + h.to(tl.int64) * T + t, decay + h.to(tl.int64) * T + t,
            decay + h.to(tl.int64) * T + start - 1, near, far, valid, earlier, block > 0, ct.dtype,
            BLOCKS, L,
        )  # fmt: skip
        held = states + (chunk.to(tl.int64) * H + h) * (N * P)
        xh = x + t[:, None] * x_row + h * P
        xb = x + (t - L)[:, None] * x_row + h * P
        yh = y + t[:, None] * y_row + h * P
        _outputs(
            ct, held, xh, yh, mo, m, from_start, from_block, skip, valid, earlier, xb,
            0, P1, P, N, BLOCKS, PRECISION,
        )  # fmt: skip
        if P2 > 0:
            _outputs(
                ct, held, xh, yh, mo, m, from_start, from_block, skip, valid, earlier, xb,
                P1, P2, P, N, BLOCKS, PRECISION,
            )  # fmt: skip


@triton.jit
def _taken(
    steps, decay, before, near, far, valid, earlier, second, DTYPE: tl.constexpr,
    BLOCKS: tl.constexpr, L: tl.constexpr,
):  # fmt: skip
    """What a head's tokens take from their own block and from the earlier one [L, L].

    And what is left of the state before the chunk: where the block begins, and from there on.
    """
    d = tl.load(decay, mask=valid, other=0.0)
    s = tl.load(steps, mask=valid, other=0.0)
    m = near * (tl.exp2(tl.minimum(d[:, None] - d[None, :], 0.0)) * s[None, :])
    m = m.to(DTYPE)
    mo, from_start, from_block = m, 1.0, tl.exp2(d)
    if BLOCKS == 2:
        base = tl.load(before, mask=second, other=0.0)
        do = tl.load(decay - L, mask=earlier, other=0.0)
        so = tl.load(steps - L, mask=earlier, other=0.0)
        mo = (far * (tl.exp2(tl.minimum(base - do, 0.0)) * so)[None, :]).to(DTYPE)
        from_start = tl.exp2(base)
        from_block = tl.exp2(tl.minimum(d - base, 0.0))
    return m, mo, from_start, from_block


@triton.jit
def _outputs(
    ct, held, xh, yh, mo, m, from_start, from_block, skip, valid, earlier, xb,
    FIRST: tl.constexpr, WIDTH: tl.constexpr, P: tl.constexpr, N: tl.constexpr,
    BLOCKS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Some columns of a head."""
    p = FIRST + tl.arange(0, WIDTH)
    WHOLE: tl.constexpr = P >= FIRST + WIDTH
    ok = valid[:, None] if WHOLE else valid[:, None] & (p < P)[None, :]
    places = held + p[:, None] * N + tl.arange(0, N)[None, :]
    if WHOLE:  # noqa: SIM108 - compiled, not chosen
        state = tl.load(places)
    else:
        state = tl.load(places, mask=(p < P)[:, None], other=0.0)
    acc = tl.dot(ct.to(state.dtype), tl.trans(state), input_precision=PRECISION)
    if BLOCKS == 2:
        earlier_ok = earlier[:, None] if WHOLE else earlier[:, None] & (p < P)[None, :]
        xo = tl.load(xb + p[None, :], mask=earlier_ok, other=0.0)
        acc = tl.dot(mo, xo, acc * from_start, input_precision=PRECISION)
    xs = tl.load(xh + p[None, :], mask=ok, other=0.0)
    acc = tl.dot(m, xs, acc * from_block[:, None], input_precision=PRECISION)
    acc += skip * xs.to(tl.float32)
    tl.store(yh + p[None, :], acc.to(yh.dtype.element_ty), mask=ok)
