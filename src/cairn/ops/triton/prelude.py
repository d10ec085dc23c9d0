"""Norms of query and key heads, rotary positions and new places in memory: one launch for all.

A program takes a few heads of one token, in two halves of a head, since rotary positions make a
pair of a channel and the one half a head behind it.
"""

# pyright: reportAttributeAccessIssue=false, reportMissingImports=false, reportIndexIssue=false
# pyright: reportPossiblyUnboundVariable=false, reportOperatorIssue=false

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from cairn.ops.triton.early import early, in_turn

HEADS_AT_ONCE = 8  # of a program


def prelude(
    new: tuple[Tensor, Tensor, Tensor],
    pools: tuple[Tensor, Tensor],
    places: Tensor,
    norms: tuple[Tensor, Tensor, float] | None,
    turns: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor]:
    """`cairn.ops.prelude.prelude`, where a head is turned whole or not at all."""
    q, k, v = [x if x.stride(-1) == 1 else x.contiguous() for x in new]
    (T, heads, width), shared = q.shape, k.shape[1]
    q_out = torch.empty(T, heads, width, dtype=q.dtype, device=q.device)
    k_out = torch.empty(T, shared, width, dtype=k.dtype, device=k.device)
    if not T:
        return q_out, k_out
    q_norm, k_norm, eps = (None, None, 0.0) if norms is None else norms
    cos, sin = (None, None) if turns is None else (turns[0].contiguous(), turns[1].contiguous())
    parts, constants = _launch(heads, shared, width)
    _prelude[T, parts](
        q, k, v, q_norm, k_norm, cos, sin, places, q_out, k_out, *pools, eps,
        *q.stride()[:2], *k.stride()[:2], *v.stride()[:2], **constants, **early(q),
    )  # fmt: skip
    return q_out, k_out


@cache
def _launch(heads: int, shared: int, width: int) -> tuple[int, dict[str, int]]:
    """Programs of a token, and constants."""
    parts = triton.cdiv(heads, HEADS_AT_ONCE) + 2 * triton.cdiv(shared, HEADS_AT_ONCE)
    half = width // 2
    sizes = {"HEADS": heads, "SHARED": shared, "HALF": half, "BLOCK_H": HEADS_AT_ONCE}
    return parts, sizes | {"BLOCK_W": triton.next_power_of_2(half), "num_warps": 2}


@triton.jit
def _prelude(
    q, k, v, q_norm, k_norm, cos, sin, places, q_out, k_out, key_pool, value_pool, eps,
    q_row, q_head, k_row, k_head, v_row, v_head,
    HEADS: tl.constexpr, SHARED: tl.constexpr, HALF: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Some query heads of a token, or some key heads, or the values of some."""
    if EARLY:
        in_turn()
    OF_Q: tl.constexpr = (HEADS + BLOCK_H - 1) // BLOCK_H
    OF_K: tl.constexpr = (SHARED + BLOCK_H - 1) // BLOCK_H
    t, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    h, w = tl.arange(0, BLOCK_H), tl.arange(0, BLOCK_W)
    if part < OF_Q:
        h += part * BLOCK_H
        inside = (h < HEADS)[:, None] & (w < HALF)[None, :]
        row = q + t * q_row + h[:, None] * q_head + w[None, :]
        a, b = _turned(row, inside, q_norm, cos, sin, t, w, eps, HALF)
        _put(q_out + t * HEADS * 2 * HALF, h, w, a, b, inside, HALF)
    elif part < OF_Q + OF_K:
        h += (part - OF_Q) * BLOCK_H
        place = tl.load(places + t).to(tl.int64)
        inside = (h < SHARED)[:, None] & (w < HALF)[None, :]
        row = k + t * k_row + h[:, None] * k_head + w[None, :]
        a, b = _turned(row, inside, k_norm, cos, sin, t, w, eps, HALF)
        _put(k_out + t * SHARED * 2 * HALF, h, w, a, b, inside, HALF)
        _put(key_pool + place * SHARED * 2 * HALF, h, w, a, b, inside & (place >= 0), HALF)
    else:
        h += (part - OF_Q - OF_K) * BLOCK_H
        place = tl.load(places + t).to(tl.int64)
        inside = (h < SHARED)[:, None] & (w < HALF)[None, :] & (place >= 0)
        row = v + t * v_row + h[:, None] * v_head + w[None, :]
        a = tl.load(row, mask=inside, other=0)
        b = tl.load(row + HALF, mask=inside, other=0)
        _put(value_pool + place * SHARED * 2 * HALF, h, w, a, b, inside, HALF)


@triton.jit
def _turned(row, inside, norm, cos, sin, t, w, eps, HALF: tl.constexpr):
    """Both halves of some heads, normed and turned, rounded to their dtype after each."""
    a = tl.load(row, mask=inside, other=0)
    b = tl.load(row + HALF, mask=inside, other=0)
    w_in = w < HALF
    dtype: tl.constexpr = a.dtype
    if norm is not None:  # all that is read is asked for before any of it is waited for
        of_a = tl.load(norm + w, mask=w_in, other=0).to(tl.float32)[None, :]
        of_b = tl.load(norm + HALF + w, mask=w_in, other=0).to(tl.float32)[None, :]
    if cos is not None:
        c = tl.load(cos + t * HALF + w, mask=w_in, other=1)[None, :]
        s = tl.load(sin + t * HALF + w, mask=w_in, other=0)[None, :]
    a, b = a.to(tl.float32), b.to(tl.float32)
    if norm is not None:
        scale = tl.rsqrt(tl.sum(a * a + b * b, 1) / (2 * HALF) + eps)[:, None]
        a, b = a * (scale * of_a), b * (scale * of_b)
        a, b = a.to(dtype).to(tl.float32), b.to(dtype).to(tl.float32)
    if cos is not None:
        a, b = a * c + b * -s, b * c + a * s
    return a.to(dtype), b.to(dtype)


@triton.jit
def _put(to, h, w, a, b, inside, HALF: tl.constexpr):
    at = to + h[:, None] * 2 * HALF + w[None, :]
    tl.store(at, a.to(to.dtype.element_ty), mask=inside)
    tl.store(at + HALF, b.to(to.dtype.element_ty), mask=inside)
