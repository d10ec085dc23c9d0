"""Compiled attention of many queries, on a CPU's matrix units.

Legend: T tokens, S spans, H query heads, KV key heads, P head width, n keys.
"""

import ctypes
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cairn.ops.native.library import Prompt, native, unfit
from cairn.ops.order import order_is_fixed

if TYPE_CHECKING:
    from cairn.ops.attention import AttentionPlan, ReadMemory

DEEP = 32  # channels that a tile holds
WIDEST = 256  # channels that a task has room for
LEAST_QUERIES = 16  # of a span in the mean: keys are packed first


def unfit_for(q: Tensor, k: Tensor, v: Tensor, plan: "AttentionPlan") -> str:
    """Why `attend` cannot serve, or should not; empty where it can."""
    if order_is_fixed():
        return "an order is fixed"
    if plan.laid is not None or len(k) != len(q):
        return "lengths that are on a device, or keys of other ranks"
    if len(q) < LEAST_QUERIES * len(plan.lengths):
        return f"under {LEAST_QUERIES} queries a span: torch's attention packs no keys"
    if any(x.dtype != torch.bfloat16 for x in (q, k, v)):
        return "not in bf16"
    if q.shape[-1] % DEEP or q.shape[-1] > WIDEST:
        return f"heads no multiple of {DEEP} wide, or wider than {WIDEST}"
    return unfit(q, k, v) or ("" if native().tiles else "no matrix units")


def attend(
    q: Tensor, k: Tensor, v: Tensor, plan: "AttentionPlan", read: "ReadMemory | None"
) -> Tensor:
    """`ops.attention` of spans without a past in one call; of others, each with what it reads."""
    lengths, past = plan.lengths, plan.past or (0,) * len(plan.lengths)
    begins = [0, *accumulate(lengths)]
    if not any(past):
        return prompt(q, k, v, lengths, begins[:-1], past, plan.window)
    assert read is not None
    out = []
    for span, (first, stop) in enumerate(pairwise(begins)):
        if first == stop:
            continue
        start = 0 if plan.window is None else max(0, past[span] - plan.window + 1)
        keys, values = (x[0].transpose(0, 1) for x in read((span,), start, plan.keys[span]))
        own = (stop - first,), (0,), (past[span] - start,)
        out.append(prompt(q[first:stop], keys, values, *own, plan.window))
    return torch.cat(out)


def prompt(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Sequence[int],
    places: Sequence[int],
    past: Sequence[int],
    window: int | None,
) -> Tensor:
    """Causal softmax attention, scale 1/sqrt(P): q bf16 [T, H, P], in spans, to the same.

    Span s sees the keys and values k, v bf16 [n, KV, P] from place `places[s]` on, of which
    `past[s]` lie before its first query; `window` is how many a query sees at most, its own too.
    """
    library = native().library
    assert library
    q, k, v = (_rows(x) for x in (q, k, v))
    bounds, begins, before = (
        torch.tensor(numbers, dtype=torch.int64)
        for numbers in ([0, *accumulate(lengths)], places, past)
    )
    y = torch.empty(q.shape, dtype=q.dtype)
    call = Prompt(
        q=q.data_ptr(),
        k=k.data_ptr(),
        v=v.data_ptr(),
        y=y.data_ptr(),
        bounds=bounds.data_ptr(),
        places=begins.data_ptr(),
        past=before.data_ptr(),
        q_apart=q.stride(0),
        k_apart=k.stride(0),
        v_apart=v.stride(0),
        S=len(lengths),
        H=q.shape[1],
        KV=k.shape[1],
        P=q.shape[2],
        window=window or 0,
        threads=torch.get_num_threads(),
    )
    if library.cairn_prompt(ctypes.byref(call)):
        raise MemoryError("no memory for attention's working space")
    return y


def _rows(x: Tensor) -> Tensor:
    """x [T, heads, P] with the heads of a token in one piece."""
    return x if x.stride(2) == 1 and x.stride(1) == x.shape[2] else x.contiguous()
