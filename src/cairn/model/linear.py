"""Linear layers as modules, with the parameter names of released checkpoints."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cairn.ops.fp8 import Recipe, Statistics
from cairn.ops.fp8_linear import fp8_linear
from cairn.ops.linear import linear
from cairn.ops.narrow import narrow_linear, narrowed
from cairn.ops.norm import squared_relu


@dataclass(frozen=True)
class Scaled:
    """How a layer multiplies in FP8, and where it counts what casts met."""

    recipe: Recipe
    statistics: Statistics


class Linear(nn.Linear):
    """nn.Linear through `ops.linear`; with `scaled`, in FP8 inside an autocast region.

    `inverse` is None, or what the outputs of a weight that is kept in 8 bits are scaled with.

    The region decides, so that layers computed again in a backward pass come out the same, and
    evaluation outside of it is as exact as ever.
    """

    scaled: Scaled | None = None
    inverse: Tensor | None

    def __init__(self, inside: int, outside: int, bias: bool = True) -> None:
        super().__init__(inside, outside, bias=bias)
        self.register_buffer("inverse", None, persistent=False)

    @torch.no_grad()
    def narrow(self, weight: Tensor | None = None) -> None:
        """Keep the weight (or another in its place) in 8 bits from now on, for serving.

        UserError where that cannot be done; see `ops.narrow`.
        """
        values, self.inverse = narrowed(self.weight if weight is None else weight)
        self.weight = nn.Parameter(values, requires_grad=False)

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        if self.inverse is not None:
            return narrow_linear(input, self.weight, self.inverse, self.bias)
        if self._scales(input):
            return self._product(input, False)
        return linear(input, self.weight, self.bias)

    def after(self, activation: Callable[[Tensor], Tensor], input: Tensor) -> Tensor:
        """self(activation(input)): [..., in] to [..., out], without writing what FP8 can cast."""
        if activation is squared_relu and self.inverse is not None:
            weight, inverse = self.weight, self.inverse
            return narrow_linear(input, weight, inverse, self.bias, squared_relu=True)
        if activation is squared_relu and self._scales(input):
            return self._product(input, True)
        return self(activation(input))

    def plain(self, input: Tensor) -> bool:
        """Whether this is input W^T and nothing more, with nobody who listens."""
        listened = self._forward_hooks or self._forward_pre_hooks
        bare = self.bias is None and self.inverse is None
        return bare and not listened and not self._scales(input)

    def _scales(self, input: Tensor) -> bool:
        return self.scaled is not None and torch.is_autocast_enabled(input.device.type)

    def _product(self, input: Tensor, squared: bool) -> Tensor:
        assert self.scaled is not None
        dtype = torch.get_autocast_dtype(input.device.type)
        recipe, statistics = self.scaled.recipe, self.scaled.statistics
        return fp8_linear(
            input, self.weight, self.bias, recipe, statistics, dtype, squared_relu=squared
        )
