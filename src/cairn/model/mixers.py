"""The three mixers, with the parameter names of released nemotron_h checkpoints.

Legend: T tokens, D width, H Mamba heads, P their width, N state size, G groups, W window,
K chunks, Q chunk size.
"""

import math

import torch
from torch import Generator, Tensor, nn

from cairn.model.cache import KeyValues, Recurrence, state_dtype
from cairn.model.config import ModelConfig
from cairn.model.layout import Layout
from cairn.ops.attention import attention
from cairn.ops.conv import causal_conv, next_window
from cairn.ops.norm import gated_rms_norm, rms_norm, squared_relu
from cairn.ops.scan import ssd_scan

DT_RANGE = (1e-3, 1e-1)  # time steps that fresh models begin with, log-uniform
DT_FLOOR = 1e-4
A_RANGE = (1.0, 16.0)  # decay rates that fresh models begin with, uniform


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


class Mamba2(nn.Module):
    """State-space mixer (arXiv 2405.21060, section 7), with a gated grouped norm at its end."""

    keep_fp32 = ("A_log", "D", "dt_bias")  # they are exponentiated, or tiny, or both

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        inner, channels = config.mamba_width, config.conv_channels
        self.in_proj = nn.Linear(config.hidden_size, config.mamba_projection, bias=False)
        self.conv1d = nn.Conv1d(channels, channels, config.conv_kernel, groups=channels)
        self.A_log = nn.Parameter(torch.empty(config.mamba_heads))
        self.D = nn.Parameter(torch.empty(config.mamba_heads))
        self.dt_bias = nn.Parameter(torch.empty(config.mamba_heads))
        self.norm = RMSNorm(inner, config.norm_eps)
        self.out_proj = nn.Linear(inner, config.hidden_size, bias=False)

    def initialise(self, generator: Generator) -> None:
        """Linears normal; decay and time step log- or uniformly spread, as in the paper."""
        normal(self.in_proj.weight, self.config.initializer_range, generator)
        normal(self.out_proj.weight, residual_std(self.config), generator)
        bound = 1 / math.sqrt(self.config.conv_kernel)
        for parameter in (self.conv1d.weight, self.conv1d.bias):
            assert parameter is not None
            fill(parameter, _uniform(parameter.shape, -bound, bound, generator))
        fill(self.A_log, _uniform(self.A_log.shape, *A_RANGE, generator).log())
        fill(self.D, torch.ones(self.D.shape))
        low, high = (math.log(limit) for limit in DT_RANGE)
        dt = _uniform(self.dt_bias.shape, low, high, generator).exp().clamp(min=DT_FLOOR)
        fill(self.dt_bias, dt + torch.log(-torch.expm1(-dt)))  # softplus of it is dt

    def forward(self, x: Tensor, layout: Layout, memory: Recurrence | None) -> Tensor:
        """x [T, D] to [T, D]; reads and writes the spans' slots in `memory`."""
        config, chunks = self.config, layout.chunks
        z, xbc, dt = self.in_proj(x).split(
            [config.mamba_width, config.conv_channels, config.mamba_heads], dim=-1
        )
        window, state = memory.read(layout.slots) if memory else (None, None)
        assert self.conv1d.bias is not None
        mixed = causal_conv(xbc, self.conv1d.weight, self.conv1d.bias, chunks, window)
        wide = state_dtype(mixed.dtype)
        per_group = config.groups * config.state_size
        u, B, C = mixed.to(wide).split([config.mamba_width, per_group, per_group], dim=-1)
        dt = nn.functional.softplus(dt.to(wide) + self.dt_bias)
        y, last = ssd_scan(
            u.unflatten(-1, (config.mamba_heads, -1)),
            layout.steps(dt),
            -torch.exp(self.A_log.to(wide)),
            B.unflatten(-1, (config.groups, -1)),
            C.unflatten(-1, (config.groups, -1)),
            self.D.to(wide),
            chunks,
            state,
        )
        if memory:
            assert window is not None
            memory.write(layout.slots, next_window(xbc, chunks, window), last)
        y = chunks.places.unpad(y.flatten(0, 1).flatten(1))
        y = gated_rms_norm(y, z, self.norm.weight, config.groups, config.norm_eps)
        return self.out_proj(y)


class Attention(nn.Module):
    """Causal attention with grouped queries and no position embedding."""

    keep_fp32 = ()

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        d = config.hidden_size
        self.q_proj = nn.Linear(d, config.query_width, bias=False)
        self.k_proj = nn.Linear(d, config.key_value_width, bias=False)
        self.v_proj = nn.Linear(d, config.key_value_width, bias=False)
        self.o_proj = nn.Linear(config.query_width, d, bias=False)

    def initialise(self, generator: Generator) -> None:
        """Normal; the output narrower by the depth."""
        for linear in (self.q_proj, self.k_proj, self.v_proj):
            normal(linear.weight, self.config.initializer_range, generator)
        normal(self.o_proj.weight, residual_std(self.config), generator)

    def forward(self, x: Tensor, layout: Layout, memory: KeyValues | None) -> Tensor:
        """x [T, D] to [T, D]; appends to the spans' slots in `memory` and attends to them."""
        head = (-1, self.config.head_dim)
        q, k, v = (f(x).unflatten(-1, head) for f in (self.q_proj, self.k_proj, self.v_proj))
        if memory is None:
            return self.o_proj(attention(q, k, v, layout.attention).flatten(1))
        memory.append(layout.token_slots, layout.token_positions, k, v)

        def read(spans: tuple[int, ...], length: int) -> tuple[Tensor, Tensor]:
            keys, values = memory.read([layout.slots[span] for span in spans], length)
            return keys.to(q.dtype), values.to(q.dtype)

        return self.o_proj(attention(q, k, v, layout.attention, read).flatten(1))


class MLP(nn.Module):
    """Feed-forward: squared ReLU between two matrices."""

    keep_fp32 = ()

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def initialise(self, generator: Generator) -> None:
        """Normal; the output narrower by the depth."""
        normal(self.up_proj.weight, self.config.initializer_range, generator)
        normal(self.down_proj.weight, residual_std(self.config), generator)

    def forward(self, x: Tensor, layout: Layout, memory: None) -> Tensor:
        """x [T, D] to [T, D]."""
        return self.down_proj(squared_relu(self.up_proj(x)))


MIXERS: dict[str, type[Mamba2] | type[Attention] | type[MLP]] = {
    "M": Mamba2,
    "*": Attention,
    "-": MLP,
}


def residual_std(config: ModelConfig) -> float:
    """Of matrices that write to the residual stream: narrower the more of them there are."""
    return config.initializer_range / math.sqrt(config.layers)


def fill(parameter: Tensor, drawn: Tensor) -> None:
    """Set a parameter to values drawn on the host in fp32: the same on every device."""
    with torch.no_grad():
        parameter.copy_(drawn)


def normal(parameter: Tensor, std: float, generator: Generator) -> None:
    """Fill with a normal distribution."""
    fill(parameter, torch.randn(parameter.shape, generator=generator) * std)


def _uniform(shape: torch.Size, low: float, high: float, generator: Generator) -> Tensor:
    return torch.rand(shape, generator=generator) * (high - low) + low
