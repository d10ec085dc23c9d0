"""Gradients written by hand: derived once, not twice."""

from collections.abc import Callable
from typing import Any, TypeVar

from torch.autograd.function import once_differentiable

Backward = TypeVar("Backward", bound=Callable[..., Any])


def once(backward: Backward) -> Backward:
    """For `backward` of a torch.autograd.Function: a second derivative raises, never misleads."""
    return once_differentiable(backward)  # type: ignore[return-value]
