"""Norms as modules, with the parameter names of released checkpoints."""

import torch
from torch import Generator, Tensor, nn

from cairn.model.config import ModelConfig
from cairn.model.initial import fill
from cairn.model.parts import parameter
from cairn.ops.layernorm import add_layer_norm, layer_norm
from cairn.ops.norm import add_rms_norm, rms_norm


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dimension."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    @property
    def listened(self) -> bool:
        """Whether somebody hears of the calls, so that they have to be made."""
        return bool(self._forward_hooks or self._forward_pre_hooks)

    def initialise(self, generator: Generator) -> None:
        """All ones."""
        fill(self.weight, torch.ones(self.weight.shape))

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """[..., width] to the same; with `added`, x + added normed in its dtype, and that sum."""
        weight = parameter(self, "weight")
        if added is None:
            return rms_norm(x, weight, self.eps)
        return add_rms_norm(added, x, weight, self.eps)


class LayerNorm(nn.Module):
    """(x - mean) / deviation * weight + bias over the last dimension."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width))
        self.eps = eps

    def initialise(self, generator: Generator) -> None:
        """Weights one, biases zero."""
        fill(self.weight, torch.ones(self.weight.shape))
        fill(self.bias, torch.zeros(self.bias.shape))

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """[..., width] to the same; with `added`, x + added normed in its dtype, and that sum."""
        weight, bias = parameter(self, "weight"), parameter(self, "bias")
        if added is None:
            return layer_norm(x, weight, bias, self.eps)
        return add_layer_norm(added, x, weight, bias, self.eps)


def norm_of(config: ModelConfig) -> RMSNorm | LayerNorm:
    """A norm over the residual stream."""
    kind = LayerNorm if config.norm == "layer" else RMSNorm
    return kind(config.hidden_size, config.norm_eps)


def normed(norm: RMSNorm | LayerNorm, x: Tensor, added: Tensor | None) -> tuple[Tensor, Tensor]:
    """The norm of the residual stream x and what is still to be added to it, and their sum."""
    return (norm(x), x) if added is None else norm(x, added)
