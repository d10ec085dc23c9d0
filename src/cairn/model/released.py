"""ModelConfig to and from the config.json of released checkpoints, by their family's table.

No torch. Several spellings are about: of nemotron_h NVIDIA's (`hybrid_override_pattern`,
`attention_head_dim`) and those that transformers writes (`layers_block_type` or `layer_types`,
`head_dim`); of rotary positions `rope_theta` with `rope_scaling`, and `rope_parameters`. All are
read.
"""

from collections.abc import Collection
from dataclasses import fields
from math import inf
from pathlib import Path
from typing import Any

from cairn.base.errors import UserError
from cairn.base.files import read_object
from cairn.model.config import ModelConfig
from cairn.model.families import Family, family_of
from cairn.model.kinds import check_kind
from cairn.model.rope import read_rope, write_rope

_LAYER_TYPES = {
    "linear_attention": "M",
    "mamba": "M",
    "mamba2": "M",
    "full_attention": "*",
    "attention": "*",
    "mlp": "-",
}
_KINDS = {one.name: one.type for one in fields(ModelConfig)}
_ATTENTION_TYPES = ("full_attention", "sliding_attention")
MOST_LAYERS = 10_000  # of a config.json; more is damage
FILE_SEP = "<file_sep>"  # begins the next file: a base model of code would run on into it


def read_config(folder: Path) -> ModelConfig:
    """The configuration in a checkpoint folder, named after the folder."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError("checkpoint", str(folder), "has no config.json", "give a model's folder")
    released = read_object(path)
    try:
        config = from_released(released | _ends(folder, released))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    object.__setattr__(config, "name", folder.resolve().name)
    return config


def _ends(folder: Path, released: dict[str, Any]) -> dict[str, Any]:
    """`eos_token_id` where config.json's cannot end a generation.

    StarCoder2's released generation_config.json, and transformers' default for the family, name id
    50256, which its vocabulary does not have: nothing ever stops. The end of a text is id 0, and
    the tokenizer has the mark of the next file.
    """
    if released.get("model_type") != "starcoder2":
        return {}
    said, vocabulary = _ids(released.get("eos_token_id")), released.get("vocab_size")
    if not isinstance(vocabulary, int) or not all(isinstance(one, int) for one in said):
        return {}  # refused with all that is of another kind
    ends = [one for one in said if one < vocabulary] or [0]
    path = folder / "tokenizer.json"
    if path.is_file():
        added = read_object(path).get("added_tokens") or []
        marks = [one for one in added if isinstance(one, dict) and one.get("content") == FILE_SEP]
        ends += [one["id"] for one in marks if one.get("id") not in (None, *ends)]
    return {"eos_token_id": ends}


def _ids(value: Any) -> list[int]:
    return list(value) if isinstance(value, list) else [] if value is None else [value]


def from_released(released: dict[str, Any]) -> ModelConfig:
    """Read config.json's contents; UserError for a family or a feature this decoder has not."""
    family = family_of(released.get("model_type"))
    for key, allowed in family.allowed.items():
        if key in released and released[key] not in allowed:
            mend = f"only {allowed[0]!r} is supported"
            raise UserError(key, released[key], "is not what this decoder computes", mend)
    if released.get("quantization_config"):
        how = released["quantization_config"]
        how = how.get("quant_method", how) if isinstance(how, dict) else how
        mend = "give a folder in 16 bits or more"
        raise UserError("quantization_config", how, "is not read", mend)
    found: dict[str, Any] = {"family": family.name, **family.fixed}
    found["pattern"] = _pattern(family, released)
    silent = _silent(family, released)
    for ours, names in family.fields.items():
        value = _first(released, names)
        if value is None and ours not in silent:
            raise UserError(names[0], None, "is missing from the configuration", "add it")
        if value is not None:
            check_kind(_said(released, names), value, _KINDS[ours])
        found[ours] = silent[ours] if value is None else value
    if family.rope:
        found["rope_theta"], found["rope_scaling"] = read_rope(released, found["max_positions"])
    found |= _windows(family, released)
    limit = _first(released, ("time_step_limit", "mamba_dt_limit"))
    found["time_step_limit"] = _time_step_limit(family, limit)
    for key in (
        "bos_token_id",
        "pad_token_id",
    ):  # transformers' default may be another vocabulary's
        check_kind(key, found[key], int | None)
        inside = isinstance(found[key], int) and 0 <= found[key] < found["vocab_size"]
        found[key] = found[key] if inside else None
    eos = released.get("eos_token_id")
    if eos is not None:
        for one in _ids(eos):
            check_kind("eos_token_id", one, int)
        found["eos_token_ids"] = tuple(_ids(eos))
    return ModelConfig(**found)


def _silent(family: Family, released: dict[str, Any]) -> dict[str, Any]:
    """What holds where the file says nothing, as transformers takes it for granted."""
    silent = dict(family.silent)
    if "attention_heads" in family.fields and family.layer:
        heads = released.get("num_attention_heads")
        silent["key_value_heads"] = heads
        width = released.get("hidden_size")
        if "head_dim" not in silent and isinstance(heads, int) and isinstance(width, int):
            silent["head_dim"] = width // heads if heads else 0
    return silent


def to_released(config: ModelConfig) -> dict[str, Any]:
    """Contents of config.json that transformers, and servers that know the family, read."""
    family = family_of(config.family)
    eos = list(config.eos_token_ids)
    plain: dict[str, Any] = {
        "architectures": [family.architecture],
        "model_type": family.name,
        "num_hidden_layers": config.layers // max(1, len(family.layer)),
        "eos_token_id": eos[0] if len(eos) == 1 else eos,
        **family.written,
    }
    if not family.layer:
        plain |= {
            "hybrid_override_pattern": config.pattern,
            "rms_norm_eps": config.norm_eps,
            "attention_head_dim": config.head_dim,
        }
    if "mamba_heads" in family.fields:
        plain["expand"] = max(1, round(config.mamba_width / config.hidden_size))
    for ours, names in family.fields.items():
        plain[names[0]] = getattr(config, ours)
    for key, allowed in family.allowed.items():
        plain[key] = allowed[0]
    if family.rope:
        assert config.rope_theta is not None
        plain |= write_rope(config.rope_theta, config.rope_scaling)
    if config.time_step_limit is not None:
        low, high = config.time_step_limit
        plain["time_step_limit"] = [low, high if high < inf else {"__float__": "Infinity"}]
    if family.windows == "all":
        plain["sliding_window"] = config.sliding_window
    elif family.windows == "some":
        full = set(config.full_attention) if config.sliding_window else set(range(config.layers))
        plain |= {
            "use_sliding_window": config.sliding_window is not None,
            "sliding_window": config.sliding_window,
            "max_window_layers": len(full),
            "layer_types": [_ATTENTION_TYPES[i not in full] for i in range(config.count("*"))],
        }
    return plain


def _said(released: dict[str, Any], names: tuple[str, ...]) -> str:
    """The spelling that is in the file."""
    return next((name for name in names if released.get(name) is not None), names[0])


def _first(released: dict[str, Any], names: tuple[str, ...]) -> Any:
    return released.get(_said(released, names))


def _types(name: str, types: Any, known: Collection[str]) -> list[str]:
    """A list of layer types; UserError for anything else."""
    if not isinstance(types, list) or not types:
        raise UserError(name, types, "is no list of layers", f"known: {', '.join(known)}")
    unknown = sorted({str(one) for one in types} - set(known))
    if unknown:
        raise UserError(name, unknown, "has unknown layers", f"known: {', '.join(known)}")
    return types


def _pattern(family: Family, released: dict[str, Any]) -> str:
    """The string of mixers, from a number of layers, a list of their types, or the string."""
    if family.layer:
        layers = released.get("num_hidden_layers")
        if not isinstance(layers, int) or layers is True or not 0 < layers <= MOST_LAYERS:
            problem = "is missing" if layers is None else "is no number of layers"
            raise UserError("num_hidden_layers", layers, problem, "add it")
        return family.layer * layers
    types = _first(released, ("layers_block_type", "layer_types"))
    if types is None:
        pattern = released.get("hybrid_override_pattern")
        if not isinstance(pattern, str):
            problem = "is missing, and no layers_block_type either"
            raise UserError("hybrid_override_pattern", pattern, problem, "add it")
        return pattern
    name = _said(released, ("layers_block_type", "layer_types"))
    return "".join(_LAYER_TYPES[one] for one in _types(name, types, _LAYER_TYPES))


def _windows(family: Family, released: dict[str, Any]) -> dict[str, Any]:
    """`sliding_window` and `full_attention`, from a window and the layers that have it."""
    window = released.get("sliding_window")
    if family.windows:
        check_kind("sliding_window", window, int | None)
    if family.windows == "all":
        return {"sliding_window": window}
    if family.windows != "some":
        return {}
    used = released.get("use_sliding_window")
    check_kind("use_sliding_window", used, bool | None)
    if not used:
        window = None
    layers = released["num_hidden_layers"]
    types = released.get("layer_types")
    if types is None:
        first = released.get("max_window_layers", 28)  # the layers before it see everything
        check_kind("max_window_layers", first, int)
        types = [_ATTENTION_TYPES[window is not None and i >= first] for i in range(layers)]
    if len(_types("layer_types", types, _ATTENTION_TYPES)) != layers:
        raise UserError("layer_types", types, f"is not of {layers} layers", "give one for each")
    full = tuple(i for i, name in enumerate(types) if name == "full_attention")
    if window is None and len(full) < layers:
        mend = "set use_sliding_window and sliding_window"
        raise UserError("sliding_window", None, "is missing for layers that have one", mend)
    if window is None or len(full) == layers:
        return {}
    return {"sliding_window": window, "full_attention": full}


def _time_step_limit(family: Family, limit: Any) -> tuple[float, float] | None:
    """The bounds of time steps; None for (0, infinity).

    Refused where transformers reads the entry and clamps by another one (nemotron_h).
    """
    if limit is None:
        return None
    try:  # transformers spells what JSON cannot as {"__float__": "Infinity"}
        low, high = (float(x["__float__"]) if isinstance(x, dict) else float(x) for x in limit)
    except (TypeError, ValueError, KeyError):
        problem, mend = "is no pair of bounds", "give a low and a higher one"
        raise UserError("time_step_limit", limit, problem, mend) from None
    if (low, high) == (0, float("inf")):
        return None
    if not family.clamps:
        mend = f"only (0, inf) is known: other programs read {family.name}'s in different ways"
        raise UserError("time_step_limit", limit, "clamps the time step", mend)
    return low, high
