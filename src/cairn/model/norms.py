"""Norms as modules, with the parameter names of released checkpoints."""

import torch
from torch import Generator, Tensor, nn

from cairn.model.initial import fill
from cairn.ops.norm import rms_norm


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dimension."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    def initialise(self, generator: Generator) -> None:
        """All ones."""
        fill(self.weight, torch.ones(self.weight.shape))

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] to the same."""
        return rms_norm(x, self.weight, self.eps)
