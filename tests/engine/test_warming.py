"""What an engine computes before it is asked."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from cairn.base import UserError
from cairn.engine import Caching, Engine, SamplingParams
from cairn.engine.graphs import SIZES, rows_for
from cairn.engine.runner import Runner
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


@pytest.mark.skipif(not find_spec("triton"), reason="triton is not installed")
@pytest.mark.parametrize(
    "case",
    [
        "dense",
        "invariant",
        "short",
        *(
            pytest.param(case, marks=pytest.mark.slow)
            for case in ("without_graphs", "window", "fp16_states", "float8_int8")
        ),
    ],
)
def test_requests_ask_for_no_kernel_that_was_not_compiled(case):
    """Long contexts in few and many rows, ends of prompts, guesses: on a GPU that is not here."""
    program = Path(__file__).parent / "fixtures" / "absent_gpu.py"
    own = os.environ | {"TRITON_INTERPRET": "0"}
    done = subprocess.run(
        [sys.executable, program, case], env=own, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


def test_graphs_have_few_sizes():
    assert [rows_for(count) for count in (1, 3, 17, 256)] == [1, 4, 24, 256]
    assert [rows_for(count) for count in (257, 320, 321, 512)] == [320, 320, 384, 512]
    assert len({rows_for(count) for count in range(1, 1025)}) == len(SIZES) + 12


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize(
    ("dtype", "states"),
    [
        (torch.float32, None),
        (torch.bfloat16, None),
        (torch.bfloat16, "float16"),
        (torch.bfloat16, "int8"),
    ],
)
def test_requests_compile_nothing_afterwards(words, dtype, states, monkeypatch):
    from triton import knobs

    config = untrained("M-*M*-", words.vocab_size, **LIVELY | {"head_dim": 64})
    model = build(config, seed=0).to("cuda", dtype)
    engine = Engine(model, slots=70, capacity=9000, token_budget=2048, state_dtype=states)
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
    for rows in (9, 40, 70):  # whose keys are split into pieces of any length, beside ends
        for length in (600, 2300, 8700):
            every = [[5 + rows] + [3 + n % 50 for n in range(length - 7 * k)] for k in range(rows)]
            engine.generate([*every, [7] * 2, [7] * 3, [7] * 8, [7] * 700], GREEDY)
    assert not compiled
