"""One live model that learns and serves in turn, as reinforcement learning has it."""

import pytest
import torch

from cairn.engine import Engine, SamplingParams
from cairn.model import Spans, build, load, save
from cairn.model.attention import Attention
from cairn.model.feedforward import MLP
from cairn.model.joined import apart, join

from ..fixtures.shapes import LIVELY, WINDOW, untrained

PARAMS = SamplingParams(max_tokens=24, temperature=0.0, ignore_eos=True)
GPU = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    ],
)


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_an_engine_that_was_made_in_inference_mode_follows_a_model_that_learns(
    words, device, tmp_path
):
    """Its matrices are joined there; it draws what a new engine draws of what was saved."""
    fields = LIVELY | WINDOW | {"max_positions": 512}
    model = build(untrained("*-*-", words.vocab_size, **fields), seed=1).to(device)
    prompts = ["def ", "import json\n" * 30]
    learning = torch.optim.AdamW(model.parameters(), lr=0.01)
    with torch.inference_mode():
        assert join(model) == 4  # as engines on a GPU do
        engine = Engine(model, words, slots=2)
        before = [one.tokens for one in engine.generate(prompts, PARAMS)]
    ids = torch.arange(60, device=device)
    for _ in range(2):
        learning.zero_grad()
        guesses = model(ids, Spans.of([60])).log_softmax(-1)[:-1]
        (-guesses.gather(1, ids[1:, None]).mean()).backward()
        assert all(p.grad is not None for p in model.parameters())
        learning.step()
        done = [one.tokens for one in engine.generate(prompts, PARAMS)]
        save(model, tmp_path)
        fresh = Engine(load(tmp_path).to(device), words, slots=2).generate(prompts, PARAMS)
        assert done == [one.tokens for one in fresh]
        assert done != before
        before = done
    mixers = [module for module in model.modules() if isinstance(module, Attention | MLP)]
    assert not any(apart(mixer.together) for mixer in mixers)
