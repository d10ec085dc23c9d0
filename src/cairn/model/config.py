"""ModelConfig: a string of mixers and its widths; every count in closed form. No torch."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from cairn.base.config import LATER
from cairn.base.errors import UserError
from cairn.model import counts
from cairn.model.families import check, family_of
from cairn.model.kinds import check_kind
from cairn.model.rope import RopeScaling

MIXERS = {"M": "Mamba-2", "*": "attention", "-": "feed-forward"}

_POSITIVE = ("hidden_size", "max_positions", "conv_kernel", "chunk_size")
_NEEDED = {  # by the mixers that have them
    "M": ("mamba_heads", "mamba_head_dim", "state_size", "groups"),
    "*": ("attention_heads", "key_value_heads", "head_dim"),
    "-": ("intermediate_size",),
}


# Of fields that recipes made before them did not have: no part of a digest at their default.
_LATER = {LATER: True}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A decoder: one mixer per layer, each behind a norm and added to the residual stream.

    The defaults are Nemotron-H's: attention without positions (the Mamba-2 layers carry order), a
    feed-forward of squared ReLU without a gate, RMSNorm, no bias but the convolution's. A dense
    transformer is `*-*-*-`. Raises UserError for widths that do not fit together, and for what the
    family's config.json could not say.
    """

    pattern: str
    """One letter a layer: `M` Mamba-2, `*` attention, `-` feed-forward."""
    vocab_size: int = 131_072
    """Rows of the embedding; 0 stands for the tokenizer's, which is not known yet."""
    hidden_size: int
    """Width of the residual stream."""
    intermediate_size: int = 0
    """Width inside the feed-forward."""
    attention_heads: int = 0
    """Query heads; their total width need not equal `hidden_size`."""
    key_value_heads: int = 0
    """Key and value heads, each shared by `attention_heads / key_value_heads` query heads."""
    head_dim: int = 128
    """Width of an attention head."""
    mamba_heads: int = 0
    """Heads of a Mamba-2 mixer."""
    mamba_head_dim: int = 64
    """Width of a Mamba-2 head (P)."""
    state_size: int = 128
    """Columns of a Mamba-2 head's state (N)."""
    groups: int = 8
    """Groups of Mamba-2 heads that share B and C, and slices of the gated norm."""
    conv_kernel: int = 4
    """Taps of the causal depthwise convolution."""
    chunk_size: int = 128
    """Tokens that the scan treats at a time; changes speed, not results."""
    norm_eps: float = 1e-5
    """Added to the mean square in every norm."""
    max_positions: int = 8192
    """Context length that the model was trained for, in tokens."""
    tie_embeddings: bool = False
    """Whether the output matrix is the embedding."""
    initializer_range: float = 0.02
    """Standard deviation of freshly drawn linear weights."""
    bos_token_id: int | None = 1
    """Id of the token that begins a text."""
    eos_token_ids: tuple[int, ...] = (2,)
    """Ids of the tokens that end a generation."""
    pad_token_id: int | None = 0
    """Id of the token that fills up a batch."""
    family: str = "nemotron_h"
    """The architecture, by its name in a released config.json."""
    rope_theta: float | None = field(default=None, metadata=_LATER)
    """Base of rotary positions; None: attention has no positions."""
    rope_scaling: RopeScaling | None = field(default=None, metadata=_LATER)
    """How rotary positions are stretched for long texts."""
    sliding_window: int | None = field(default=None, metadata=_LATER)
    """Tokens that attention sees, its own included; None is all before it."""
    full_attention: tuple[int, ...] = field(default=(), metadata=_LATER)
    """Attention layers, counted among themselves, that have no window in spite of it."""
    norm: Literal["rms", "layer"] = field(default="rms", metadata=_LATER)
    """RMSNorm, or LayerNorm (with a bias)."""
    activation: Literal["relu2", "gelu_tanh", "silu"] = field(default="relu2", metadata=_LATER)
    """Of the feed-forward."""
    gated: bool = field(default=False, metadata=_LATER)
    """Whether the activation is of a gate that multiplies the feed-forward's input side."""
    qkv_bias: bool = field(default=False, metadata=_LATER)
    """Whether queries, keys and values have a bias."""
    output_bias: bool = field(default=False, metadata=_LATER)
    """Whether attention's output has a bias."""
    mlp_bias: bool = field(default=False, metadata=_LATER)
    """Whether the feed-forward's matrices have a bias."""
    qk_norm: bool = field(default=False, metadata=_LATER)
    """Whether queries and keys pass an RMSNorm, head by head, before they are turned."""
    norm_groups: int | None = field(default=None, metadata=_LATER)
    """Slices of the gated norm in a Mamba-2 mixer where they are not `groups`."""
    residual_fp32: bool = field(default=False, metadata=_LATER)
    """Whether the residual stream is in fp32, whatever the weights are."""
    time_step_limit: tuple[float, float] | None = field(default=None, metadata=_LATER)
    """Bounds that the time steps of Mamba-2 mixers are clamped to; None where they are not."""
    name: str = field(default="", compare=False)
    """What people call it; no part of the model."""

    def __post_init__(self) -> None:
        for one in fields(self):
            check_kind(one.name, getattr(self, one.name), one.type)
        for end in self.eos_token_ids:
            check_kind("eos_token_ids", end, int)
        self._check_pattern()
        needed = [key for letter in _NEEDED if letter in self.pattern for key in _NEEDED[letter]]
        for key in (*_POSITIVE, *needed):
            value = getattr(self, key)
            if value < 1:
                raise UserError(key, value, "is not a positive whole number", "give 1 or more")
        if self.vocab_size < 0:
            value = self.vocab_size
            raise UserError("vocab_size", value, "is no number of tokens", "give 1 or more")
        if "*" in self.pattern:
            self._check_multiple("attention_heads", "key_value_heads")
        if "M" in self.pattern:
            self._check_multiple("mamba_heads", "groups")
        if self.conv_kernel < 2:
            raise UserError("conv_kernel", self.conv_kernel, "looks at no past", "give 2 or more")
        if not self.norm_eps > 0:
            raise UserError("norm_eps", self.norm_eps, "is not positive", "1e-5 is usual")
        if not self.initializer_range > 0:
            value = self.initializer_range
            raise UserError("initializer_range", value, "is not positive", "0.02 is usual")
        self._check_attention()
        if (
            self.time_step_limit is not None
            and not 0 <= self.time_step_limit[0] < (self.time_step_limit[1])
        ):
            problem, mend = "has no room between its bounds", "give a low and a higher one"
            raise UserError("time_step_limit", self.time_step_limit, problem, mend)
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        check(family_of(self.family), values, _DEFAULTS)

    def _check_multiple(self, whole: str, part: str) -> None:
        if getattr(self, whole) % getattr(self, part):
            problem = f"is not a multiple of {part}={getattr(self, part)}"
            raise UserError(whole, getattr(self, whole), problem, "change one of them")

    def _check_pattern(self) -> None:
        wrong = sorted(set(self.pattern) - set(MIXERS))
        if wrong or not self.pattern:
            problem = f"has unknown layers {''.join(wrong)!r}" if wrong else "has no layer"
            known = ", ".join(f"{letter!r} {what}" for letter, what in MIXERS.items())
            raise UserError("pattern", self.pattern, problem, f"write one of {known} for each")

    def _check_attention(self) -> None:
        if self.rope_theta is not None:
            if not self.rope_theta > 1:
                raise UserError("rope_theta", self.rope_theta, "is no base", "10000 is usual")
            if self.head_dim % 2:
                raise UserError("head_dim", self.head_dim, "is odd", "positions turn pairs")
        window = self.sliding_window
        if window is not None and window < 1:
            raise UserError("sliding_window", window, "sees nothing", "give 1 or more, or None")
        beyond = [n for n in self.full_attention if not 0 <= n < self.count("*")]
        if beyond:
            problem = f"names layers that are not there: there are {self.count('*')}"
            raise UserError("full_attention", beyond, problem, "count attention layers from 0")

    # -- derived widths ------------------------------------------------------------------------

    @property
    def layers(self) -> int:
        """Number of mixers."""
        return len(self.pattern)

    @property
    def mamba_width(self) -> int:
        """Width inside a Mamba-2 mixer (heads times head width; not always 2 * hidden_size)."""
        return self.mamba_heads * self.mamba_head_dim

    @property
    def conv_channels(self) -> int:
        """Channels of the convolution: x, B and C side by side."""
        return self.mamba_width + 2 * self.groups * self.state_size

    @property
    def mamba_projection(self) -> int:
        """Rows of in_proj: z, x, B, C and dt side by side."""
        return self.mamba_width + self.conv_channels + self.mamba_heads

    @property
    def query_width(self) -> int:
        """Width of all query heads together."""
        return self.attention_heads * self.head_dim

    @property
    def key_value_width(self) -> int:
        """Width of all key heads (or all value heads) together."""
        return self.key_value_heads * self.head_dim

    @property
    def gated_norm_groups(self) -> int:
        """Slices of the gated norm in a Mamba-2 mixer."""
        return self.norm_groups or self.groups

    @property
    def turned(self) -> bool:
        """Whether attention turns queries and keys by their positions."""
        return self.rope_theta is not None and "*" in self.pattern

    @property
    def windows(self) -> tuple[int | None, ...]:
        """The window of each attention layer in order; None where it sees everything."""
        full = set(self.full_attention)
        return tuple(
            None if number in full else self.sliding_window for number in range(self.count("*"))
        )

    @property
    def start_token_id(self) -> int:
        """What an empty text begins with: its beginning, or the end of the text before it."""
        return next((i for i in (self.bos_token_id, *self.eos_token_ids) if i is not None), 0)

    # -- counts (formulas are in `counts`) -----------------------------------------------------

    def count(self, letter: str) -> int:
        """How many layers are of one kind."""
        return self.pattern.count(letter)

    def layer_parameters(self, letter: str) -> int:
        """Parameters of one layer of a kind, its block norm included."""
        return counts.layer_parameters(self, letter)

    @property
    def embedding_parameters(self) -> int:
        """Parameters of the input and output matrices."""
        return self.vocab_size * self.hidden_size * (1 if self.tie_embeddings else 2)

    @property
    def parameters_without_embeddings(self) -> int:
        """Parameters of all layers and the last norm."""
        mixers = sum(self.count(letter) * self.layer_parameters(letter) for letter in MIXERS)
        return mixers + counts.norm_parameters(self)

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.parameters_without_embeddings + self.embedding_parameters

    @property
    def tensors(self) -> int:
        """Tensors of the model."""
        return counts.tensors(self)

    def kv_bytes_per_token(self, element_bytes: int = 2) -> int:
        """Bytes of keys and values that one token costs, over all layers (and windows it is in)."""
        return self.count("*") * 2 * self.key_value_width * element_bytes

    def state_bytes_per_sequence(self, element_bytes: int = 2) -> int:
        """Bytes that one sequence costs at any length: fp32 states, and convolution windows."""
        return counts.state_bytes(self) + counts.window_bytes(self, element_bytes)

    def matmul_flops_per_token(self) -> int:
        """Forward FLOPs of one token in projections, convolutions and the output matrix."""
        return counts.matmul_flops(self)

    def attention_flops_per_token(self, context: int) -> int:
        """Forward FLOPs of one new token that attends to `context` tokens."""
        return counts.attention_flops(self, context)

    def scan_flops_per_token(self) -> int:
        """Forward FLOPs of one token in the chunked scans."""
        return counts.scan_flops(self)

    def facts(self, context: int = 8192, batch: int = 1, weight_bytes: int = 2) -> dict[str, Any]:
        """Size and cost, for `batch` sequences of `context` tokens, `weight_bytes` an element."""
        return counts.facts(self, context, batch, weight_bytes)

    # -- where configurations come from --------------------------------------------------------

    @classmethod
    def presets(cls) -> tuple[str, ...]:
        """The names that `preset` knows."""
        from cairn.model.presets import PRESETS

        return tuple(PRESETS)

    @classmethod
    def preset(cls, name: str) -> "ModelConfig":
        """A released model by name; UserError with the nearest name for an unknown one."""
        from cairn.model.presets import preset

        return preset(name)

    @classmethod
    def from_json(cls, released: dict[str, Any]) -> "ModelConfig":
        """From the contents of a released config.json, in any of its spellings."""
        from cairn.model.released import from_released

        return from_released(released)

    def to_json(self) -> dict[str, Any]:
        """The contents of config.json as transformers and common servers read it."""
        from cairn.model.released import to_released

        return to_released(self)

    @classmethod
    def from_folder(cls, folder: str | Path) -> "ModelConfig":
        """From a checkpoint folder's config.json; UserError where that is absent or broken."""
        from cairn.model.released import read_config

        return read_config(Path(folder))


_DEFAULTS = {f.name: f.default for f in fields(ModelConfig)}
