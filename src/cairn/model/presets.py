"""Released models by name, with the layer patterns that they were shipped with. No torch."""

from typing import Any

from cairn.base.config import nearest
from cairn.base.errors import UserError
from cairn.model.config import ModelConfig

_H_8B = "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-"
_H_47B = (
    "M-M-M-M-M-M-M-M-M*-M-M-M-M-M-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-"
    "M-M-M-M-M-M-M---MM---M-M*-M-M-M-M-M-"
)
_H_56B = "M-M-M-M*-" + 9 * "M-M-M-M-M*-" + "M-M-M-M-M-"
_NANO_12B = "M-M-M-M*-" + 5 * "M-M-M-M*-" + "M-M-M-M-"
_NANO_9B = "M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-"

PRESETS: dict[str, dict[str, Any]] = {
    "nemotron-h-4b": {  # pruned from the 8B
        "pattern": _H_8B,
        "hidden_size": 3072,
        "intermediate_size": 12_288,
        "attention_heads": 32,
        "mamba_heads": 112,
    },
    "nemotron-h-8b": {
        "pattern": _H_8B,
        "hidden_size": 4096,
        "intermediate_size": 21_504,
        "attention_heads": 32,
        "mamba_heads": 128,
    },
    "nemotron-h-47b": {  # pruned from the 56B
        "pattern": _H_47B,
        "hidden_size": 8192,
        "intermediate_size": 30_720,
        "attention_heads": 64,
        "mamba_heads": 256,
        "state_size": 256,
    },
    "nemotron-h-56b": {
        "pattern": _H_56B,
        "hidden_size": 8192,
        "intermediate_size": 32_768,
        "attention_heads": 64,
        "mamba_heads": 256,
        "state_size": 256,
    },
    "nemotron-nano-12b-v2": {
        "pattern": _NANO_12B,
        "hidden_size": 5120,
        "intermediate_size": 20_480,
        "attention_heads": 40,
        "mamba_heads": 128,
        "mamba_head_dim": 80,
        "max_positions": 131_072,
    },
    "nemotron-nano-9b-v2": {  # pruned from the 12B
        "pattern": _NANO_9B,
        "hidden_size": 4480,
        "intermediate_size": 15_680,
        "attention_heads": 40,
        "mamba_heads": 128,
        "mamba_head_dim": 80,
        "max_positions": 131_072,
    },
}


def preset(name: str) -> ModelConfig:
    """The configuration of a released model; UserError with the nearest name otherwise."""
    if name not in PRESETS:
        raise UserError("preset", name, "is not known", nearest(name, PRESETS))
    return ModelConfig(name=name, key_value_heads=8, **PRESETS[name])
