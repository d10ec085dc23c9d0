"""A small hybrid with lively logits and a small tokenizer, made once."""

import inspect
import json
import textwrap

import pytest

from cairn.model import Decoder, ModelConfig, build
from cairn.tokens.learning import learn
from cairn.tokens.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def words() -> Tokenizer:
    """A tokenizer of 400 ids."""
    texts = [inspect.getsource(module) for module in (json, textwrap)]
    return learn(texts, 400)


def small(vocab_size: int) -> ModelConfig:
    """All three mixers; initial weights large enough that logits are no near-ties."""
    return ModelConfig(
        pattern="M-*M*-",
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        attention_heads=4,
        key_value_heads=2,
        head_dim=8,
        mamba_heads=4,
        mamba_head_dim=8,
        state_size=16,
        groups=2,
        chunk_size=8,
        initializer_range=0.2,
        eos_token_ids=(0,),
        bos_token_id=0,
    )


@pytest.fixture(scope="session")
def model(words: Tokenizer) -> Decoder:
    """The model; tests leave its weights alone."""
    return build(small(words.vocab_size), seed=0)


@pytest.fixture
def fresh_model(words: Tokenizer) -> Decoder:
    """One whose weights a test may change."""
    return build(small(words.vocab_size), seed=1)
