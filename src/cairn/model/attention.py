"""The attention mixer, with the parameter names of released nemotron_h checkpoints.

Legend: T tokens, D width.
"""

from torch import Generator, Tensor, nn

from cairn.model.cache import KeyValues
from cairn.model.config import ModelConfig
from cairn.model.initial import normal, residual_std
from cairn.model.layout import Layout
from cairn.ops.attention import Pages, attention


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

        def read(spans: tuple[int, ...], start: int, stop: int) -> tuple[Tensor, Tensor]:
            keys, values = memory.read([layout.slots[span] for span in spans], stop, start)
            return keys.to(q.dtype), values.to(q.dtype)

        pages = Pages(memory.keys, memory.values, layout.memory_slots.index[:, None])
        return self.o_proj(attention(q, k, v, layout.attention, read, pages).flatten(1))
