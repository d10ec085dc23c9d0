"""The feed-forward mixer, with the parameter names of released nemotron_h checkpoints.

Legend: T tokens, D width.
"""

from torch import Generator, Tensor, nn

from cairn.model.config import ModelConfig
from cairn.model.initial import normal, residual_std
from cairn.model.layout import Layout
from cairn.ops.norm import squared_relu


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
