"""How fresh parameters are drawn: on the host in fp32, the same on every device."""

import math

import torch
from torch import Generator, Tensor, nn

from cairn.model.config import ModelConfig


def residual_std(config: ModelConfig) -> float:
    """Of matrices that write to the residual stream: narrower the more of them there are."""
    return config.initializer_range / math.sqrt(config.layers)


def fill(parameter: Tensor, drawn: Tensor) -> None:
    """Set a parameter to values drawn on the host in fp32: the same on every device."""
    with torch.no_grad():
        parameter.copy_(drawn)


def fill_bias(linear: nn.Linear) -> None:
    """Set a linear layer's bias to zero, where it has one."""
    if linear.bias is not None:
        fill(linear.bias, torch.zeros(linear.bias.shape))


def normal(parameter: Tensor, std: float, generator: Generator) -> None:
    """Fill with a normal distribution."""
    fill(parameter, torch.randn(parameter.shape, generator=generator) * std)


def uniform(shape: torch.Size, low: float, high: float, generator: Generator) -> Tensor:
    """Uniform between two numbers."""
    return torch.rand(shape, generator=generator) * (high - low) + low
