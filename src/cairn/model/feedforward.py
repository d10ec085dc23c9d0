"""The feed-forward mixer, with the parameter names of released nemotron_h checkpoints.

Legend: T tokens, D width.
"""

import torch
from torch import Generator, Tensor, nn

from cairn.model.config import ModelConfig
from cairn.model.initial import fill_bias, normal, residual_std
from cairn.model.joined import apart, products
from cairn.model.layout import Layout
from cairn.model.linear import Linear, scaled_feed_forward
from cairn.model.parts import part
from cairn.ops.activation import gelu_tanh, swiglu
from cairn.ops.linear import linear_gelu_tanh, linear_squared_relu, linear_swiglu
from cairn.ops.norm import squared_relu

BLOCK = 2048  # tokens of a long text that a CPU takes at once: what lies between stays in caches
ACTIVATIONS = {"relu2": squared_relu, "gelu_tanh": gelu_tanh, "silu": nn.functional.silu}


class MLP(nn.Module):
    """Feed-forward: an activation between two matrices; gated, of a third that multiplies."""

    keep_fp32 = ()

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        d, inside, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_proj = Linear(d, inside, bias=bias) if config.gated else None
        self.up_proj = Linear(d, inside, bias=bias)
        self.down_proj = Linear(inside, d, bias=bias)
        self.activation = ACTIVATIONS[config.activation]

    def initialise(self, generator: Generator) -> None:
        """Normal; the output narrower by the depth; biases zero."""
        for linear in (self.up_proj, self.gate_proj):
            if linear is not None:
                normal(linear.weight, self.config.initializer_range, generator)
                fill_bias(linear)
        normal(self.down_proj.weight, residual_std(self.config), generator)
        fill_bias(self.down_proj)

    @property
    def together(self) -> tuple[Linear, ...]:
        """What multiplies the same rows: see `model.joined`."""
        return () if self.gate_proj is None else (self.gate_proj, self.up_proj)

    def forward(self, x: Tensor, layout: Layout, memory: None) -> Tensor:
        """x [T, D] to [T, D]."""
        if len(x) > BLOCK and x.device.type == "cpu" and not self._followed:
            return torch.cat([self._both(part) for part in x.split(BLOCK)])
        return self._both(x)

    @property
    def _followed(self) -> bool:
        """Whether somebody needs all tokens in one call: a backward, or who listens."""
        linears = [one for one in self.children() if isinstance(one, Linear)]
        return torch.is_grad_enabled() or any(one.listened for one in linears)

    def _both(self, x: Tensor) -> Tensor:
        return self._gated(x) if self.config.gated else self._plain(x)

    def _plain(self, x: Tensor) -> Tensor:
        up: Linear = part(self, "up_proj")
        down: Linear = part(self, "down_proj")
        if self.activation is squared_relu:
            whole = scaled_feed_forward(up, down, x)
            if whole is not None:
                return whole
            if up.plain(x) and down.plain(x):
                return down(linear_squared_relu(x, up.held[0]))
        if self.activation is gelu_tanh and up.bare(x):
            weight, bias, _ = up.held
            return down(linear_gelu_tanh(x, weight, bias))
        return down.after(self.activation, up(x))

    def _gated(self, x: Tensor) -> Tensor:
        gate_proj: Linear = part(self, "gate_proj")
        up_proj: Linear = part(self, "up_proj")
        down: Linear = part(self, "down_proj")
        silu, together = self.config.activation == "silu", (gate_proj, up_proj)
        if silu and x.device.type == "cpu" and gate_proj.bare(x) and apart(together):
            weight, bias, _ = gate_proj.held
            return down(linear_swiglu(x, weight, bias, up_proj(x)))
        gate, up = products(x, *together)
        if silu:
            return down(swiglu(gate, up))
        return down(self.activation(gate) * up)
