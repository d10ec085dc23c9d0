"""The architectures that are configurations of this decoder, each as one table. No torch.

A family says how the fields of ModelConfig are spelled in its config.json, which of them it has
fixed, what silence means, and what its parameters are called. One layer of a dense transformer is
two of ours: attention, then feed-forward.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cairn.base.errors import UserError

# Written as time_step_min: transformers clamps the time step from below by it over a whole
# sequence but not token by token; a negligible value makes the two agree with each other and us.
NEGLIGIBLE_TIME_STEP = 1e-12

# Whose values are the family's own and cannot be had by another one's config.json.
STRUCTURE = (
    "qkv_bias",
    "output_bias",
    "mlp_bias",
    "qk_norm",
    "rope_theta",
    "rope_scaling",
    "sliding_window",
    "full_attention",
    "norm",
    "activation",
    "gated",
    "norm_groups",
    "residual_fp32",
    "time_step_limit",
)


@dataclass(frozen=True, kw_only=True)
class Family:
    """An architecture by its `model_type`."""

    name: str
    architecture: str
    layer: str
    """Our mixers in one of its layers; empty where its config.json has the whole pattern."""
    fields: Mapping[str, tuple[str, ...]]
    """Our field to its spellings; the first is written, the first that is there is read."""
    silent: Mapping[str, Any]
    """Our field to what holds where config.json does not say it."""
    fixed: Mapping[str, Any]
    """Fields of `STRUCTURE` that are not ModelConfig's default, and cannot be changed."""
    output_copied: bool = False
    """Whether transformers looks for the output matrix although it is the embedding."""
    rope: bool = False
    clamps: bool = False
    """Whether its `time_step_limit` clamps time steps."""
    windows: str = ""
    """`all` attention layers have the window, or `some` by a list of layer types."""
    allowed: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Entries of config.json that this decoder computes with these values only."""
    written: Mapping[str, Any] = field(default_factory=dict)
    """Further entries that others need."""
    names: tuple[tuple[str, str], ...]
    """(its prefix, ours) of parameters, in the order in which reading tries them; `{}` is the
    number of a layer, and after `{}+1` that of the second mixer of it."""

    def says(self, name: str) -> bool:
        """Whether its config.json can hold a field of `STRUCTURE`."""
        rope = self.rope and name in ("rope_theta", "rope_scaling")
        window = name == "sliding_window" and bool(self.windows)
        some = name == "full_attention" and self.windows == "some"
        clamp = name == "time_step_limit" and self.clamps
        return name in self.fields or rope or window or some or clamp


_SIZES: dict[str, tuple[str, ...]] = {
    "vocab_size": ("vocab_size",),
    "hidden_size": ("hidden_size",),
    "max_positions": ("max_position_embeddings",),
    "tie_embeddings": ("tie_word_embeddings",),
    "initializer_range": ("initializer_range",),
    "bos_token_id": ("bos_token_id",),
    "pad_token_id": ("pad_token_id",),
}
_DENSE = _SIZES | {
    "intermediate_size": ("intermediate_size",),
    "attention_heads": ("num_attention_heads",),
    "key_value_heads": ("num_key_value_heads",),
    "head_dim": ("head_dim",),
}
_DENSE_SILENT: dict[str, Any] = {
    "max_positions": 32_768,
    "tie_embeddings": False,
    "initializer_range": 0.02,
    "norm_eps": 1e-6,
    "bos_token_id": None,
    "pad_token_id": None,
    "qkv_bias": False,
    "output_bias": False,
    "mlp_bias": False,
}
_SWIGLU = {"activation": "silu", "gated": True}
_BACKBONE = (
    ("backbone.embeddings", "backbone.embeddings"),
    ("backbone.embedding", "backbone.embeddings"),
    ("backbone.layers.{}", "backbone.layers.{}"),
    ("backbone.norm_f", "backbone.norm_f"),
    ("lm_head", "lm_head"),
    ("model.embeddings", "backbone.embeddings"),
    ("model.embedding", "backbone.embeddings"),
    ("model.layers.{}", "backbone.layers.{}"),
    ("model.norm_f", "backbone.norm_f"),
)


def _transformer(up: str = "up_proj", down: str = "down_proj") -> tuple[tuple[str, str], ...]:
    return (
        ("model.embed_tokens", "backbone.embeddings"),
        ("model.layers.{}.input_layernorm", "backbone.layers.{}.norm"),
        ("model.layers.{}.self_attn", "backbone.layers.{}.mixer"),
        ("model.layers.{}.post_attention_layernorm", "backbone.layers.{}+1.norm"),
        (f"model.layers.{{}}.mlp.{up}", "backbone.layers.{}+1.mixer.up_proj"),
        (f"model.layers.{{}}.mlp.{down}", "backbone.layers.{}+1.mixer.down_proj"),
        ("model.layers.{}.mlp.gate_proj", "backbone.layers.{}+1.mixer.gate_proj"),
        ("model.norm", "backbone.norm_f"),
        ("lm_head", "lm_head"),
    )


_ALL = (
    Family(
        name="nemotron_h",
        architecture="NemotronHForCausalLM",
        layer="",
        output_copied=True,
        fields=_SIZES
        | {
            "intermediate_size": ("intermediate_size",),
            "attention_heads": ("num_attention_heads",),
            "key_value_heads": ("num_key_value_heads",),
            "head_dim": ("head_dim", "attention_head_dim"),
            "mamba_heads": ("mamba_num_heads",),
            "mamba_head_dim": ("mamba_head_dim",),
            "state_size": ("ssm_state_size",),
            "groups": ("n_groups", "mamba_n_groups"),
            "conv_kernel": ("conv_kernel", "mamba_d_conv"),
            "chunk_size": ("chunk_size", "mamba_chunk_size"),
            "norm_eps": ("layer_norm_epsilon", "rms_norm_eps"),
        },
        silent={
            "tie_embeddings": False,
            "initializer_range": 0.02,
            "norm_eps": 1e-5,
            "bos_token_id": 1,
            "pad_token_id": 0,
        },
        fixed={},
        allowed={
            "use_bias": (False,),
            "mlp_bias": (False,),
            "attention_bias": (False,),
            "mamba_proj_bias": (False,),
            "use_conv_bias": (True,),
            "mlp_hidden_act": ("relu2",),
            "mamba_hidden_act": ("silu",),
            "sliding_window": (None,),
            "residual_in_fp32": (False,),
            "num_nextn_predict_layers": (0, None),
        },
        written={
            "mamba_ssm_cache_dtype": "float32",
            "rescale_prenorm_residual": True,
            "time_step_min": NEGLIGIBLE_TIME_STEP,
            "time_step_max": 0.1,
            "time_step_floor": 1e-4,
            "use_cache": True,
        },
        names=_BACKBONE,
    ),
    Family(
        name="mamba2",
        architecture="Mamba2ForCausalLM",
        layer="M",
        fields=_SIZES
        | {
            "mamba_heads": ("num_heads",),
            "mamba_head_dim": ("head_dim",),
            "state_size": ("state_size",),
            "groups": ("n_groups",),
            "conv_kernel": ("conv_kernel",),
            "chunk_size": ("chunk_size",),
            "norm_eps": ("layer_norm_epsilon",),
            "residual_fp32": ("residual_in_fp32",),
        },
        silent={
            "max_positions": 8192,
            "tie_embeddings": False,
            "initializer_range": 0.1,
            "norm_eps": 1e-5,
            "bos_token_id": 0,
            "pad_token_id": 1,
            "residual_fp32": True,
        },
        fixed={"norm_groups": 1},
        clamps=True,
        allowed={
            "use_bias": (False,),
            "use_conv_bias": (True,),
            "hidden_act": ("silu",),
        },
        written={"time_step_min": 0.001, "time_step_max": 0.1, "use_cache": True},
        names=_BACKBONE,
    ),
    Family(
        name="starcoder2",
        architecture="Starcoder2ForCausalLM",
        layer="*-",
        fields=_DENSE
        | {
            "norm_eps": ("norm_epsilon",),
            "qkv_bias": ("use_bias",),
            "output_bias": ("use_bias",),
            "mlp_bias": ("use_bias",),
        },
        silent=_DENSE_SILENT
        | {
            "max_positions": 4096,
            "tie_embeddings": True,
            "initializer_range": 0.018042,
            "norm_eps": 1e-5,
            "bos_token_id": 0,
            "qkv_bias": True,
            "output_bias": True,
            "mlp_bias": True,
        },
        fixed={"norm": "layer", "activation": "gelu_tanh"},
        rope=True,
        windows="all",
        allowed={"hidden_act": ("gelu_pytorch_tanh",)},
        written={"use_cache": True},
        names=_transformer("c_fc", "c_proj"),
    ),
    Family(
        name="llama",
        architecture="LlamaForCausalLM",
        layer="*-",
        fields=_DENSE
        | {
            "norm_eps": ("rms_norm_eps",),
            "qkv_bias": ("attention_bias",),
            "output_bias": ("attention_bias",),
            "mlp_bias": ("mlp_bias",),
        },
        silent=_DENSE_SILENT | {"max_positions": 2048, "bos_token_id": 1},
        fixed=_SWIGLU,
        rope=True,
        allowed={"hidden_act": ("silu",), "pretraining_tp": (1, None)},
        written={"use_cache": True},
        names=_transformer(),
    ),
    Family(
        name="qwen2",
        architecture="Qwen2ForCausalLM",
        layer="*-",
        fields=_DENSE | {"norm_eps": ("rms_norm_eps",)},
        silent=_DENSE_SILENT,
        fixed=_SWIGLU | {"qkv_bias": True},
        rope=True,
        windows="some",
        allowed={"hidden_act": ("silu",)},
        written={"use_cache": True},
        names=_transformer(),
    ),
    Family(
        name="qwen3",
        architecture="Qwen3ForCausalLM",
        layer="*-",
        fields=_DENSE
        | {
            "norm_eps": ("rms_norm_eps",),
            "qkv_bias": ("attention_bias",),
            "output_bias": ("attention_bias",),
        },
        silent=_DENSE_SILENT | {"head_dim": 128},
        fixed=_SWIGLU | {"qk_norm": True},
        rope=True,
        windows="some",
        allowed={"hidden_act": ("silu",)},
        written={"use_cache": True},
        names=_transformer(),
    ),
)
FAMILIES: dict[str, Family] = {family.name: family for family in _ALL}


def family_of(model_type: object) -> Family:
    """By name; UserError for an architecture that is not (yet) a configuration of this decoder."""
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise UserError("model_type", model_type, "is not supported", f"known: {known}")
    return FAMILIES[model_type]


def check(family: Family, values: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """UserError where a configuration has what its family's config.json could not say."""
    pattern = values["pattern"]
    size = len(family.layer)
    if family.layer and pattern != family.layer * (len(pattern) // size):
        mend = f"repeat {family.layer!r}, or set family='nemotron_h'"
        raise UserError("pattern", pattern, f"is not one of {family.name}", mend)
    if family.rope and values["rope_theta"] is None:
        raise UserError("rope_theta", None, f"is needed: {family.name} has positions", "10000.0")
    inside = family.name == "mamba2" and values["mamba_heads"] * values["mamba_head_dim"]
    if inside and inside % values["hidden_size"]:
        problem = f"is no divisor of mamba_heads * mamba_head_dim = {inside}"
        mend = "mamba2 has a whole multiple; nemotron_h has any"
        raise UserError("hidden_size", values["hidden_size"], problem, mend)
    for name in STRUCTURE:
        wanted = family.fixed.get(name, defaults[name])
        if not family.says(name) and values[name] != wanted:
            mend = f"set {wanted!r}, or another family"
            raise UserError(name, values[name], f"is not what {family.name} has", mend)
    together: dict[str, str] = {}
    for name, spellings in family.fields.items():
        other = together.setdefault(spellings[0], name)
        if values[name] != values[other]:
            problem = f"is another than {other}={values[other]!r}"
            mend = f"{family.name} has one {spellings[0]} for both"
            raise UserError(name, values[name], problem, mend)


# -- names of parameters -----------------------------------------------------------------------


def our_name(family: Family, stored: str) -> str | None:
    """Our name of a stored parameter; None where the family has none of that name."""
    for theirs, ours in family.names:
        found = _renamed(stored, theirs, ours, max(1, len(family.layer)), reading=True)
        if found is not None:
            return found
    return None


def their_name(family: Family, name: str) -> str:
    """The name under which a parameter of ours is stored."""
    for theirs, ours in family.names:
        found = _renamed(name, ours, theirs, max(1, len(family.layer)), reading=False)
        if found is not None:
            return found
    raise KeyError(name)


def _renamed(name: str, before: str, after: str, size: int, reading: bool) -> str | None:
    """`name` with the prefix `before` replaced by `after`; None where it has another prefix.

    `size` mixers of ours are one layer of theirs.
    """
    if "{}" not in before:
        rest = name.removeprefix(before)
        return after + rest if rest != name and rest.startswith(".") else None
    ours = after if reading else before
    place = 1 if "{}+1" in ours else 0
    before, after = before.replace("{}+1", "{}"), after.replace("{}+1", "{}")
    head, tail = before.split("{}")
    rest = name.removeprefix(head)
    number, dot, leaf = rest.partition(".")
    if rest == name or not number.isdecimal():
        return None
    leaf = dot + leaf
    if not leaf.startswith(tail) or leaf[len(tail) : len(tail) + 1] not in (".", ""):
        return None
    layer = int(number) * size + place if reading else int(number)
    if not reading and layer % size != place:
        return None
    return after.format(layer if reading else layer // size) + leaf[len(tail) :]
