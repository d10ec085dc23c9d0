"""Released models by name, with the layer patterns that they were shipped with. No torch."""

from typing import Any

from cairn.base.config import nearest
from cairn.base.errors import UserError
from cairn.model.config import ModelConfig
from cairn.model.rope import RopeScaling

_H_8B = "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-"
_H_47B = (
    "M-M-M-M-M-M-M-M-M*-M-M-M-M-M-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-"
    "M-M-M-M-M-M-M---MM---M-M*-M-M-M-M-M-"
)
_H_56B = "M-M-M-M*-" + 9 * "M-M-M-M-M*-" + "M-M-M-M-M-"
_NANO_12B = "M-M-M-M*-" + 5 * "M-M-M-M*-" + "M-M-M-M-"
_NANO_9B = "M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-"

_HYBRID = {"key_value_heads": 8}
_STARCODER2 = {  # arXiv 2402.19173, section 6; the released config.json of each
    "family": "starcoder2",
    "vocab_size": 49_152,
    "sliding_window": 4096,
    "max_positions": 16_384,
    "norm": "layer",
    "activation": "gelu_tanh",
    "qkv_bias": True,
    "output_bias": True,
    "mlp_bias": True,
    "bos_token_id": 0,
    "eos_token_ids": (0, 6),  # end of text, and <file_sep>
    "pad_token_id": None,
}
_SWIGLU = {"activation": "silu", "gated": True, "pad_token_id": None, "key_value_heads": 8}
_LLAMA = _SWIGLU | {
    "family": "llama",
    "vocab_size": 128_256,
    "max_positions": 131_072,
    "rope_theta": 500_000.0,
    "rope_scaling": RopeScaling(kind="llama3", factor=8.0, original_positions=8192),
    "bos_token_id": 128_000,
    "eos_token_ids": (128_001,),
}
_QWEN = _SWIGLU | {
    "rope_theta": 1_000_000.0,
    "norm_eps": 1e-6,
    "bos_token_id": 151_643,
    "eos_token_ids": (151_643,),
}
_QWEN2 = _QWEN | {
    "family": "qwen2",
    "vocab_size": 152_064,
    "max_positions": 131_072,
    "qkv_bias": True,
}
_QWEN3 = _QWEN | {
    "family": "qwen3",
    "vocab_size": 151_936,
    "max_positions": 40_960,
    "qk_norm": True,
    "eos_token_ids": (151_645,),
}

PRESETS: dict[str, dict[str, Any]] = {
    "nemotron-h-4b": _HYBRID
    | {  # pruned from the 8B
        "pattern": _H_8B,
        "hidden_size": 3072,
        "intermediate_size": 12_288,
        "attention_heads": 32,
        "mamba_heads": 112,
    },
    "nemotron-h-8b": _HYBRID
    | {
        "pattern": _H_8B,
        "hidden_size": 4096,
        "intermediate_size": 21_504,
        "attention_heads": 32,
        "mamba_heads": 128,
    },
    "nemotron-h-47b": _HYBRID
    | {  # pruned from the 56B
        "pattern": _H_47B,
        "hidden_size": 8192,
        "intermediate_size": 30_720,
        "attention_heads": 64,
        "mamba_heads": 256,
        "state_size": 256,
    },
    "nemotron-h-56b": _HYBRID
    | {
        "pattern": _H_56B,
        "hidden_size": 8192,
        "intermediate_size": 32_768,
        "attention_heads": 64,
        "mamba_heads": 256,
        "state_size": 256,
    },
    "nemotron-nano-12b-v2": _HYBRID
    | {
        "pattern": _NANO_12B,
        "hidden_size": 5120,
        "intermediate_size": 20_480,
        "attention_heads": 40,
        "mamba_heads": 128,
        "mamba_head_dim": 80,
        "max_positions": 131_072,
    },
    "nemotron-nano-9b-v2": _HYBRID
    | {  # pruned from the 12B
        "pattern": _NANO_9B,
        "hidden_size": 4480,
        "intermediate_size": 15_680,
        "attention_heads": 40,
        "mamba_heads": 128,
        "mamba_head_dim": 80,
        "max_positions": 131_072,
    },
    "starcoder2-3b": _STARCODER2
    | {
        "pattern": 30 * "*-",
        "hidden_size": 3072,
        "intermediate_size": 12_288,
        "attention_heads": 24,
        "key_value_heads": 2,
        "rope_theta": 999_999.4420358813,
        "initializer_range": 0.018042,
        "tie_embeddings": True,
    },
    "starcoder2-7b": _STARCODER2
    | {
        "pattern": 32 * "*-",
        "hidden_size": 4608,
        "intermediate_size": 18_432,
        "attention_heads": 36,
        "key_value_heads": 4,
        "rope_theta": 1_000_000.0,
        "initializer_range": 0.018042,
        "tie_embeddings": True,
    },
    "starcoder2-15b": _STARCODER2
    | {
        "pattern": 40 * "*-",
        "hidden_size": 6144,
        "intermediate_size": 24_576,
        "attention_heads": 48,
        "key_value_heads": 4,
        "rope_theta": 100_000.0,
        "initializer_range": 0.01275,
    },
    "llama-3.1-8b": _LLAMA
    | {
        "pattern": 32 * "*-",
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "attention_heads": 32,
    },
    "llama-3.1-70b": _LLAMA
    | {
        "pattern": 80 * "*-",
        "hidden_size": 8192,
        "intermediate_size": 28_672,
        "attention_heads": 64,
    },
    "qwen2.5-7b": _QWEN2
    | {
        "pattern": 28 * "*-",
        "hidden_size": 3584,
        "intermediate_size": 18_944,
        "attention_heads": 28,
        "key_value_heads": 4,
    },
    "qwen2.5-72b": _QWEN2
    | {
        "pattern": 80 * "*-",
        "hidden_size": 8192,
        "intermediate_size": 29_568,
        "attention_heads": 64,
        "norm_eps": 1e-5,
    },
    "qwen3-8b": _QWEN3
    | {
        "pattern": 36 * "*-",
        "hidden_size": 4096,
        "intermediate_size": 12_288,
        "attention_heads": 32,
    },
    "qwen3-14b": _QWEN3
    | {
        "pattern": 40 * "*-",
        "hidden_size": 5120,
        "intermediate_size": 17_408,
        "attention_heads": 40,
    },
}


def preset(name: str) -> ModelConfig:
    """The configuration of a released model; UserError with the nearest name otherwise."""
    if name not in PRESETS:
        raise UserError("preset", name, "is not known", nearest(name, PRESETS))
    return ModelConfig(name=name, **PRESETS[name])
