"""`add_special_tokens` over HTTP, with a tokenizer that has a BOS and one that has none."""

import pytest

from cairn.engine import Engine
from cairn.model import build
from cairn.serve import create_app

from ..fixtures.shapes import untrained
from ..tokens import test_prompts as llama

ONE = {"max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 0}


@pytest.fixture(scope="module")
def spelled():
    return llama.around(llama.BOS, "")


@pytest.fixture(scope="module")
def begun(spelled, running_server):
    config = untrained("*-", spelled.vocab_size, eos_token_ids=(0,))
    engine = Engine(build(config, seed=0), spelled, slots=2, capacity=256)
    with running_server(create_app(engine, "llama"), engine) as server:
        yield server


def test_completions_begin_as_the_tokenizer_says(begun, spelled):
    size = len(spelled.encode("def f("))
    for more, first in (
        ({}, 1),
        ({"add_special_tokens": True}, 1),
        ({"add_special_tokens": False}, 0),
    ):
        answer = begun.post("/v1/completions", prompt="def f(", **ONE, **more).json()
        assert answer["usage"]["prompt_tokens"] == first + size
        (choice,) = answer["choices"]
        assert choice["text"].startswith("def f(")
        assert (choice["logprobs"]["tokens"][0] == llama.BOS) is bool(first)
        assert choice["logprobs"]["text_offset"][first] == 0
    for given in ({"prompt": [5, 6]}, {"prompt": "a", "suffix": "b"}):
        refused = begun.post("/v1/completions", **given, add_special_tokens=True)
        assert refused.status_code == 400
        assert "add_special_tokens" in refused.json()["error"]["message"]


def test_tokens_are_those_of_a_completion(begun, spelled):
    bos, ids = spelled.id(llama.BOS), spelled.encode("def f(")

    def tokens(**body: object) -> list[int]:
        return begun.post("/tokenize", **body).json()["tokens"]

    assert tokens(prompt="def f(") == [bos, *ids]
    assert tokens(prompt="def f(", add_special_tokens=False) == ids
    assert tokens(prompt=llama.BOS) == [bos]
    assert tokens(prompt=llama.BOS, add_special_tokens=True) == [bos, bos]
    said = [{"role": "user", "content": "hello"}]
    assert bos not in tokens(messages=said)
    assert tokens(messages=said, add_special_tokens=True) == [bos, *tokens(messages=said)]


def test_a_tokenizer_without_one_adds_nothing(server):
    for add in (None, True, False):
        found = server.post("/tokenize", prompt="def f(", add_special_tokens=add).json()
        assert found == server.post("/tokenize", prompt="def f(").json()
    assert server.post("/tokenize", prompt="a", tools=[]).status_code == 400
