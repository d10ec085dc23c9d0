"""The engine on a GPU, against the CPU."""

import copy

import pytest
import torch

from cairn.engine import Engine, Grammar, SamplingParams, Speculation, Thinking
from cairn.model import build

from ..fixtures.shapes import LIVELY, WINDOW, untrained

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


def test_greedy_tokens_on_a_gpu_equal_those_on_the_cpu(model, words):
    prompts = ["def ", "import json\n", "class A:\n    def f(self):\n", "x"]
    params = SamplingParams(max_tokens=24, temperature=0.0)
    host = Engine(model, words).generate(prompts, params)
    there = Engine(copy.deepcopy(model).cuda(), words, slots=2).generate(prompts, params)
    assert [one.tokens for one in there] == [one.tokens for one in host]


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_tokens_of_models_with_positions_equal_those_on_the_cpu(words, family):
    """Norms of heads or none, biases or none, windows or none: prompts in pieces, then graphs."""
    fields = LIVELY | WINDOW | {"eos_token_ids": (0,), "initializer_range": 0.1}
    if family == "qwen3":
        fields |= {"family": "qwen3", "qk_norm": True, "qkv_bias": False, "head_dim": 32}
        fields |= {"sliding_window": None, "full_attention": ()}
    model = build(untrained("*-*-", words.vocab_size, **fields), seed=3)
    prompts = ["def ", "import json\n" * 20, "class A:\n    def f(self):\n" * 8, "x"]
    params = SamplingParams(max_tokens=40, temperature=0.0, ignore_eos=True)
    host = Engine(model, words, token_budget=64).generate(prompts, params)
    there = Engine(copy.deepcopy(model).cuda(), words, slots=3, token_budget=64)
    for _ in range(2):  # the second time all graphs are there
        done = there.generate(prompts, params)
        assert [one.tokens for one in done] == [one.tokens for one in host]
    assert len(there._runner.graphs) > 1


def test_seeded_draws_on_a_gpu_do_not_depend_on_company(model, words):
    params = SamplingParams(max_tokens=16, temperature=1.0, seed=7)
    engine = Engine(copy.deepcopy(model).cuda(), words)
    alone = engine.generate(["def f("], params)[0].tokens
    others = engine.generate(["import ", "def f(", "while "], params)
    assert others[1].tokens == alone


def test_what_holds_a_draw_holds_on_a_gpu(model, words):
    pytest.importorskip("llguidance", reason="the extra grammar is not installed")
    held = [
        SamplingParams(max_tokens=24, temperature=0, grammar=Grammar("regex", "(ab|ba){6}")),
        SamplingParams(max_tokens=24, temperature=0, repetition_penalty=1.3, ignore_eos=True),
        SamplingParams(max_tokens=24, temperature=0, frequency_penalty=0.5, logit_bias={9: 1.0}),
        SamplingParams(max_tokens=24, temperature=0, thinking=Thinking(budget=4, grace=3)),
    ]
    prompts = ["def "] * len(held)
    host = Engine(model, words).generate(prompts, held)
    there = Engine(copy.deepcopy(model).cuda(), words).generate(prompts, held)
    assert [(one.tokens, one.forced) for one in there] == [(one.tokens, one.forced) for one in host]


@pytest.mark.parametrize("state", [None, "int8"])
def test_graphs_and_late_reading_change_no_token(model, words, state):
    prompts = ["def f(a):", "x", "import json\nimport ", "class A:\n    def f(self):\n"] * 3
    params = [
        SamplingParams(max_tokens=5 + 7 * n, temperature=n % 2, seed=n, logprobs=n % 3 or None)
        for n in range(len(prompts))
    ]
    there = copy.deepcopy(model).cuda()
    found = []
    for graphs, overlap in ((False, False), (False, True), (True, False), (True, True)):
        engine = Engine(there, words, slots=5, state_dtype=state, graphs=graphs, overlap=overlap)
        for _ in range(2):  # the second time all graphs are there, and prefixes are cached
            done = engine.generate(prompts, params)
            found.append([(one.tokens, one.finish_reason) for one in done])
        assert not graphs or len(engine._runner.graphs) > 1
    assert all(one == found[0] for one in found)


@pytest.mark.parametrize("kind", ["lookup", "twin", "stranger"])
def test_guesses_beside_graphs_change_no_token(model, words, kind):
    """Steps with guesses are no graphs, those without are; a stranger guesses wrong."""
    prompts = ["def f(a):\n" * 6, "x", "import json\nimport ", "a b c d " * 9] * 2
    params = [
        SamplingParams(max_tokens=9 + 7 * n, temperature=n % 2, seed=n, ignore_eos=True)
        for n in range(len(prompts))
    ]
    there = copy.deepcopy(model).cuda()
    drafts = {"lookup": None, "twin": there, "stranger": build(model.config, 9, "cuda")}
    alone = Engine(there, words, slots=5, graphs=False).generate(prompts, params)
    expected = [one.tokens for one in alone]
    guessing = Speculation(most=4, model=drafts[kind])
    for graphs in (False, True):
        engine = Engine(there, words, slots=5, graphs=graphs, speculation=guessing)
        for _ in range(2):  # the second time all graphs are there, and prefixes are cached
            assert [one.tokens for one in engine.generate(prompts, params)] == expected
        load = engine.load
        assert load.tokens_guessed > 0
        assert kind != "twin" or load.tokens_accepted > 0.9 * load.tokens_guessed
        if graphs and kind == "lookup":
            assert len(engine._runner.graphs) > 0


def test_graphs_follow_weights_that_change_in_place_and_that_move(model, words):
    there = copy.deepcopy(model).cuda()
    engine = Engine(there, words, slots=2)
    params = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)
    engine.generate(["def "], params)
    with torch.no_grad():
        there.lm_head.weight.neg_()
        there.backbone.layers[0].mixer.in_proj.weight.mul_(1.5)
    there.backbone.norm_f.weight = torch.nn.Parameter(there.backbone.norm_f.weight.flip(0).clone())
    fresh = Engine(there, words, slots=2, graphs=False).generate(["def "], params)
    assert engine.generate(["def "], params)[0].tokens == fresh[0].tokens
