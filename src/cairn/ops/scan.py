"""State-space duality scan in chunks: quadratic inside a chunk, a recurrence over chunks.

Mamba-2 (arXiv 2405.21060), section 6. One function for training, prefill and decode: carried
states go in, last states come out, and chunks shrink to the longest span.
Legend: T tokens, S spans, K chunks, Q chunk size, G groups, R heads a group, H = G * R,
P head width, N state size.
"""

from typing import Any

import torch
from torch import Tensor

from cairn.ops import paths
from cairn.ops.blocks import blocks
from cairn.ops.gradient import once, run
from cairn.ops.native import scan as native
from cairn.ops.native.scan import scan_unfit
from cairn.ops.ragged import Chunks
from cairn.ops.triton.tables import scan_problem


def ssd_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    chunks: Chunks,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The scan y_t = S_t C_t + D x_t, S_t = exp(dt_t A) S_(t-1) + dt_t x_t B_t^T, over spans.

    x [T, H, P]; dt [T, H] >= 0; A [H] < 0; B, C [T, G, N]; D [H]; state [S, H, P, N] (zeros where
    None), all fp32 or all fp64; `chunks` tells where spans begin.
    Returns y [T, H, P] and the last states [S, H, P, N]; differentiable once in all.
    """
    problem = paths.for_kernel(x, scan_problem(x.dtype, x.shape[2], B.shape[2]))
    path = paths.choose(
        "ssd_scan", x.device, native=scan_unfit(x, dt, A, B, C, D, state), triton=problem
    )
    if path == "native":
        return run(_NativeScan, x, dt, A, B, C, D, state, chunks)
    if path == "triton":
        from cairn.ops.triton import scan

        return scan.ssd_scan(x, dt, A, B, C, D, chunks.tables, state)
    with torch.autocast(x.device.type, enabled=False):  # decays do not bear 8 bits of mantissa
        x, B, C = (_cut(t, chunks) for t in (x, B, C))
        y, last = run(_Scan, x, _steps(dt, chunks), A, B, C, D, state, chunks)
        return chunks.places.unpad(y.flatten(0, 1)), last


def _cut(x: Tensor, chunks: Chunks) -> Tensor:
    """[T, ...] in chunks [K, Q, ...]."""
    return chunks.places.pad(x).unflatten(0, (chunks.chunks, chunks.size))


def _steps(dt: Tensor, chunks: Chunks) -> Tensor:
    """Time steps [T, H] in chunks [K, Q, H], 0 in padding: there the state stands still."""
    laid = _cut(dt, chunks)
    pads = chunks.places.pads
    return laid if pads is None else laid.flatten(0, 1).index_fill(0, pads, 0).view_as(laid)


class _NativeScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor,
        state: Tensor | None,
        chunks: Chunks,
    ) -> tuple[Tensor, Tensor]:
        y, last, states = native.forward(x, dt, A, B, C, D, state, chunks)
        ctx.chunks = chunks
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, dt, A, B, C, D, y, states)
        return y, last

    @staticmethod
    @once
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        x, dt, A, B, C, D, y, states = ctx.saved_tensors
        gy, g_last = grads
        wanted = ctx.needs_input_grad[6]
        found = native.backward(x, dt, A, B, C, D, y, states, gy, g_last, ctx.chunks, wanted)
        return *found, None


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor,
        state: Tensor | None,
        chunks: Chunks,
    ) -> tuple[Tensor, Tensor]:
        K, Q, H, P = x.shape
        G, N = B.shape[2:]
        decay = torch.cumsum(dt * A, dim=1)  # [K, Q, H], falls from 0
        y, added = x.new_empty(x.shape), x.new_empty(K, G, H // G * P, N)
        parts = _blocks(x)
        for k in parts:
            _near(x[k], dt[k], decay[k], B[k], C[k], D, y[k], added[k])
        before, last = _recur(added.view(K, H, P, N), torch.exp(decay[:, -1]), chunks, state)
        for k in parts:
            states = before[k].view(-1, G, H // G * P, N)
            far = _grouped(C[k].transpose(1, 2), states.transpose(2, 3), tokens_first=True)
            y[k] += far.view(-1, Q, H, P).mul_(torch.exp(decay[k])[..., None])
        ctx.chunks = chunks
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, dt, A, B, C, D, decay, before, last, y)
        return y, last

    @staticmethod
    @once
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        x, dt, A, B, C, D, decay, before, last, y = ctx.saved_tensors
        gy, g_last = grads
        gy = torch.zeros_like(y) if gy is None else gy
        R = x.shape[2] // B.shape[2]
        gx, gB, gC = (t.new_empty(t.shape) for t in (x, B, C))
        g_before, g_dt, g_decay = (torch.empty_like(t) for t in (before, dt, decay))
        parts = _blocks(x)
        for k in parts:  # carried states: far = exp(decay) C before
            from_start = _by_group(gy[k] * torch.exp(decay[k])[..., None], R)
            states, c = before[k].unflatten(1, (-1, R)).flatten(2, 3), C[k].transpose(1, 2)
            gC[k] = _grouped(from_start, states).transpose(1, 2)
            g_before[k] = _grouped(from_start.transpose(2, 3), c).view_as(before[k])
        g_added, at_end, g_state = _recur_backward(
            g_before, torch.exp(decay[:, -1]), before, last, g_last, ctx.chunks
        )
        gD = torch.zeros_like(D)
        for k in parts:
            found = _near_backward(x[k], dt[k], decay[k], B[k], C[k], D, y[k], gy[k], g_added[k])
            gx[k], g_dt[k], g_decay[k], gB[k], more_C, more_D = found
            gC[k] += more_C
            gD += more_D
        g_decay[:, -1] += at_end
        g_step = g_decay.flip(1).cumsum(1).flip(1)  # of dt * A
        gA = (g_step * dt).sum((0, 1))
        g_dt += g_step * A
        return gx, g_dt, gA, gB, gC, gD, g_state if ctx.needs_input_grad[6] else None, None


def _near(
    x: Tensor, dt: Tensor, decay: Tensor, B: Tensor, C: Tensor, D: Tensor, y: Tensor, added: Tensor
) -> None:
    """Fill y with what a chunk's tokens give each other, `added` with what they give the state."""
    xdt = x * dt[..., None]
    near = _kernel(_decay_within(decay), B, C) @ _heads_first(xdt)
    torch.add(near.transpose(1, 2), x * D[:, None], out=y)
    xdt *= _to_end(decay)
    ended = _by_group(xdt, added.shape[2] // x.shape[3]).transpose(2, 3)
    added.copy_(_grouped(ended, B.transpose(1, 2)))


def _near_backward(
    x: Tensor,
    dt: Tensor,
    decay: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    y: Tensor,
    gy: Tensor,
    g_added: Tensor,
) -> tuple[Tensor, ...]:
    """Gradients of x, dt (but through decay), decay, B, C (but through carried states) and D."""
    R = x.shape[2] // B.shape[2]
    b, c = B.transpose(1, 2), C.transpose(1, 2)
    within = _decay_within(decay)
    xdt, gy_heads = x * dt[..., None], _heads_first(gy)
    # Inside the chunk: near = kernel @ xdt.
    g_xdt = _kernel(within, B, C).transpose(2, 3) @ gy_heads
    g_kernel = (gy_heads @ _heads_first(xdt).transpose(2, 3)).mul_(within)
    g_scores = g_kernel.unflatten(1, (-1, R)).sum(2).tril_()  # [K, G, Q, Q]
    gC = _grouped(g_scores, b).transpose(1, 2)
    # Into carried states: added = (to_end xdt)^T B.
    to_end = _to_end(decay)
    states = g_added.unflatten(1, (-1, R)).flatten(2, 3)  # [K, G, R * P, N]
    g_ended = _grouped(b, states.transpose(2, 3), tokens_first=True).view(x.shape)
    g_xdt = g_ended.mul_(to_end).add_(g_xdt.transpose(1, 2))
    given = _grouped(g_scores.transpose(2, 3), c) + _grouped(_by_group(xdt.mul_(to_end), R), states)
    # A pair (i, j) has weight w_ij = g_kernel_ij kernel_ij with decay_i - decay_j inside: summed
    # over j it is gy_i (y_i - D x_i), over i it is xdt_j g_xdt_j; no [Q, Q] is needed.
    g_skip = torch.linalg.vecdot(gy, x)
    g_dt = torch.linalg.vecdot(x, g_xdt)
    g_decay = torch.linalg.vecdot(gy, y) - g_skip * D - dt * g_dt
    gx = g_xdt.mul_(dt[..., None]).add_(gy * D[:, None])
    return gx, g_dt, g_decay, given.transpose(1, 2), gC, g_skip.sum((0, 1))


def _blocks(x: Tensor) -> list[slice]:
    """Chunks of x [K, Q, H, P] whose widest temporaries fit into cache together."""
    K, Q, H, P = x.shape
    return blocks(K, Q * H * max(Q, P) * x.itemsize, x.device)


def _decay_within(decay: Tensor) -> Tensor:
    """exp(decay_i - decay_j) [K, H, Q, Q] for i >= j, and 1 above; decay [K, Q, H].

    Clamped before exp: above the diagonal the difference is positive and could overflow, and
    rounding can make it positive below.
    """
    heads = decay.transpose(1, 2).contiguous()
    return (heads[..., :, None] - heads[..., None, :]).clamp_(max=0).exp_()


def _to_end(decay: Tensor) -> Tensor:
    """What is left of each token's input at the end of its chunk, [K, Q, H, 1]."""
    return torch.exp((decay[:, -1:] - decay).clamp_(max=0))[..., None]


def _kernel(within: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """What token j gives to token i of its chunk: C_i B_j decayed, [K, H, Q, Q]."""
    scores = _grouped(C.transpose(1, 2), B.permute(0, 2, 3, 1)).tril_()
    R = within.shape[1] // scores.shape[1]
    return (within.unflatten(1, (-1, R)) * scores[:, :, None]).flatten(1, 2)


def _heads_first(x: Tensor) -> Tensor:
    """[K, Q, H, P] to [K, H, Q, P], contiguous."""
    return x.transpose(1, 2).contiguous()


def _by_group(x: Tensor, R: int) -> Tensor:
    """[K, Q, H, P] as [K, G, Q, R * P], without a copy."""
    return x.unflatten(2, (-1, R)).flatten(3).transpose(1, 2)


def _grouped(a: Tensor, b: Tensor, tokens_first: bool = False) -> Tensor:
    """a [K, G, m, k] @ b [K, G, k, n], as [K, G, m, n], or [K, m, G, n] with `tokens_first`.

    On the CPU large products go group by group, so that strided views are not copied; elsewhere,
    and for small ones, the calls would cost more than the copies.
    """
    if a.device.type != "cpu" or a.numel() + b.numel() < 2**15:
        product = a @ b
        return product.transpose(1, 2).contiguous() if tokens_first else product
    parts = [a[:, g] @ b[:, g] for g in range(a.shape[1])]
    return torch.stack(parts, 2 if tokens_first else 1)


def _recur(
    added: Tensor, decay: Tensor, chunks: Chunks, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """States before each chunk [K, H, P, N] and after the last one of each span [S, H, P, N].

    added [K, H, P, N] is what each chunk adds; decay [K, H] is what it leaves of the old state.
    """
    if state is None:
        carry = added.new_zeros(chunks.spans, *added.shape[1:])
    else:
        carry = state.clone() if chunks.order is None else state.index_select(0, chunks.order)
    before, at = torch.empty_like(added), 0
    for active in chunks.steps:
        part, moving = slice(at, at + active), carry[:active]
        before[part] = moving
        moving.mul_(decay[part, :, None, None]).add_(added[part])
        at += active
    return before, carry if chunks.rank is None else carry.index_select(0, chunks.rank)


def _recur_backward(
    g_before: Tensor,
    decay: Tensor,
    before: Tensor,
    last: Tensor,
    g_last: Tensor | None,
    chunks: Chunks,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `added` [K, H, P, N], of the log of `decay` [K, H], of the state [S, H, P, N].

    The log's includes what `added` passes to the chunk's last decay: <g_next, state after>.
    """
    if g_last is None:
        carry = g_before.new_zeros(last.shape)
    else:
        carry = g_last.clone() if chunks.order is None else g_last.index_select(0, chunks.order)
    after = last if chunks.order is None else last.index_select(0, chunks.order)
    g_added, at_end = torch.empty_like(g_before), torch.zeros_like(decay)
    at, following = sum(chunks.steps), 0
    for active in reversed(chunks.steps):
        part, moving, at = slice(at - active, at), carry[:active], at - active
        g_added[part] = moving
        if following:
            later = before[at + active : at + active + following]
            at_end[at : at + following] = (carry[:following] * later).sum((2, 3))
        if g_last is not None and following < active:
            ended = (carry[following:active] * after[following:active]).sum((2, 3))
            at_end[at + following : at + active] = ended
        moving.mul_(decay[part, :, None, None]).add_(g_before[part])
        following = active
    return g_added, at_end, carry if chunks.rank is None else carry.index_select(0, chunks.rank)
