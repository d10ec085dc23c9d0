"""A small hybrid with lively logits and a small tokenizer, made once."""

import inspect
import json
import textwrap

import pytest

from cairn.model import Decoder, ModelConfig, build
from cairn.tokens.learning import learn
from cairn.tokens.tokenizer import Tokenizer

from ..fixtures.shapes import LIVELY, untrained


@pytest.fixture(scope="session")
def words() -> Tokenizer:
    """A tokenizer of 400 ids."""
    texts = [inspect.getsource(module) for module in (json, textwrap)]
    return learn(texts, 400)


def small(vocab_size: int) -> ModelConfig:
    """All three mixers."""
    return untrained("M-*M*-", vocab_size, **LIVELY)


@pytest.fixture(scope="session")
def model(words: Tokenizer) -> Decoder:
    """The model; tests leave its weights alone."""
    return build(small(words.vocab_size), seed=0)


@pytest.fixture
def fresh_model(words: Tokenizer) -> Decoder:
    """One whose weights a test may change."""
    return build(small(words.vocab_size), seed=1)
