"""FP8 in the one loop: which layers, what a step counts, resuming, and mistakes."""

import json
from dataclasses import replace

import pytest
import torch

from cairn.base import UserError
from cairn.model import Decoder, ModelConfig, Spans, build
from cairn.ops import paths
from cairn.tokens import PretrainingStream
from cairn.train import NextToken, TrainSettings, train
from cairn.train.precision import autocast, scaled, scaled_layers

RECIPES = ("current", "block")
CONFIG = ModelConfig(
    pattern="M-M*-M-",
    vocab_size=512,
    hidden_size=64,
    intermediate_size=160,
    attention_heads=4,
    key_value_heads=2,
    head_dim=16,
    mamba_heads=16,
    mamba_head_dim=16,
    state_size=16,
    groups=2,
    chunk_size=16,
    max_positions=256,
)
SETTINGS = TrainSettings(
    steps=6, sequences=2, sequence_length=48, lr=3e-3, warmup=2, save_every=2, precision="fp32"
)


def loss_of(model: Decoder, precision: str) -> torch.Tensor:
    ids = torch.arange(96) * 7 % 500
    with scaled(model, precision), autocast(precision, model.device):
        hidden = model.hidden(ids, Spans.of([48, 48]))
    return torch.nn.functional.cross_entropy(model.head(hidden.float()), ids.roll(-1))


@pytest.mark.parametrize("recipe", RECIPES)
def test_two_layers_at_either_end_and_the_output_matrix_stay(recipe):
    model = build(CONFIG)
    found = {name.split(".", 2)[2] for name in scaled_layers(model)}
    assert found == {
        "2.mixer.in_proj", "2.mixer.out_proj", "3.mixer.q_proj", "3.mixer.k_proj",
        "3.mixer.v_proj", "3.mixer.o_proj", "4.mixer.up_proj", "4.mixer.down_proj",
    }  # fmt: skip
    with paths.recorded() as taken:
        loss_of(model, recipe).backward()
    assert sum(choice.op == "fp8_product" for choice in taken) == 3 * len(found)
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize("recipe", RECIPES)
def test_losses_are_near_those_in_bf16_and_evaluation_is_not_touched(recipe):
    model = build(CONFIG)
    near, bf16 = loss_of(model, recipe), loss_of(model, "bf16")
    assert near != bf16
    assert near.item() == pytest.approx(bf16.item(), rel=0.02)
    plain = model.hidden(torch.arange(20), Spans.of([20]))
    with scaled(model, recipe):
        assert torch.equal(model.hidden(torch.arange(20), Spans.of([20])), plain)


@pytest.mark.parametrize("recipe", RECIPES)
def test_training_counts_and_resumes_bit_for_bit(tmp_path, training, tokenizer, recipe):
    config = replace(CONFIG, vocab_size=tokenizer.vocab_size)
    settings = replace(SETTINGS, precision=recipe)
    stream = PretrainingStream(training, tokenizer, settings.sequence_length, seed=5)
    models = [build(config, seed=1) for _ in range(3)]
    facts = train(models[0], NextToken(), stream, settings, tmp_path / "a")

    class Stop(NextToken):
        left = 3

        def __call__(self, model, batch):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return super().__call__(model, batch)

    with pytest.raises(KeyboardInterrupt):
        train(models[1], Stop(), stream, settings, tmp_path / "b")
    assert train(models[2], NextToken(), stream, settings, tmp_path / "b") == facts
    for one, other in zip(models[0].parameters(), models[2].parameters(), strict=True):
        assert torch.equal(one, other)
    lines = [json.loads(line) for line in (tmp_path / "a/metrics.jsonl").read_text().splitlines()]
    for line in lines:
        assert (line["fp8_nan"], line["fp8_overflow"]) == (0, 0)
        assert 0 <= line["fp8_underflow_gradients"] < 0.5
    assert all(module.scaled is None for module in scaled_layers(models[0]).values())


@pytest.mark.parametrize(
    ("changed", "named"),
    [({"pattern": "M-M-"}, "pattern"), ({"mamba_heads": 10, "mamba_head_dim": 16}, "in_proj")],
)
def test_what_fp8_cannot_do_is_told(changed, named):
    with pytest.raises(UserError, match=named), scaled(build(replace(CONFIG, **changed)), "block"):
        pass
