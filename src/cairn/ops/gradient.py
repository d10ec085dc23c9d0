"""Gradients written by hand: derived once, not twice, and skipped where nobody asks for them."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

Backward = TypeVar("Backward", bound=Callable[..., Any])


def once(backward: Backward) -> Backward:
    """For `backward` of a torch.autograd.Function: a second derivative raises, never misleads.

    It computes in the dtypes that it is given, also when called inside an autocast region.
    """

    @wraps(backward)
    def exact(ctx: Any, *grads: Tensor | None) -> Any:
        kind = next((grad.device.type for grad in grads if grad is not None), "cpu")
        with torch.autocast(kind, enabled=False):
            return backward(ctx, *grads)

    return once_differentiable(exact)  # type: ignore[return-value]


def run(function: type[Function], *inputs: Any) -> Any:
    """function.apply(*inputs), without its cost (some 15 us a call) where no gradient is wanted.

    It is the same forward either way.
    """
    if recorded(*inputs):
        return function.apply(*inputs)
    return function.forward(_Unrecorded(len(inputs)), *inputs)


def recorded(*inputs: Any) -> bool:
    """Whether a gradient with respect to any of these is wanted."""
    if not torch.is_grad_enabled():
        return False
    return any(isinstance(x, Tensor) and x.requires_grad for x in inputs)


class _Unrecorded:
    """A context that keeps nothing."""

    def __init__(self, inputs: int) -> None:
        self.needs_input_grad = (False,) * inputs

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep nothing."""

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        """Nothing is."""

    def set_materialize_grads(self, value: bool) -> None:
        """There will be no gradients."""
