"""Gradients over ranks: copies summed, one norm, one scale."""

import math
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from cairn.model import Decoder
from cairn.train.parallel.pieces import Piece, held, pieces
from cairn.train.parallel.ranks import Ranks


@dataclass(frozen=True)
class Gradients:
    """The gradients of a model that `shard` has cut, as sums over all tokens of a step."""

    model: Decoder
    ranks: Ranks
    pieces: dict[str, Piece]

    @classmethod
    def of(cls, model: Decoder, ranks: Ranks) -> "Gradients":
        """Of a model; its parameters stay where they are."""
        return cls(model, ranks, pieces(model, ranks))

    def scale(self, scale: float, clip: float) -> float:
        """Scale all gradients, then clip their norm; the norm before clipping (and after scaling).

        Parameters that stand on several ranks get the sum of what each has computed for them.
        """
        found = {
            name: held(p.grad) for name, p in self.model.named_parameters() if p.grad is not None
        }
        self._sum_copies(found)
        norm = self._norm(found) * scale
        if clip and norm > clip:
            scale *= clip / norm
        for gradient in found.values():
            gradient.mul_(scale)
        return norm

    def _sum_copies(self, found: dict[str, Tensor]) -> None:
        copied: dict[int, list[Tensor]] = {}
        for name, gradient in found.items():
            chunks = self.pieces[name].chunks
            if not chunks:  # a bias that another rank adds
                gradient.zero_()
            for chunk in chunks:
                if len(chunk.owners) > 1:
                    copied.setdefault(len(chunk.owners), []).append(gradient[chunk.held])
        for owners, parts in sorted(copied.items()):
            flat = torch.cat([part.flatten() for part in parts])
            dist.all_reduce(flat, group=self.ranks.block(owners))
            at = 0
            for part in parts:
                part.copy_(flat[at : at + part.numel()].view_as(part))
                at += part.numel()

    def _norm(self, found: dict[str, Tensor]) -> float:
        """Of all gradients together, each element counted once."""
        if self.ranks.world == 1:
            return torch.nn.utils.get_total_norm(found.values()).item() if found else 0.0
        squares = torch.zeros((), dtype=torch.float64, device=self.ranks.device)
        for name, gradient in found.items():
            for chunk in self.pieces[name].chunks:
                part = gradient[chunk.held]
                squares += torch.linalg.vector_norm(part).double() ** 2 / len(chunk.owners)
        # Ranks that hold copies of the whole model have the same gradients.
        copies = 1 if self.ranks.mesh is None else self.ranks.mesh.size(0)
        dist.all_reduce(squares)
        return math.sqrt(squares.item() / copies)
