"""Tiny models whose weights are large enough for mistakes to show."""

import pytest
import torch

from cairn.model import ModelConfig, build


@pytest.fixture(scope="session")
def tiny() -> ModelConfig:
    return ModelConfig(
        pattern="M-M*M-*-",
        vocab_size=61,
        hidden_size=24,
        intermediate_size=40,
        attention_heads=4,
        key_value_heads=2,
        head_dim=8,
        mamba_heads=4,
        mamba_head_dim=6,
        state_size=5,
        groups=2,
        chunk_size=4,
        max_positions=64,
    )


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
