"""The attention mixer, with the parameter names of released nemotron_h checkpoints.

Legend: T tokens, D width.
"""

from torch import Generator, Tensor, nn

from cairn.model.cache import KeyValues
from cairn.model.config import ModelConfig
from cairn.model.initial import fill_bias, normal, residual_std
from cairn.model.joined import products
from cairn.model.layout import Layout
from cairn.model.linear import Linear
from cairn.model.norms import RMSNorm
from cairn.model.paging import PagePlan
from cairn.model.parts import parameter, part
from cairn.ops.attention import attention
from cairn.ops.context import Keys
from cairn.ops.rotary import rotate


class Attention(nn.Module):
    """Causal attention with grouped queries.

    As the configuration says: with rotary positions or none, biases, and an RMSNorm of each query
    and key head. `window` is how many tokens a token sees, its own included; None is all.
    """

    keep_fp32 = ()

    def __init__(self, config: ModelConfig, window: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.window = window
        d, bias = config.hidden_size, config.qkv_bias
        self.q_proj = Linear(d, config.query_width, bias=bias)
        self.k_proj = Linear(d, config.key_value_width, bias=bias)
        self.v_proj = Linear(d, config.key_value_width, bias=bias)
        self.o_proj = Linear(config.query_width, d, bias=config.output_bias)
        self.q_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else None

    def initialise(self, generator: Generator) -> None:
        """Normal; the output narrower by the depth; biases zero."""
        for linear in (self.q_proj, self.k_proj, self.v_proj):
            normal(linear.weight, self.config.initializer_range, generator)
            fill_bias(linear)
        normal(self.o_proj.weight, residual_std(self.config), generator)
        fill_bias(self.o_proj)

    @property
    def together(self) -> tuple[Linear, ...]:
        """What multiplies the same rows: see `model.joined`."""
        return part(self, "q_proj"), part(self, "k_proj"), part(self, "v_proj")

    def forward(self, x: Tensor, layout: Layout, memory: KeyValues | None) -> Tensor:
        """x [T, D] to [T, D]; appends to the spans' slots in `memory` and attends to them."""
        parts = products(x, *self.together)
        if memory is not None and layout.context is None:
            return part(self, "o_proj")(layout.through(self._remembering, parts, memory))
        q, k, v = map(self._heads, parts)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if layout.turns is not None:
            q, k = rotate(q, k, *layout.turns)
        plan = layout.attention[self.window]
        if layout.context is not None:
            keys = Keys(k, v, plan.lengths, layout.context)
            return self.o_proj(attention(q, *keys.flat, plan, keys.read).flatten(1))
        return self.o_proj(attention(q, k, v, plan).flatten(1))

    def _heads(self, y: Tensor) -> Tensor:
        """[T, heads * width] as [T, heads, width]."""
        tokens, wide = y.shape
        width = self.config.head_dim
        return y.view(tokens, wide // width, width)

    def _remembering(self, parts: tuple[Tensor, ...], layout: Layout, memory: KeyValues) -> Tensor:
        """What new tokens see in the spans' slots, their own keys and values included."""
        q, k, v = map(self._heads, parts)
        where = layout.pages
        assert where is not None
        norms, q_norm, k_norm = None, self.q_norm, self.k_norm
        if q_norm is not None and k_norm is not None:
            if q_norm.listened or k_norm.listened:  # then the calls have to be made
                q, k = q_norm(q), k_norm(k)
            else:
                norms = parameter(q_norm, "weight"), parameter(k_norm, "weight"), q_norm.eps
        q, k = memory.enter(where, (q, k, v), norms, layout.turns)

        def read(spans: tuple[int, ...], start: int, stop: int) -> tuple[Tensor, Tensor]:
            assert isinstance(where, PagePlan)  # those on the device alone are for kernels
            keys, values = memory.read(where, spans, start, stop)
            return keys.to(q.dtype), values.to(q.dtype)

        pages = None if q.is_cpu else memory.paged(where)
        return attention(q, k, v, layout.attention[self.window], read, pages).flatten(1)
