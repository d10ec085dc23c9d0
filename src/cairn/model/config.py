"""ModelConfig: a string of mixers and its widths; every count in closed form. No torch."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cairn.base.errors import UserError

MIXERS = {"M": "Mamba-2", "*": "attention", "-": "feed-forward"}

_POSITIVE = (
    "hidden_size",
    "intermediate_size",
    "attention_heads",
    "key_value_heads",
    "head_dim",
    "mamba_heads",
    "mamba_head_dim",
    "state_size",
    "groups",
    "conv_kernel",
    "chunk_size",
    "max_positions",
)
STATE_BYTES = 4  # the recurrent state is kept in fp32, whatever the weights are


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A decoder: one mixer per layer, each behind an RMSNorm and added to the residual stream.

    Attention has no position embedding (the Mamba-2 layers carry order); the feed-forward is
    squared ReLU without a gate; nothing has a bias but the convolution.
    Raises UserError for widths that do not fit together.
    """

    pattern: str
    """One letter a layer: `M` Mamba-2, `*` attention, `-` feed-forward."""
    vocab_size: int = 131_072
    """Rows of the embedding; 0 stands for the tokenizer's, which is not known yet."""
    hidden_size: int
    """Width of the residual stream."""
    intermediate_size: int
    """Width inside the feed-forward."""
    attention_heads: int
    """Query heads; their total width need not equal `hidden_size`."""
    key_value_heads: int
    """Key and value heads, each shared by `attention_heads / key_value_heads` query heads."""
    head_dim: int = 128
    """Width of an attention head."""
    mamba_heads: int
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
    """Added to the mean square in every RMSNorm."""
    max_positions: int = 8192
    """Context length that the model was trained for, in tokens."""
    tie_embeddings: bool = False
    """Whether the output matrix is the embedding."""
    initializer_range: float = 0.02
    """Standard deviation of freshly drawn linear weights."""
    bos_token_id: int = 1
    """Id of the token that begins a text."""
    eos_token_ids: tuple[int, ...] = (2,)
    """Ids of the tokens that end a generation."""
    pad_token_id: int = 0
    """Id of the token that fills up a batch."""
    family: str = "nemotron_h"
    """The architecture, by its name in a released config.json."""
    name: str = field(default="", compare=False)
    """What people call it; no part of the model."""

    def __post_init__(self) -> None:
        for key in _POSITIVE:
            value = getattr(self, key)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(key, value, "is not a positive whole number", "give 1 or more")
        if not isinstance(self.vocab_size, int) or self.vocab_size < 0:
            raise UserError(
                "vocab_size", self.vocab_size, "is no number of tokens", "give 1 or more"
            )
        self._check_pattern()
        for whole, part in (
            ("attention_heads", "key_value_heads"),
            ("mamba_heads", "groups"),
        ):
            if getattr(self, whole) % getattr(self, part):
                problem = f"is not a multiple of {part}={getattr(self, part)}"
                raise UserError(whole, getattr(self, whole), problem, "change one of them")
        if self.conv_kernel < 2:
            raise UserError("conv_kernel", self.conv_kernel, "looks at no past", "give 2 or more")
        if not self.norm_eps > 0:
            raise UserError("norm_eps", self.norm_eps, "is not positive", "1e-5 is usual")
        if not self.initializer_range > 0:
            value = self.initializer_range
            raise UserError("initializer_range", value, "is not positive", "0.02 is usual")
        if self.family not in FAMILIES:
            raise unsupported_family(self.family)

    def _check_pattern(self) -> None:
        wrong = sorted(set(self.pattern) - set(MIXERS))
        if wrong or not self.pattern:
            problem = f"has unknown layers {''.join(wrong)!r}" if wrong else "has no layer"
            known = ", ".join(f"{letter!r} {what}" for letter, what in MIXERS.items())
            raise UserError("pattern", self.pattern, problem, f"write one of {known} for each")

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

    # -- counts --------------------------------------------------------------------------------

    def count(self, letter: str) -> int:
        """How many layers are of one kind."""
        return self.pattern.count(letter)

    def layer_parameters(self, letter: str) -> int:
        """Parameters of one layer of a kind, its block norm included."""
        d = self.hidden_size
        if letter == "M":
            conv = (self.conv_kernel + 1) * self.conv_channels
            linear = d * self.mamba_projection + self.mamba_width * d
            return linear + conv + 3 * self.mamba_heads + self.mamba_width + d
        if letter == "*":
            return 2 * d * (self.query_width + self.key_value_width) + d
        return 2 * d * self.intermediate_size + d

    @property
    def embedding_parameters(self) -> int:
        """Parameters of the input and output matrices."""
        return self.vocab_size * self.hidden_size * (1 if self.tie_embeddings else 2)

    @property
    def parameters_without_embeddings(self) -> int:
        """Parameters of all layers and the last norm."""
        mixers = sum(self.count(letter) * self.layer_parameters(letter) for letter in MIXERS)
        return mixers + self.hidden_size

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.parameters_without_embeddings + self.embedding_parameters

    @property
    def tensors(self) -> int:
        """Tensors of the model: 9 for a Mamba-2 layer, 5 for attention, 3 for feed-forward."""
        outer = 2 if self.tie_embeddings else 3
        return 9 * self.count("M") + 5 * self.count("*") + 3 * self.count("-") + outer

    def kv_bytes_per_token(self, element_bytes: int = 2) -> int:
        """Bytes of keys and values that one token of context costs, over all layers."""
        return self.count("*") * 2 * self.key_value_width * element_bytes

    def state_bytes_per_sequence(self, element_bytes: int = 2) -> int:
        """Bytes that one sequence costs at any length: fp32 states, and convolution windows."""
        state = self.mamba_width * self.state_size * STATE_BYTES
        window = self.conv_channels * (self.conv_kernel - 1) * element_bytes
        return self.count("M") * (state + window)

    def matmul_flops_per_token(self) -> int:
        """Forward FLOPs of one token in projections, convolutions and the output matrix."""
        d = self.hidden_size
        mamba = d * self.mamba_projection + self.mamba_width * d
        mamba += self.conv_kernel * self.conv_channels
        attention = 2 * d * (self.query_width + self.key_value_width)
        mlp = 2 * d * self.intermediate_size
        macs = self.count("M") * mamba + self.count("*") * attention + self.count("-") * mlp
        return 2 * (macs + self.vocab_size * d)

    def attention_flops_per_token(self, context: int) -> int:
        """Forward FLOPs of one new token that attends to `context` tokens."""
        return self.count("*") * 4 * self.query_width * context

    def scan_flops_per_token(self) -> int:
        """Forward FLOPs of one token in the chunked scans."""
        quadratic = 2 * self.chunk_size * (self.groups * self.state_size + self.mamba_width)
        return self.count("M") * (quadratic + 4 * self.state_size * self.mamba_width)

    def facts(self, context: int = 8192, batch: int = 1, weight_bytes: int = 2) -> dict[str, Any]:
        """Size and cost, for `batch` sequences of `context` tokens, `weight_bytes` an element."""
        matmul = self.matmul_flops_per_token()
        attention, scan = self.attention_flops_per_token(context), self.scan_flops_per_token()
        weights = self.parameters * weight_bytes
        per_token = self.kv_bytes_per_token(weight_bytes)
        per_sequence = self.state_bytes_per_sequence(weight_bytes)
        return {
            "name": self.name or self.family,
            "pattern": self.pattern,
            "layers": self.layers,
            "mamba_layers": self.count("M"),
            "attention_layers": self.count("*"),
            "mlp_layers": self.count("-"),
            "parameters": self.parameters,
            "parameters_without_embeddings": self.parameters_without_embeddings,
            "tensors": self.tensors,
            "weight_bytes": weights,
            "kv_bytes_per_token": per_token,
            "state_bytes_per_sequence": per_sequence,
            "flops_per_token": matmul + attention + scan,
            "matmul_flops_per_token": matmul,
            "attention_flops_per_token": attention,
            "scan_flops_per_token": scan,
            "context": context,
            "batch": batch,
            "total_bytes": weights + batch * (per_token * context + per_sequence),
        }

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


FAMILIES = ("nemotron_h",)


def unsupported_family(family: object) -> UserError:
    """The refusal of an architecture that is not (or not yet) a configuration of this decoder."""
    return UserError("model_type", family, "is not supported", f"known: {', '.join(FAMILIES)}")
