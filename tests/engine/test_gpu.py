"""The engine on a GPU, against the CPU."""

import copy

import pytest
import torch

from cairn.engine import Engine, Grammar, SamplingParams, Thinking

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
