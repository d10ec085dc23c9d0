"""The Mamba-2 mixer, with the parameter names of released nemotron_h checkpoints.

Legend: T tokens, D width.
"""

import math

import torch
from torch import Generator, Tensor, nn

from cairn.model.cache import Recurrence
from cairn.model.config import ModelConfig
from cairn.model.initial import fill, normal, residual_std, uniform
from cairn.model.layout import Layout
from cairn.model.linear import Linear
from cairn.model.norms import RMSNorm
from cairn.model.parts import parameter, part
from cairn.ops.mamba import MixerForm, MixerWeights, mamba_inner

DT_RANGE = (1e-3, 1e-1)  # time steps that fresh models begin with, log-uniform
DT_FLOOR = 1e-4
A_RANGE = (1.0, 16.0)  # decay rates that fresh models begin with, uniform


class Mamba2(nn.Module):
    """State-space mixer (arXiv 2405.21060, section 7), with a gated grouped norm at its end."""

    keep_fp32 = ("A_log", "D", "dt_bias")  # they are exponentiated, or tiny, or both

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.form = MixerForm(
            config.groups, config.gated_norm_groups, config.norm_eps, config.time_step_limit
        )
        inner, channels = config.mamba_width, config.conv_channels
        self.in_proj = Linear(config.hidden_size, config.mamba_projection, bias=False)
        self.conv1d = nn.Conv1d(channels, channels, config.conv_kernel, groups=channels)
        self.A_log = nn.Parameter(torch.empty(config.mamba_heads))
        self.D = nn.Parameter(torch.empty(config.mamba_heads))
        self.dt_bias = nn.Parameter(torch.empty(config.mamba_heads))
        self.norm = RMSNorm(inner, config.norm_eps)
        self.out_proj = Linear(inner, config.hidden_size, bias=False)

    def initialise(self, generator: Generator) -> None:
        """Linears normal; decay and time step log- or uniformly spread, as in the paper."""
        normal(self.in_proj.weight, self.config.initializer_range, generator)
        normal(self.out_proj.weight, residual_std(self.config), generator)
        bound = 1 / math.sqrt(self.config.conv_kernel)
        for drawn in (self.conv1d.weight, self.conv1d.bias):
            assert drawn is not None
            fill(drawn, uniform(drawn.shape, -bound, bound, generator))
        fill(self.A_log, uniform(self.A_log.shape, *A_RANGE, generator).log())
        fill(self.D, torch.ones(self.D.shape))
        low, high = (math.log(limit) for limit in DT_RANGE)
        dt = uniform(self.dt_bias.shape, low, high, generator).exp().clamp(min=DT_FLOOR)
        fill(self.dt_bias, dt + torch.log(-torch.expm1(-dt)))  # softplus of it is dt

    @property
    def weights(self) -> MixerWeights:
        """All parameters but the two matrices."""
        conv = part(self, "conv1d")
        return MixerWeights(
            parameter(conv, "weight"),
            parameter(conv, "bias"),
            parameter(self, "A_log"),
            parameter(self, "D"),
            parameter(self, "dt_bias"),
            parameter(part(self, "norm"), "weight"),
        )

    def forward(self, x: Tensor, layout: Layout, memory: Recurrence | None) -> Tensor:
        """x [T, D] to [T, D]; reads and writes the spans' slots in `memory`."""
        config = self.config
        sizes = [config.mamba_width, config.conv_channels, config.mamba_heads]
        parts = part(self, "in_proj")(x).split_with_sizes(sizes, -1)
        return part(self, "out_proj")(layout.through(self._between, parts, memory))

    def _between(
        self, parts: tuple[Tensor, ...], layout: Layout, memory: Recurrence | None
    ) -> Tensor:
        """Convolution, scan, gate and norm of gate, channels and time steps."""
        z, xbc, dt = parts
        chunks, slots = layout.chunks, layout.memory_slots
        assert chunks is not None
        weights = self.weights
        return mamba_inner(z, xbc, dt, weights, self.form, chunks, memory, slots, layout.context)
