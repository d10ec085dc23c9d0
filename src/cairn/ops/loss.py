"""Losses over a large vocabulary in slices of tokens: the full logits never exist.

The gradient is computed with the loss, slice by slice, and scaled in backward.
Legend: T tokens, D width, V vocabulary.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from cairn.ops import paths
from cairn.ops.gradient import once, run

if TYPE_CHECKING:
    from cairn.ops.vocabulary import Vocabulary

# Logits that exist at a time: about a core's share of cache, or enough to fill a GPU.
_LOGITS = {"cpu": 2**19}
_LOGITS_ELSEWHERE = 2**28


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    weights: Tensor,
    slice_size: int | None = None,
    each: Tensor | None = None,
    vocabulary: "Vocabulary | None" = None,
) -> Tensor:
    """Sum over tokens of weights * cross-entropy(hidden @ weight.T, targets), in nats.

    hidden [T, D]; weight [V, D]; targets int64 [T]; weights [T], 0 for tokens that do not count.
    Returns a scalar in fp32 (fp64 for fp64 inputs). Differentiable in hidden and weight, once.
    `each` [T], where given, is filled with the summands, for metrics: no gradient goes through it.
    With `vocabulary`, weight has the rows of a part of it, and other ranks have the rest.
    """
    size = slice_size or _slice_size(hidden, weight)
    if vocabulary is not None:
        from cairn.ops.vocabulary import shared_cross_entropy

        return shared_cross_entropy(hidden, weight, targets, weights, vocabulary, size, each)
    path = paths.choose("linear_cross_entropy", hidden.device, triton=paths.for_kernel(hidden))
    return run(_CrossEntropy, hidden, weight, targets, weights, size, path, each)


def linear_kl(
    hidden: Tensor,
    weight: Tensor,
    teacher_hidden: Tensor,
    teacher_weight: Tensor,
    weights: Tensor,
    temperature: float = 1.0,
    slice_size: int | None = None,
) -> Tensor:
    """Sum over tokens of weights * KL(teacher || student) of the two softmaxes, in nats.

    hidden [T, D], weight [V, D] of the student; teacher_hidden [T, E], teacher_weight [V, E];
    weights [T]; logits are divided by `temperature` (multiply by its square to keep gradients'
    scale). Returns a scalar; differentiable in the student's hidden and weight, once.
    """
    teacher = (teacher_hidden.detach(), teacher_weight.detach())
    size = slice_size or _slice_size(hidden, weight)
    path = paths.choose("linear_kl", hidden.device, triton=paths.for_kernel(hidden))
    return run(_Kl, hidden, weight, *teacher, weights, temperature, size, path)


def _slice_size(hidden: Tensor, weight: Tensor) -> int:
    return max(64, _LOGITS.get(hidden.device.type, _LOGITS_ELSEWHERE) // len(weight))


def _narrow(*tensors: Tensor) -> list[Tensor]:
    """In autocast's dtype inside an autocast region, as they are outside."""
    kind = tensors[0].device.type
    if not torch.is_autocast_enabled(kind) or tensors[0].dtype == torch.float64:
        return list(tensors)
    return [tensor.to(torch.get_autocast_dtype(kind)) for tensor in tensors]


def _logits(hidden: Tensor, weight: Tensor) -> Tensor:
    """Logits [T, V] that belong to the caller, in fp32 at least."""
    logits = functional.linear(hidden, weight)
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


class Slices:
    """Gradients that grow slice by slice; None for what needs none."""

    def __init__(self, ctx: Any, hidden: Tensor, weight: Tensor) -> None:
        ctx.weight_dtype = weight.dtype
        self.hidden, self.weight = _narrow(hidden, weight)
        self.to_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        wide = torch.promote_types(weight.dtype, torch.float32)
        self.to_weight = torch.zeros_like(weight, dtype=wide) if ctx.needs_input_grad[1] else None

    def logits(self, part: slice) -> Tensor:
        """Logits [slice, V] of some tokens, fp32 at least."""
        return _logits(self.hidden[part], self.weight)

    def narrow(self, part: slice) -> Tensor:
        """The same in the matrices' dtype."""
        return functional.linear(self.hidden[part], self.weight)

    @property
    def wanted(self) -> bool:
        """Whether anything needs a gradient."""
        return self.to_hidden is not None or self.to_weight is not None

    def add(self, part: slice, to_logits: Tensor) -> None:
        """Take in the gradient of one slice's logits [slice, V]."""
        to_logits = to_logits.to(self.hidden.dtype)
        if self.to_hidden is not None:
            self.to_hidden[part] = to_logits @ self.weight
        if self.to_weight is not None:
            if self.to_weight.dtype == to_logits.dtype:
                self.to_weight.addmm_(to_logits.t(), self.hidden[part])
            else:
                self.to_weight += to_logits.t() @ self.hidden[part]

    def save(self, ctx: Any) -> None:
        """For `scaled`."""
        ctx.save_for_backward(self.to_hidden, self.to_weight)


def scaled(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """The gradients that were saved, times that of the sum."""
    to_hidden, to_weight = ctx.saved_tensors
    if to_hidden is not None:
        to_hidden = to_hidden * grad.to(to_hidden.dtype)
    if to_weight is not None:
        to_weight = (to_weight * grad).to(ctx.weight_dtype)
    return to_hidden, to_weight


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        weights: Tensor,
        size: int,
        path: paths.Path,
        each: Tensor | None,
    ) -> Tensor:
        slices = Slices(ctx, hidden, weight)
        total = hidden.new_zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32))
        for at in range(0, len(hidden), size):
            part = slice(at, at + size)
            if path == "triton":
                from cairn.ops.triton.loss import cross_entropy

                narrow = slices.narrow(part)
                losses = cross_entropy(narrow, targets[part], weights[part], slices.wanted)
                total += losses.sum()
                if each is not None:
                    each[part] = losses
                if slices.wanted:
                    slices.add(part, narrow)
                del narrow  # before the next slice's are made
                continue
            logits = slices.logits(part)
            scale, picked = weights[part].to(logits.dtype), targets[part, None]
            logits -= logits.amax(1, keepdim=True)
            chosen = logits.gather(1, picked)[:, 0]
            odds = logits.exp_()  # softmax, but for its sum
            summed = odds.sum(1)
            losses = summed.log() - chosen
            total += torch.dot(losses, scale)
            if each is not None:
                each[part] = losses * scale
            if slices.wanted:
                to_logits = odds.mul_((scale / summed)[:, None])
                to_logits.scatter_add_(1, picked, -scale[:, None])
                slices.add(part, to_logits)
        slices.save(ctx)
        return total

    @staticmethod
    @once
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return *scaled(ctx, grads[0]), None, None, None, None, None


class _Kl(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        teacher_hidden: Tensor,
        teacher_weight: Tensor,
        weights: Tensor,
        temperature: float,
        size: int,
        path: paths.Path,
    ) -> Tensor:
        slices = Slices(ctx, hidden, weight)
        teacher_hidden, teacher_weight = _narrow(teacher_hidden, teacher_weight)
        total = hidden.new_zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32))
        for at in range(0, len(hidden), size):
            part = slice(at, at + size)
            if path == "triton":
                from cairn.ops.triton.loss import kl

                narrow = slices.narrow(part)
                teacher = functional.linear(teacher_hidden[part], teacher_weight)
                total += kl(narrow, teacher, weights[part], temperature, slices.wanted).sum()
                if slices.wanted:
                    slices.add(part, narrow)
                del narrow, teacher  # before the next slice's are made
                continue
            log_q = slices.logits(part).div_(temperature).log_softmax(-1)
            logits = _logits(teacher_hidden[part], teacher_weight).to(log_q.dtype)
            log_p = logits.div_(temperature).log_softmax(-1)
            scale = weights[part].to(log_q.dtype)
            p = log_p.exp()
            total += torch.dot(log_p.sub_(log_q).mul_(p).sum(1), scale)
            if slices.wanted:
                to_logits = log_q.exp_().sub_(p).mul_((scale / temperature)[:, None])
                slices.add(part, to_logits)
        slices.save(ctx)
        return total

    @staticmethod
    @once
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return *scaled(ctx, grads[0]), None, None, None, None, None, None
