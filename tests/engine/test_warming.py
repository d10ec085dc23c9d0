"""What an engine computes before it is asked."""

import pytest
import torch

from cairn.base import UserError
from cairn.engine import Caching, Engine, SamplingParams
from cairn.engine.graphs import SIZES, rows_for
from cairn.engine.pages import PAGE
from cairn.engine.runner import FEW, Runner
from cairn.model import build

from ..fixtures.shapes import LIVELY, untrained

GREEDY = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)


@pytest.mark.parametrize("invariant", [False, True])
def test_it_changes_no_token_and_counts_for_nothing(model, words, invariant):
    prompts = ["def f(a):\n" * 30, "import json", "x"]
    cold = Engine(model, words, slots=3, capacity=300, invariant=invariant)
    expected = [one.tokens for one in cold.generate(prompts, GREEDY)]
    engine = Engine(model, words, slots=3, capacity=300, invariant=invariant)
    assert engine.warm_up() > 0
    assert engine.load == Engine(model, words, slots=3, capacity=300, invariant=invariant).load
    first = engine.generate(prompts, GREEDY)
    engine.warm_up()  # between requests, beside cached prefixes
    again = engine.generate(prompts, GREEDY)
    assert [one.tokens for one in first] == [one.tokens for one in again] == expected
    assert invariant or again[0].cached_tokens > 0
    assert all(not pool[:, :16].any() for pool in engine._runner.pool.cache.keys)


def test_between_requests_alone(model, words):
    engine = Engine(model, words, slots=2)
    number = engine.add("def ", GREEDY)
    with pytest.raises(UserError, match="between requests"):
        engine.warm_up()
    engine.abort(number)
    engine.warm_up()


@pytest.mark.parametrize(
    ("slots", "capacity", "budget"), [(1, 2, 1), (1, 8, 64), (2, 40, 2), (5, 3000, 100)]
)
def test_within_slots_capacity_and_budget(model, words, slots, capacity, budget, monkeypatch):
    seen = []
    compute = Runner.compute
    monkeypatch.setattr(
        Runner, "compute", lambda self, x, batch: seen.append(batch) or compute(self, x, batch)
    )
    caching = Caching(prefixes=False)
    Engine(
        model, words, slots=slots, capacity=capacity, token_budget=budget, caching=caching
    ).warm_up()
    assert seen
    for batch in seen:
        assert len(set(batch.slots)) == len(batch.slots) <= slots
        assert sum(batch.sizes) <= max(budget, slots)
        assert all(a + b <= capacity for a, b in zip(batch.past, batch.sizes, strict=True))


def test_ends_of_prompts_have_been_there_after_one_page_and_after_more(words, monkeypatch):
    """What kernels of few tokens are compiled for: the power of two, and how many pages."""
    seen: set[tuple[int, bool]] = set()
    forward = Runner._forward

    def watched(self, tokens, sizes, slots, past, asked):
        if 1 < max(sizes) <= FEW:
            longest = max(a + b for a, b in zip(sizes, past, strict=True))
            seen.add(((max(sizes) - 1).bit_length(), longest > PAGE))
        return forward(self, tokens, sizes, slots, past, asked)

    monkeypatch.setattr(Runner, "_forward", watched)
    model = build(untrained("M*", words.vocab_size, **LIVELY), seed=0)
    engine = Engine(model, slots=7, capacity=300, token_budget=64)
    engine.warm_up()
    warmed = set(seen)
    seen.clear()
    for length in (5, 64 + 2, 64 + 3, 128 + 5):
        engine.generate([[3 + n % 50 for n in range(length)]], GREEDY)
    engine.generate([[3 + n % 40 for n in range(length)] for length in (9, 30, 63, 100, 200)])
    assert {(1, True), (2, True), (3, True)} <= seen <= warmed


def test_graphs_have_few_sizes():
    assert [rows_for(count) for count in (1, 3, 17, 256)] == [1, 4, 24, 256]
    assert [rows_for(count) for count in (257, 320, 321, 512)] == [320, 320, 384, 512]
    assert len({rows_for(count) for count in range(1, 1025)}) == len(SIZES) + 12


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_requests_compile_nothing_afterwards(words, dtype, monkeypatch):
    from triton import knobs

    config = untrained("M-*M*-", words.vocab_size, **LIVELY | {"head_dim": 64})
    model = build(config, seed=0).to("cuda", dtype)
    engine = Engine(model, slots=7, capacity=3000, token_budget=512)
    engine.warm_up()
    compiled: list[str] = []
    monkeypatch.setattr(
        knobs.runtime, "jit_post_compile_hook", lambda **seen: compiled.append(seen["fn"].name)
    )
    lengths = [1, 5, 9, 16, 63, 64, 100, 512, 513, 900, 1500, 2047]
    prompts = [[3 + n % 50 for n in range(length)] for length in lengths]
    params = [
        SamplingParams(max_tokens=3 + 5 * n, temperature=0, ignore_eos=True)
        for n in range(len(prompts))
    ]
    for prompt in prompts:
        engine.generate([prompt], GREEDY)
    engine.generate(prompts, params)
    assert not compiled
