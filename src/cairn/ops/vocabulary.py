"""Cross-entropy where each rank has the output matrix's rows for a part of the vocabulary.

Legend: T tokens, D width, V rows of this rank.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn import functional

from cairn.ops.gradient import once, run
from cairn.ops.loss import Slices, scaled


@dataclass(frozen=True)
class Vocabulary:
    """This rank's part of the vocabulary."""

    group: ProcessGroup
    """The ranks that have it all."""
    first: int
    """The token id of this rank's first row."""

    def places(self, ids: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        """The rows of ids [T] among this rank's, any row where it has none; whether it has one."""
        place = ids - self.first
        return place.clamp(0, rows - 1), (place >= 0) & (place < rows)


def bounds_of(vocabulary: int, ranks: int) -> list[int]:
    """Where the part of each rank begins, and where the last one ends."""
    return [vocabulary * rank // ranks for rank in range(ranks + 1)]


def give_all_logits(head: nn.Module, bounds: list[int], group: ProcessGroup | None = None) -> None:
    """Have the output matrix, of which each rank has its part, give the logits of all of them.

    To be read, not learned from. `group` None is all ranks.
    """
    sizes = [stop - start for start, stop in pairwise(bounds)]

    def put_together(module: nn.Module, given: Any, y: Tensor) -> Tensor:
        return _all_logits(y, sizes, group)

    head.register_forward_hook(put_together)


def _all_logits(logits: Tensor, sizes: list[int], group: ProcessGroup | None) -> Tensor:
    """Logits [T, V] of every rank's `sizes` rows of the output matrix, of this rank's own."""
    wide = functional.pad(logits, (0, max(sizes) - logits.shape[-1]))
    parts = [torch.empty_like(wide) for _ in sizes]
    dist.all_gather(parts, wide, group=group)
    return torch.cat([part[..., :size] for part, size in zip(parts, sizes, strict=True)], -1)


def shared_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    weights: Tensor,
    vocabulary: Vocabulary,
    slice_size: int,
    each: Tensor | None = None,
) -> Tensor:
    """As `loss.linear_cross_entropy`, the same on every rank; weight [V, D] has this rank's rows.

    The gradient of `hidden` is this rank's summand of it.
    """
    return run(_SharedCrossEntropy, hidden, weight, targets, weights, vocabulary, slice_size, each)


class _SharedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        weights: Tensor,
        vocabulary: Vocabulary,
        size: int,
        each: Tensor | None,
    ) -> Tensor:
        slices = Slices(ctx, hidden, weight)
        total = hidden.new_zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32))
        for at in range(0, len(hidden), size):
            part = slice(at, at + size)
            logits = slices.logits(part)
            scale = weights[part].to(logits.dtype)
            row, here = vocabulary.places(targets[part], len(weight))
            most = logits.amax(1)
            dist.all_reduce(most, dist.ReduceOp.MAX, vocabulary.group)
            logits -= most[:, None]
            chosen = torch.where(here, logits.gather(1, row[:, None])[:, 0], 0.0)
            odds = logits.exp_()
            both = torch.stack([odds.sum(1), chosen])
            dist.all_reduce(both, group=vocabulary.group)
            summed, chosen = both
            losses = summed.log() - chosen
            total += torch.dot(losses, scale)
            if each is not None:
                each[part] = losses * scale
            if slices.wanted:
                to_logits = odds.mul_((scale / summed)[:, None])
                to_logits.scatter_add_(1, row[:, None], torch.where(here, -scale, 0.0)[:, None])
                slices.add(part, to_logits)
        slices.save(ctx)
        return total

    @staticmethod
    @once
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return *scaled(ctx, grads[0]), None, None, None, None, None
