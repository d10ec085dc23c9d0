"""Collectives with gradients: what passes between ranks inside a forward, and back.

Legend: R ranks of the group, n rows of each rank.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from cairn.ops.gradient import once, run


def gather(x: Tensor, group: ProcessGroup) -> Tensor:
    """The rows [n, ...] of every rank, in the order of ranks: [R * n, ...].

    All ranks give equally many. Gradients that ranks have for a row are added up: each is taken
    for the gradient of a cost of its own.
    """
    return run(_Gather, x, group)


def scatter_sum(x: Tensor, group: ProcessGroup) -> Tensor:
    """The sum over ranks of [R * n, ...], of which each rank keeps its own rows [n, ...]."""
    return run(_ScatterSum, x, group)


def sum_over(x: Tensor, group: ProcessGroup) -> Tensor:
    """The sum over ranks, on each of them; so is the gradient, which may differ between ranks."""
    return run(_Sum, x, group)


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


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        return gathered(x, group)

    @staticmethod
    @once
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return _scattered(grads[0], ctx.group), None


class _ScatterSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        return _scattered(x, group)

    @staticmethod
    @once
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return gathered(grads[0], ctx.group), None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        return _summed(x, group)

    @staticmethod
    @once
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return _summed(grads[0], ctx.group), None
