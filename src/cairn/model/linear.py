"""Linear layers as modules, with the parameter names of released checkpoints."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from cairn.ops.fp8_linear import Scaled, fp8_feed_forward, fp8_linear
from cairn.ops.linear import linear
from cairn.ops.narrow import narrow_linear, narrowed
from cairn.ops.norm import squared_relu


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

        What is kept so already is changed in place. UserError where that cannot be done; see
        `ops.narrow`.
        """
        values, inverse = narrowed(self.weight if weight is None else weight)
        if self.inverse is None:
            self.weight, self.inverse = nn.Parameter(values, requires_grad=False), inverse
        else:
            self.weight.copy_(values)
            self.inverse.copy_(inverse)

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        weight, bias, inverse = self.held
        if inverse is not None:
            return narrow_linear(input, weight, inverse, bias)
        scaled = None if self.scaled is None else self.scaling(input)
        if scaled is not None:
            return fp8_linear(input, weight, bias, scaled)
        return linear(input, weight, bias)

    @property
    def held(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Weight, bias and inverse scales.

        As in `model.parts`, for a call that is made often: from where nn.Module keeps them.
        """
        own = self._parameters
        weight = own.get("weight")
        if weight is None or "bias" not in own:
            return self.weight, self.bias, self.inverse
        return weight, own["bias"], self._buffers["inverse"]

    def after(self, activation: Callable[[Tensor], Tensor], input: Tensor) -> Tensor:
        """self(activation(input)): [..., in] to [..., out], without writing what 8 bits take."""
        if activation is squared_relu and self.inverse is not None:
            weight, inverse = self.weight, self.inverse
            return narrow_linear(input, weight, inverse, self.bias, squared_relu=True)
        return self(activation(input))

    def plain(self, input: Tensor) -> bool:
        """Whether this is input W^T and nothing more, with nobody who listens."""
        return self._own_bias is None and self.bare(input)

    def bare(self, input: Tensor) -> bool:
        """Whether this is input W^T plus a bias, if there is one, with nobody who listens."""
        whole = self._buffers["inverse"] is None
        return whole and not self.listened and self.scaling(input) is None

    @property
    def _own_bias(self) -> Tensor | None:
        """The bias, without asking for a weight that is computed at every look."""
        if "bias" in self._parameters:
            return self._parameters["bias"]
        return self.bias

    @property
    def listened(self) -> bool:
        """Whether somebody hears of the calls, so that they have to be made."""
        return bool(self._forward_hooks or self._forward_pre_hooks)

    def scaling(self, input: Tensor) -> Scaled | None:
        """How this call multiplies in FP8; None where it does not."""
        if self.scaled is None:
            return None
        kind = input.device.type
        if not torch.is_autocast_enabled(kind):
            return None
        return replace(self.scaled, dtype=torch.get_autocast_dtype(kind))


def multiplied(x: Tensor, weight: Tensor, bias: Tensor | None, inverse: Tensor | None) -> Tensor:
    """x [..., I] times the transpose of weight [O, I], plus bias [O]: [..., O].

    With `inverse` fp32 [O], of a weight that is kept in 8 bits; see `ops.narrow`.
    """
    if inverse is None:
        return linear(x, weight, bias)
    return narrow_linear(x, weight, inverse, bias)


def scaled_feed_forward(up: Linear, down: Linear, input: Tensor) -> Tensor | None:
    """down(max(up(input), 0)^2) in FP8, [..., in] to [..., out]; None where it has to be parts."""
    if up.scaled is None:
        return None
    scaled = up.scaling(input)
    parts = up.bias is not None or down.bias is not None or up.listened or down.listened
    if scaled is None or down.scaled is None or parts:
        return None
    return fp8_feed_forward(input, up.weight, down.weight, scaled)
