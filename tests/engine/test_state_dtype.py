"""Recurrent states in fewer bytes: smaller, near enough, and reproducible."""

import pytest
import torch

from cairn.base import UserError
from cairn.engine import Engine, SamplingParams
from cairn.engine.pool import fit
from cairn.model import Cache, Decoder, Spans, build

from ..fixtures.shapes import LIVELY, untrained


@pytest.fixture(scope="module")
def hybrid() -> Decoder:
    config = untrained("MM*M", 40, chunk_size=16, **LIVELY)
    return build(config, seed=3)


@pytest.mark.parametrize(("dtype", "most"), [(torch.float16, 5e-3), (torch.int8, 0.15)])
def test_logits_after_many_steps_are_near_those_of_fp32(hybrid, dtype, most):
    tokens = torch.arange(120) % 40
    with torch.inference_mode():
        truth = hybrid.logits(tokens[None])[0]
        cache = Cache(hybrid.config, 2, 128, states=dtype)
        parts = [
            hybrid(part, Spans.of([len(part)], [1]), cache)
            for part in tokens.split([40] + [1] * 80)
        ]
    error = (torch.cat(parts) - truth).abs().mean() / truth.abs().mean()
    assert 0 < error < most


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_a_narrow_state_gives_the_same_in_any_company(hybrid, dtype):
    params = SamplingParams(max_tokens=20, temperature=0, ignore_eos=True)
    prompts = [[number, 3, 5, 7, number + 9] for number in range(4)]
    engine = Engine(hybrid, slots=4, capacity=64, state_dtype=dtype)
    together = engine.generate(prompts, params)
    assert engine._runner.pool.cache.state.dtype == getattr(torch, dtype)
    alone = Engine(hybrid, slots=1, capacity=64, state_dtype=dtype)
    assert [alone.generate([prompt], params)[0] for prompt in prompts] == together


def test_narrow_states_make_room_for_more_sequences(hybrid):
    def slots(dtype: torch.dtype) -> int:
        kind = (torch.device("cpu"), torch.float32)
        return fit(hybrid.config, *kind, 10**6, 256, memory=2**26, states=dtype).slots

    assert slots(torch.float16) > 1.3 * slots(torch.float32)
    assert slots(torch.int8) > 1.2 * slots(torch.float16)


def test_another_dtype_is_refused(hybrid):
    with pytest.raises(UserError, match="state_dtype"):
        Engine(hybrid, state_dtype="bfloat16")


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_a_slot_whose_state_was_no_number_serves_the_next_request(hybrid, dtype):
    """A sequence that overflows ends by itself, and takes no other along."""
    params = SamplingParams(max_tokens=20, temperature=0, ignore_eos=True)
    expected = Engine(hybrid, slots=1, capacity=64, state_dtype=dtype).generate([[3, 5]], params)
    engine = Engine(hybrid, slots=1, capacity=64, state_dtype=dtype)
    pool = engine._runner.pool
    parts = [x for x in pool._states() if x.is_floating_point()]
    for part in parts:
        part.fill_(float("nan"))
    assert engine.generate([[3, 5]], params)[0].tokens == expected[0].tokens
    for part in parts:
        part.fill_(float("nan"))
    pool.cache.reset()
    assert not any(part.any() for part in parts)
