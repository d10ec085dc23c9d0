"""Softmax parts of the losses over a large vocabulary: one program a token, in two passes.

The first pass finds the loss, the second turns the logits into their gradient where they lie, so
that a slice of logits exists once and in the matrices' own dtype.
"""

# pyright: reportAttributeAccessIssue=false, reportMissingImports=false, reportIndexIssue=false

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 4096


def cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor, gradient: bool) -> Tensor:
    """Weighted cross-entropy of every row, fp32 [T]; with `gradient`, logits become theirs.

    logits [T, V]; targets int64 [T]; weights [T].
    """
    T, V = logits.shape
    losses = torch.empty(T, device=logits.device)
    if T:
        block = min(_BLOCK, max(16, triton.next_power_of_2(V)))
        _cross_entropy[(T,)](
            logits, targets, weights, losses, logits.stride(0),
            V=V, GRADIENT=gradient, BLOCK=block, num_warps=8,
        )  # fmt: skip
    return losses


def kl(
    logits: Tensor, teacher: Tensor, weights: Tensor, temperature: float, gradient: bool
) -> Tensor:
    """Weighted KL(teacher || student) of every row, fp32 [T]; logits [T, V] become gradients.

    Both logits are divided by `temperature`, and so are the gradients with respect to them.
    """
    T, V = logits.shape
    losses = torch.empty(T, device=logits.device)
    if T:
        block = min(_BLOCK, max(16, triton.next_power_of_2(V)))
        _kl[(T,)](
            logits, teacher, weights, losses, logits.stride(0), teacher.stride(0), temperature,
            V=V, GRADIENT=gradient, BLOCK=block, num_warps=8,
        )  # fmt: skip
    return losses


@triton.jit
def _cross_entropy(
    logits, targets, weights, losses, row, V: tl.constexpr, GRADIENT: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    t = tl.program_id(0)
    logits += t.to(tl.int64) * row
    i = tl.arange(0, BLOCK)
    tops = tl.full([BLOCK], float("-inf"), tl.float32)
    sums = tl.zeros([BLOCK], tl.float32)
    for at in range(0, V, BLOCK):
        x = tl.load(logits + at + i, mask=at + i < V, other=float("-inf")).to(tl.float32)
        higher = tl.maximum(tops, x)
        level = tl.where(higher == float("-inf"), 0.0, higher)
        sums = sums * tl.exp(tops - level) + tl.exp(x - level)
        tops = higher
    top = tl.max(tops, 0)
    log_sum = top + tl.log(tl.sum(sums * tl.exp(tops - top), 0))
    target = tl.load(targets + t)
    weight = tl.load(weights + t).to(tl.float32)
    tl.store(losses + t, (log_sum - tl.load(logits + target).to(tl.float32)) * weight)
    if GRADIENT:
        tl.debug_barrier()  # the target's logit is read before any is overwritten
        for at in range(0, V, BLOCK):
            x = tl.load(logits + at + i, mask=at + i < V, other=float("-inf")).to(tl.float32)
            g = (tl.exp(x - log_sum) - tl.where(at + i == target, 1.0, 0.0)) * weight
            tl.store(logits + at + i, g.to(logits.dtype.element_ty), mask=at + i < V)


@triton.jit
def _kl(
    logits, teacher, weights, losses, row, teacher_row, temperature, V: tl.constexpr,
    GRADIENT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    t = tl.program_id(0)
    logits += t.to(tl.int64) * row
    teacher += t.to(tl.int64) * teacher_row
    i = tl.arange(0, BLOCK)
    cool = 1 / temperature
    q_tops = tl.full([BLOCK], float("-inf"), tl.float32)
    p_tops = tl.full([BLOCK], float("-inf"), tl.float32)
    q_sums, p_sums = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    apart = tl.zeros([BLOCK], tl.float32)  # sum of exp(teacher) (teacher - student)
    for at in range(0, V, BLOCK):
        inside = at + i < V
        q = tl.load(logits + at + i, mask=inside, other=0).to(tl.float32) * cool
        p = tl.load(teacher + at + i, mask=inside, other=0).to(tl.float32) * cool
        q_higher = tl.where(inside, tl.maximum(q_tops, q), q_tops)
        p_higher = tl.where(inside, tl.maximum(p_tops, p), p_tops)
        q_level = tl.where(q_higher == float("-inf"), 0.0, q_higher)
        p_level = tl.where(p_higher == float("-inf"), 0.0, p_higher)
        q_sums = q_sums * tl.exp(q_tops - q_level) + tl.where(inside, tl.exp(q - q_level), 0.0)
        odds, fade = tl.where(inside, tl.exp(p - p_level), 0.0), tl.exp(p_tops - p_level)
        p_sums = p_sums * fade + odds
        apart = apart * fade + odds * (p - q)
        q_tops, p_tops = q_higher, p_higher
    q_top, p_top = tl.max(q_tops, 0), tl.max(p_tops, 0)
    q_log = q_top + tl.log(tl.sum(q_sums * tl.exp(q_tops - q_top), 0))
    p_sum = tl.sum(p_sums * tl.exp(p_tops - p_top), 0)
    p_log = p_top + tl.log(p_sum)
    weight = tl.load(weights + t).to(tl.float32)
    far = tl.sum(apart * tl.exp(p_tops - p_top), 0) / p_sum
    tl.store(losses + t, (far - p_log + q_log) * weight)
    if GRADIENT:
        for at in range(0, V, BLOCK):
            inside = at + i < V
            q = tl.load(logits + at + i, mask=inside, other=0).to(tl.float32) * cool
            p = tl.load(teacher + at + i, mask=inside, other=0).to(tl.float32) * cool
            g = (tl.exp(q - q_log) - tl.exp(p - p_log)) * (weight * cool)
            tl.store(logits + at + i, g.to(logits.dtype.element_ty), mask=inside)
