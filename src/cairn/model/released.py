"""ModelConfig to and from the config.json of released nemotron_h checkpoints. No torch.

Several spellings are about: NVIDIA's (`hybrid_override_pattern`, `attention_head_dim`) and those
that transformers writes (`layers_block_type` or `layer_types`, `head_dim`). All are read.
"""

import json
from pathlib import Path
from typing import Any

from cairn.base.errors import UserError
from cairn.model.config import FAMILIES, ModelConfig, unsupported_family

# Written as time_step_min: transformers clamps the time step from below by it over a whole
# sequence but not token by token; a negligible value makes the two agree with each other and us.
NEGLIGIBLE_TIME_STEP = 1e-12

_WIDTHS = {
    "vocab_size": ("vocab_size",),
    "hidden_size": ("hidden_size",),
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
    "max_positions": ("max_position_embeddings",),
}
_OPTIONAL = {
    "norm_eps": ("layer_norm_epsilon", "rms_norm_eps"),
    "tie_embeddings": ("tie_word_embeddings",),
    "initializer_range": ("initializer_range",),
    "bos_token_id": ("bos_token_id",),
    "pad_token_id": ("pad_token_id",),
}
_LAYER_TYPES = {
    "linear_attention": "M",
    "mamba": "M",
    "mamba2": "M",
    "full_attention": "*",
    "attention": "*",
    "mlp": "-",
}
# What this decoder computes; a checkpoint that says otherwise would load and be wrong.
_FIXED: dict[str, tuple[Any, ...]] = {
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
}


def read_config(folder: Path) -> ModelConfig:
    """The configuration in a checkpoint folder, named after the folder."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError("checkpoint", str(folder), "has no config.json", "give a model's folder")
    try:
        released = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): write it anew") from None
    if not isinstance(released, dict):
        raise UserError(f"{path} holds no JSON object: write it anew")
    try:
        config = from_released(released)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    object.__setattr__(config, "name", folder.resolve().name)
    return config


def from_released(released: dict[str, Any]) -> ModelConfig:
    """Read config.json's contents; UserError for a family or a feature this decoder has not."""
    if released.get("model_type") not in FAMILIES:
        raise unsupported_family(released.get("model_type"))
    for key, allowed in _FIXED.items():
        if key in released and released[key] not in allowed:
            mend = f"only {allowed[0]!r} is supported"
            raise UserError(key, released[key], "is not what this decoder computes", mend)
    _check_time_step_limit(released.get("time_step_limit"))
    found: dict[str, Any] = {"pattern": _pattern(released)}
    for ours, names in _WIDTHS.items():
        found[ours] = _first(released, names)
        if found[ours] is None:
            raise UserError(names[0], None, "is missing from the configuration", "add it")
    for ours, names in _OPTIONAL.items():
        value = _first(released, names)
        if value is not None:
            found[ours] = value
    eos = released.get("eos_token_id")
    if eos is not None:
        found["eos_token_ids"] = tuple(eos) if isinstance(eos, list) else (eos,)
    return ModelConfig(**found)


def to_released(config: ModelConfig) -> dict[str, Any]:
    """Contents of config.json that transformers, and servers that know nemotron_h, read."""
    eos = list(config.eos_token_ids)
    plain: dict[str, Any] = {
        "architectures": ["NemotronHForCausalLM"],
        "model_type": "nemotron_h",
        "hybrid_override_pattern": config.pattern,
        "num_hidden_layers": config.layers,
        "expand": max(1, round(config.mamba_width / config.hidden_size)),
        "rms_norm_eps": config.norm_eps,
        "attention_head_dim": config.head_dim,
        "mamba_ssm_cache_dtype": "float32",
        "eos_token_id": eos[0] if len(eos) == 1 else eos,
        "rescale_prenorm_residual": True,
        "time_step_min": NEGLIGIBLE_TIME_STEP,
        "time_step_max": 0.1,
        "time_step_floor": 1e-4,
        "use_cache": True,
    }
    for ours, names in (_WIDTHS | _OPTIONAL).items():
        plain[names[0]] = getattr(config, ours)
    for key, allowed in _FIXED.items():
        plain[key] = allowed[0]
    return plain


def _first(released: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((released[name] for name in names if released.get(name) is not None), None)


def _pattern(released: dict[str, Any]) -> str:
    """The string of mixers, from a list of layer types or from the pattern string."""
    types = _first(released, ("layers_block_type", "layer_types"))
    if types is None:
        pattern = released.get("hybrid_override_pattern")
        if not isinstance(pattern, str):
            problem = "is missing, and no layers_block_type either"
            raise UserError("hybrid_override_pattern", pattern, problem, "add it")
        return pattern
    unknown = sorted({str(name) for name in types} - set(_LAYER_TYPES))
    if unknown:
        known = ", ".join(_LAYER_TYPES)
        raise UserError("layers_block_type", unknown, "has unknown layers", f"known: {known}")
    return "".join(_LAYER_TYPES[name] for name in types)


def _check_time_step_limit(limit: Any) -> None:
    """Only (0, infinity): the time step is not clamped."""
    if limit is None:
        return
    low, high = limit
    if isinstance(high, dict):  # how transformers spells what JSON cannot
        high = high.get("__float__", 0)
    if float(low) != 0 or float(high) != float("inf"):
        raise UserError("time_step_limit", limit, "clamps the time step", "only (0, inf) is known")
