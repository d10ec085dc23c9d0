"""Compiled attention of many queries, on a CPU's matrix units.

Legend: T tokens, S spans, H query heads, KV key heads, P head width, n keys.
"""

import ctypes
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from cairn.ops.native.library import ELSEWHERE, Prompt, native, raise_if_failed, unfit
from cairn.ops.order import order_is_fixed

if TYPE_CHECKING:
    from cairn.ops.attention import AttentionPlan, ReadMemory

    Attend = Callable[[Tensor, Tensor, Tensor, AttentionPlan, ReadMemory | None], Tensor]

DEEP = 32  # channels that a tile holds
WIDEST = 256  # channels that a task has room for
LEAST_ALONE = 16  # queries of a span, where each query head has a key head of its own


class Span(NamedTuple):
    """Queries of consecutive tokens, which see keys up to their own: `Asking` of prompt.c."""

    first: int
    """The first query's token."""
    queries: int
    place: int
    """Of key 0 in the keys' memory; before its beginning where a window hides key 0 from all."""
    past: int
    """Keys before the first query's own."""


def least_queries(q: Tensor, k: Tensor) -> int:
    """Queries of a span after a past from which on they attend here; fewer are left to torch.

    Its product reads the keys of one query as they lie, where they are packed here first. For more
    it packs them too, and once for each of the query heads that share them.
    """
    return 2 if q.shape[1] > k.shape[1] else LEAST_ALONE


def unfit_for(q: Tensor, k: Tensor, v: Tensor, plan: "AttentionPlan") -> str:
    """Why `attend` cannot serve, or should not; empty where it can."""
    if q.is_cuda:
        return ELSEWHERE
    if order_is_fixed():
        return "an order is fixed"
    if plan.laid is not None or len(k) != len(q):
        return "lengths that are on a device, or keys of other ranks"
    few, _ = plan.few(least_queries(q, k))
    if few is not None and few.lengths == plan.lengths:
        return f"under {least_queries(q, k)} queries in every span: torch's attention packs no keys"
    if any(x.dtype != torch.bfloat16 for x in (q, k, v)):
        return "not in bf16"
    if q.shape[-1] % DEEP or q.shape[-1] > WIDEST:
        return f"heads no multiple of {DEEP} wide, or wider than {WIDEST}"
    return unfit(q, k, v) or ("" if native().tiles else "no matrix units")


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plan: "AttentionPlan",
    read: "ReadMemory | None",
    others: "Attend",
) -> Tensor:
    """`ops.attention`; too few queries after a past are left to `others`, each span by itself.

    Those without a past take one call; of others, each is given what it reads.
    """
    few, tokens = plan.few(least_queries(q, k))
    y = torch.empty(q.shape, dtype=q.dtype)
    if few is not None:
        y[tokens] = others(q[tokens], k[tokens], v[tokens], few, read)
    lengths, past = plan.lengths, plan.past or (0,) * len(plan.lengths)
    firsts = [0, *accumulate(lengths)]
    left = [s for s, n in enumerate(lengths) if n and (few is None or not few.lengths[s])]
    fresh = [Span(firsts[s], lengths[s], firsts[s], 0) for s in left if not past[s]]
    prompt(q, k, v, fresh, plan.window, y)
    for s in left:
        if past[s]:
            assert read is not None
            start = 0 if plan.window is None else max(0, past[s] - plan.window + 1)
            keys, values = (x[0].transpose(0, 1) for x in read((s,), start, plan.keys[s]))
            prompt(q, keys, values, [Span(firsts[s], lengths[s], -start, past[s])], plan.window, y)
    return y


def prompt(
    q: Tensor, k: Tensor, v: Tensor, spans: Sequence[Span], window: int | None, y: Tensor
) -> None:
    """Causal softmax attention, scale 1/sqrt(P), of q bf16 [T, H, P] to y, the same; in place.

    Spans see keys and values k, v bf16 [n, KV, P], `window` of them a query at most, its own too.
    y is in one piece, and tokens of no span stay as they are in it. The bits of a token's result
    depend on itself and what it sees alone, be that past or of this call. MemoryError.
    """
    if not spans:
        return
    library = native().library
    assert library
    q, k, v = (_rows(x) for x in (q, k, v))
    most = max(span.past + span.queries for span in spans)
    table = torch.tensor(spans, dtype=torch.int64)
    call = Prompt(
        q=q.data_ptr(),
        k=k.data_ptr(),
        v=v.data_ptr(),
        y=y.data_ptr(),
        spans=table.data_ptr(),
        q_apart=q.stride(0),
        k_apart=k.stride(0),
        v_apart=v.stride(0),
        S=len(spans),
        H=q.shape[1],
        KV=k.shape[1],
        P=q.shape[2],
        window=0 if window is None or window >= most else window,
        threads=torch.get_num_threads(),
    )
    raise_if_failed(library.cairn_prompt(ctypes.byref(call)), "attention")


def _rows(x: Tensor) -> Tensor:
    """x [T, heads, P] with the heads of a token in one piece."""
    return x if x.stride(2) == 1 and x.stride(1) == x.shape[2] else x.contiguous()
