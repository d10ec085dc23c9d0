"""A batch-invariant engine: the bits of a request, whatever runs beside it."""

from dataclasses import replace

import pytest
import torch

from cairn.base import UserError
from cairn.engine import Caching, Engine, SamplingParams, Speculation
from cairn.engine.scheduler import Scheduler
from cairn.engine.weights import narrow_weights
from cairn.model import ModelConfig, build
from cairn.ops.order import ordered_product

PATTERNS = ("M-*M*-", "*-*-", "M-M-")


def lively(base: ModelConfig, pattern: str) -> ModelConfig:
    """Of the small model, with dimensions that FP8 products take."""
    return replace(base, pattern=pattern, mamba_heads=16, vocab_size=48)


def bits(engine: Engine, prompts, params, together: bool) -> list[tuple]:
    """All that a request gives, log-probabilities to the last bit."""
    if together:
        done = engine.generate(prompts, params)
    else:
        done = [engine.generate([one], [own])[0] for one, own in zip(prompts, params, strict=True)]
    return [
        (one.tokens, one.logprobs, one.top_logprobs, one.prompt_logprobs, one.finish_reason)
        for one in done
    ]


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_bits_do_not_depend_on_company(model, pattern, narrow):
    dice = torch.Generator().manual_seed(1)
    prompts = [
        torch.randint(1, 40, (length,), generator=dice).tolist()
        for length in (1, 300, 9, 33, 520, 70, 3, 257)
    ]
    params = [
        SamplingParams(max_tokens=6 + n, temperature=n % 2, seed=n, logprobs=3, prompt_logprobs=1)
        for n in range(len(prompts))
    ]
    model = build(lively(model.config, pattern), seed=3)
    if narrow:
        narrow_weights(model)
    found = [
        bits(Engine(model, slots=slots, capacity=560, invariant=True), prompts, params, together)
        for slots, together in ((1, False), (8, True), (3, True))
    ]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("rows", [1, 5, 16, 40])
def test_a_row_of_an_ordered_product_is_the_same_in_any_company(rows):
    x, weight = torch.randn(90, 300), torch.randn(70, 300)
    whole = ordered_product(x, weight)
    torch.testing.assert_close(whole, x @ weight.t(), rtol=1e-4, atol=1e-3)
    for start in (0, 7, 50):
        assert torch.equal(ordered_product(x[start : start + rows], weight), whole[start:][:rows])


def test_what_would_vary_is_refused(model):
    with pytest.raises(UserError, match="prefixes"):
        Engine(model, invariant=True, caching=Caching())
    with pytest.raises(UserError, match="guess"):
        Engine(model, invariant=True, speculation=Speculation())
    allocation = Engine(model, slots=1)._allocation
    with pytest.raises(UserError, match="pieces of 8"):
        Scheduler(2, 9, allocation, every=8)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("narrow", [False, True])
def test_bits_do_not_depend_on_company_on_a_gpu(model, narrow):
    config = lively(model.config, PATTERNS[0])
    model = build(config, seed=3, device="cuda", dtype=torch.bfloat16)
    if narrow:
        narrow_weights(model)
    prompts = [[1 + (n * 7 + i) % 39 for i in range(20 + 300 * n)] for n in range(9)]
    params = [SamplingParams(max_tokens=12, temperature=0, logprobs=3) for _ in prompts]
    found = [
        bits(Engine(model, slots=slots, capacity=2600, invariant=True), prompts, params, together)
        for slots, together in ((1, False), (9, True))
    ]
    assert found[0] == found[1]
