"""Collectives with gradients: what passes between ranks inside a forward, and back.

Legend: R ranks of the group, n rows of each rank.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from cairn.ops.gradient import once, run

Collective = Callable[[Tensor, ProcessGroup], Tensor]


def gather(x: Tensor, group: ProcessGroup) -> Tensor:
    """The rows [n, ...] of every rank, in the order of ranks: [R * n, ...].

    All ranks give equally many. Gradients that ranks have for a row are added up: each is taken
    for the gradient of a cost of its own.
    """
    return run(_Between, x, group, gathered, _scattered)


def scatter_sum(x: Tensor, group: ProcessGroup) -> Tensor:
    """The sum over ranks of [R * n, ...], of which each rank keeps its own rows [n, ...]."""
    return run(_Between, x, group, _scattered, gathered)


def sum_over(x: Tensor, group: ProcessGroup) -> Tensor:
    """The sum over ranks, on each of them; so is the gradient, which may differ between ranks."""
    return run(_Between, x, group, _summed, _summed)


def gathered(x: Tensor, group: ProcessGroup) -> Tensor:
    """`gather` without a gradient."""
    x = x.detach().contiguous()
    out = x.new_empty(dist.get_world_size(group) * x.shape[0], *x.shape[1:])
    dist.all_gather_into_tensor(out, x, group=group)
    return out


def _scattered(x: Tensor, group: ProcessGroup) -> Tensor:
    x = x.detach().contiguous()
    out = x.new_empty(x.shape[0] // dist.get_world_size(group), *x.shape[1:])
    dist.reduce_scatter_tensor(out, x, group=group)
    return out


def _summed(x: Tensor, group: ProcessGroup) -> Tensor:
    out = x.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(out, group=group)
    return out


class _Between(torch.autograd.Function):
    """`there` on the way forward, `back` on the way of the gradient."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, group: ProcessGroup, there: Collective, back: Collective
    ) -> Tensor:
        ctx.group, ctx.back = group, back
        return there(x, group)

    @staticmethod
    @once
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return ctx.back(grads[0], ctx.group), None, None, None
