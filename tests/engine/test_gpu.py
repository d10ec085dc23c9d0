"""The engine on a GPU, against the CPU."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from cairn.engine import Caching, Engine, Grammar, SamplingParams, Speculation, Thinking
from cairn.engine.pool import Pool, Sizes
from cairn.engine.runner import Batch, Runner
from cairn.model import build
from cairn.ops.order import fixed_order

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
        assert not graphs or len(engine._runner.graphs.piecewise) > 0
    assert all(one == found[0] for one in found)


@pytest.mark.parametrize("pattern", ["M-*M*-", "*-*-"])
@torch.inference_mode()
def test_forwards_in_pieces_are_those_of_all_layers_at_once(pattern):
    """Of any number of tokens, beside steps of one token each, whose graphs share the memory."""
    wide = {"hidden_size": 256, "intermediate_size": 1024, "head_dim": 64, "mamba_head_dim": 64}
    there = build(untrained(pattern, 500, **LIVELY | wide | {"initializer_range": 0.05}), 1, "cuda")
    sizes, dice = Sizes(6, 4096, (1600,), 0), torch.Generator().manual_seed(1)
    runners = []
    for graphs in (True, False):
        pool = Pool(there.config, sizes, there.device, there.dtype)
        for slot in range(6):
            pool.assign(slot, 0, 0, list(range(1 + 256 * slot, 257 + 256 * slot)))
        runners.append(Runner(there, pool, graphs=graphs))
    past = [0] * 6
    for _ in range(40):
        count = int(torch.randint(1, 6, (), generator=dice))
        slots = torch.randperm(6, generator=dice)[:count].tolist()
        most = [1, 8, 60, 200][int(torch.randint(4, (), generator=dice))]
        lengths = torch.randint(1, most + 1, (count,), generator=dice).tolist()
        few = count // 2 if count > 1 else 0  # have a forward of their own
        lengths[:few] = [1] * few if most > 8 else [min(n, 3) for n in lengths[:few]]
        tokens = torch.randint(500, (sum(lengths),), generator=dice).cuda()
        batch = Batch(lengths, slots, [past[slot] for slot in slots], few)
        found, wanted = (runner.compute(tokens, batch) for runner in runners)
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
        for slot, length in zip(slots, lengths, strict=True):
            past[slot] += length
    assert len(runners[0].graphs.piecewise) > 3
    assert len(runners[0].graphs) > 0


@pytest.mark.parametrize("kind", ["lookup", "twin", "stranger"])
def test_guesses_beside_graphs_change_no_token(model, words, kind):
    """Steps with guesses are graphs in parts, those without are whole; a stranger guesses wrong."""
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


def test_two_engines_in_two_streams_at_a_time(words):
    """Long enough for attention in pieces, whose graphs count arrivals."""
    params = SamplingParams(max_tokens=200, temperature=0.0, ignore_eos=True)
    shape = LIVELY | {"head_dim": 64, "hidden_size": 64, "max_positions": 4096}
    made = [build(untrained("M*-*", words.vocab_size, **shape), seed=n).cuda() for n in (1, 2)]
    kept = Caching(prefixes=False)
    engines = [Engine(model, words, slots=4, capacity=3000, caching=kept) for model in made]
    prompts = [[3 + (n * k) % 90 for n in range(1500 + k)] for k in range(1, 5)]
    alone = [[one.tokens for one in e.generate(prompts, params)] for e in engines]

    def ask(engine: Engine) -> list[list[int]]:
        with torch.cuda.stream(torch.cuda.Stream()):
            return [one.tokens for one in engine.generate(prompts, params)]

    torch.cuda.synchronize()
    with ThreadPoolExecutor(2) as pool:
        for _ in range(3):
            assert list(pool.map(ask, engines)) == alone


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@torch.inference_mode()
def test_logits_in_a_fixed_order_are_the_same_numbers_for_any_rows(words, dtype):
    """Rounded or not, they are so whether there are few rows or many."""
    model = build(untrained("*", words.vocab_size, **LIVELY), seed=1).to("cuda", dtype)
    generator = torch.Generator("cuda").manual_seed(0)
    hidden = torch.randn(70, 32, generator=generator, device="cuda").to(dtype)
    with fixed_order():
        whole = model.head(hidden, widened=False).float()
        for rows in (1, 16, 17, 31, 32, 33, 70):
            assert torch.equal(model.head(hidden[:rows], widened=False).float(), whole[:rows])
            assert torch.equal(model.head(hidden[:rows]), whole[:rows])
    plain = model.head(hidden, widened=False)
    assert plain.dtype == dtype
    torch.testing.assert_close(plain.float(), whole, rtol=2**-7, atol=0.05)
