"""Tiny models whose weights are large enough for mistakes to show."""

import pytest
import torch

from cairn.model import ModelConfig, build
from cairn.model.rope import RopeScaling

HYBRID = {
    "vocab_size": 61,
    "hidden_size": 24,
    "mamba_heads": 4,
    "mamba_head_dim": 6,
    "state_size": 5,
    "groups": 2,
    "chunk_size": 4,
    "max_positions": 64,
}
DENSE = {
    "pattern": "*-*-*-",
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 40,
    "attention_heads": 4,
    "key_value_heads": 2,
    "head_dim": 8,  # four of them are wider than the residual stream
    "max_positions": 64,
    "rope_theta": 1000.0,
    "pad_token_id": None,
}
SWIGLU = DENSE | {"activation": "silu", "gated": True}
LLAMA = SWIGLU | {"family": "llama"}
LLAMA3 = RopeScaling(
    kind="llama3",
    factor=8.0,
    original_positions=16,
    low_frequency_factor=1.0,
    high_frequency_factor=4.0,
)
TINY = {
    "nemotron_h": HYBRID
    | {
        "pattern": "M-M*M-*-",
        "intermediate_size": 40,
        "attention_heads": 4,
        "key_value_heads": 2,
        "head_dim": 8,
    },
    "mamba2": HYBRID
    | {"pattern": "MMM", "family": "mamba2", "norm_groups": 1, "residual_fp32": True},
    "starcoder2": DENSE
    | {
        "family": "starcoder2",
        "norm": "layer",
        "activation": "gelu_tanh",
        "qkv_bias": True,
        "output_bias": True,
        "mlp_bias": True,
        "sliding_window": 5,
        "tie_embeddings": True,
        "head_dim": 6,
    },
    "llama": LLAMA | {"rope_scaling": LLAMA3},
    "llama-yarn": LLAMA
    | {
        "rope_scaling": RopeScaling(kind="yarn", factor=4.0, original_positions=16),
        "qkv_bias": True,
        "output_bias": True,
        "mlp_bias": True,
        "tie_embeddings": True,
    },
    "llama-linear": LLAMA | {"rope_scaling": RopeScaling(kind="linear", factor=2.5)},
    "qwen2": SWIGLU
    | {"family": "qwen2", "qkv_bias": True, "sliding_window": 4, "full_attention": (1,)},
    "qwen3": SWIGLU | {"family": "qwen3", "qk_norm": True, "norm_eps": 1e-6},
}


@pytest.fixture(scope="session")
def tinies() -> dict[str, ModelConfig]:
    """A tiny configuration of every family, and of every way to stretch positions."""
    return {name: ModelConfig(**fields) for name, fields in TINY.items()}


@pytest.fixture(scope="session", params=list(TINY))
def each_tiny(request, tinies) -> ModelConfig:
    """Each of them in turn."""
    return tinies[request.param]


@pytest.fixture(scope="session")
def tiny(tinies) -> ModelConfig:
    """The hybrid."""
    return tinies["nemotron_h"]


def roughened(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Scale matrices up and move everything off its initial value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
            if parameter.ndim == 2:
                parameter.mul_(5)
            elif "A_log" not in name:
                parameter.add_(noise * 0.3)
    return model


@pytest.fixture(scope="session")
def roughen():
    return roughened


@pytest.fixture(scope="session")
def model(tiny):
    return roughened(build(tiny, seed=1)).eval()
