"""Shapes of models that are small enough for tests."""

from typing import Any

from cairn.model import ModelConfig

SMALL = ModelConfig(
    pattern="M*-",
    vocab_size=0,  # the tokenizer's, where a recipe trains it
    hidden_size=32,
    intermediate_size=64,
    attention_heads=2,
    key_value_heads=1,
    head_dim=16,
    mamba_heads=4,
    mamba_head_dim=16,
    state_size=16,
    groups=2,
    chunk_size=32,
    max_positions=256,
)

# More fields for `untrained`: initial weights so large that logits are no near-ties, and an id that
# ends a text.
LIVELY: dict[str, Any] = {"initializer_range": 0.2, "eos_token_ids": (0,), "bos_token_id": 0}
# Of two attention layers one looks back 40 tokens, the other to the beginning.
WINDOW: dict[str, Any] = {
    "family": "qwen2",
    "norm_eps": 1e-6,
    "activation": "silu",
    "gated": True,
    "rope_theta": 10000.0,
    "qkv_bias": True,
    "sliding_window": 40,
    "full_attention": (1,),
    "pad_token_id": None,
}


def untrained(pattern: str, vocab_size: int, **changes: Any) -> ModelConfig:
    """A shape for models as they are drawn, of any mixers; `changes` are fields of ModelConfig."""
    fields: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "attention_heads": 4,
        "key_value_heads": 2,
        "head_dim": 8,
        "mamba_heads": 4,
        "mamba_head_dim": 8,
        "state_size": 16,
        "groups": 2,
        "chunk_size": 8,
    }
    return ModelConfig(pattern=pattern, vocab_size=vocab_size, **(fields | changes))
