"""Pruning against oracles: nothing removed changes nothing, nor does removing what is dead."""

from dataclasses import replace

import pytest
import torch

from cairn.base import Ref, UserError
from cairn.compress import Prune
from cairn.compress.importance import (
    best,
    best_in_groups,
    least_layers,
    width_scores,
    without_layers,
)
from cairn.compress.prune import child_shape, choose, prune
from cairn.model import Decoder, ModelConfig, Spans, build

SHAPE = ModelConfig(
    pattern="M-*M-",
    vocab_size=50,
    hidden_size=24,
    intermediate_size=40,
    attention_heads=4,
    key_value_heads=2,
    head_dim=8,
    mamba_heads=8,
    mamba_head_dim=6,
    state_size=8,
    groups=2,
    chunk_size=16,
    max_positions=128,
    norm_eps=1e-14,  # what a norm adds for safety is all that cutting may change
)


@pytest.fixture
def model() -> Decoder:
    """Weights large enough that every part moves the logits."""
    made = build(SHAPE, seed=3, dtype=torch.float64)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if parameter.ndim >= 2:
                parameter.mul_(5)
            elif "norm" in name:
                parameter.add_(torch.linspace(-0.3, 0.3, len(parameter)))
    return made


@pytest.fixture
def windows() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(50, (20,), generator=generator) for _ in range(4)]


def recipe(**fields: int) -> Prune:
    return Prune(start=Ref("a"), shards=Ref("b"), **fields)


def cut(
    model: Decoder, windows: list[torch.Tensor], layers: list[int] | None = None, **fields: int
):
    layers = list(range(SHAPE.layers)) if layers is None else layers
    shape = child_shape(SHAPE, recipe(**fields), layers)
    return prune(model, shape, choose(SHAPE, shape, layers, width_scores(model, windows)))


def logits(model: Decoder, windows: list[torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.cat(windows), Spans.of([len(w) for w in windows]))


def test_cutting_nothing_changes_nothing(model, windows):
    child = cut(model, windows)
    assert torch.equal(logits(child, windows), logits(model, windows))


@torch.no_grad()
def test_dead_channels_go_without_a_trace(model, windows):
    dead = [1, 5, 6, 17, 23, 11]
    for name, parameter in model.named_parameters():
        if name.endswith(("embeddings.weight",)):
            parameter[:, dead] = 0
        elif name.endswith(("out_proj.weight", "o_proj.weight", "down_proj.weight")):
            parameter[dead] = 0
    child = cut(model, windows, hidden_size=18)
    assert torch.allclose(logits(child, windows), logits(model, windows), atol=1e-8)


@torch.no_grad()
def test_dead_neurons_go_without_a_trace(model, windows):
    for number in (1, 4):
        up = model.backbone.layers[number].mixer.up_proj.weight
        up[torch.arange(0, 40, 4)] = 0
    child = cut(model, windows, intermediate_size=30)
    assert torch.allclose(logits(child, windows), logits(model, windows), atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("axis", ["heads", "channels"])
def test_dead_mamba_heads_or_channels_go_without_a_trace(model, windows, axis):
    width, per_head = SHAPE.mamba_width, SHAPE.mamba_head_dim
    parts = torch.arange(width).view(SHAPE.mamba_heads, per_head)
    dead = parts[[1, 2, 4, 7]].flatten() if axis == "heads" else parts[:, [0, 4]].flatten()
    for number in (0, 3):
        mixer = model.backbone.layers[number].mixer
        mixer.in_proj.weight[width + dead] = 0  # x of the dead: the head's output is 0
        mixer.conv1d.bias[dead] = 0
    fields = {"mamba_heads": 4} if axis == "heads" else {"mamba_head_dim": 4}
    child = cut(model, windows, **fields)
    assert child.config.mamba_width < SHAPE.mamba_width
    assert torch.allclose(logits(child, windows), logits(model, windows), atol=1e-8)


def test_dropping_layers_equals_passing_them_over(model, windows):
    child = cut(model, windows, layers=[0, 2, 4])
    assert child.config.pattern == "M*-"
    with without_layers(model, {1, 3}):
        assert torch.equal(logits(child, windows), logits(model, windows))
    assert len(model.backbone.layers) == 5


def test_the_layer_that_does_least_goes_first(model, windows):
    with torch.no_grad():
        model.backbone.layers[1].mixer.down_proj.weight.mul_(0)
        model.backbone.layers[2].mixer.o_proj.weight.mul_(0.01)
    dropped = least_layers(model, windows, 2)
    assert [entry["layer"] for entry in dropped] == [1, 2]
    assert dropped[0]["mse"] == 0.0
    assert dropped[1]["mse"] > 0.0


def test_planted_parts_are_found_most_important(model, windows):
    with torch.no_grad():
        model.backbone.layers[1].mixer.up_proj.weight[13] *= 50
        width = SHAPE.mamba_width
        model.backbone.layers[0].mixer.in_proj.weight[width + 2 * 6 : width + 3 * 6] *= 50
        model.backbone.embeddings.weight[:, 9] *= 50
    scores = width_scores(model, windows)
    assert scores.neurons[1].argmax() == 13
    assert scores.mamba_heads[0].argmax() == 2
    assert scores.channels.argmax() == 9


def test_heads_are_kept_evenly_in_groups():
    scores = torch.tensor([9.0, 8, 7, 6, 1, 2, 3, 4])
    assert best_in_groups(scores, groups=2, count=4).tolist() == [0, 1, 6, 7]
    assert best(torch.tensor([1.0, 2.0, 2.0, 2.0]), 2).tolist() == [1, 2]


def test_every_axis_together_gives_a_model_of_the_counted_size(model, windows):
    fields = {"hidden_size": 16, "intermediate_size": 20, "mamba_heads": 4, "mamba_head_dim": 4}
    child = cut(model, windows, layers=[0, 1, 3, 4], **fields)
    assert sum(p.numel() for p in child.parameters()) == child.config.parameters
    assert logits(child, windows).isfinite().all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 25}, "hidden_size=25: is more than the parent's 24"),
        ({"mamba_heads": 3}, "mamba_heads=3: is not a multiple of groups=2"),
    ],
)
def test_what_cannot_be_cut_is_refused(fields, message):
    with pytest.raises(UserError, match=message):
        child_shape(SHAPE, recipe(**fields), list(range(5)))


def test_wrong_fields_are_refused():
    with pytest.raises(UserError, match="drop_layers=-1"):
        recipe(drop_layers=-1)
    with pytest.raises(UserError, match="hidden_size=0"):
        recipe(hidden_size=0)
    assert replace(recipe(), windows=3).windows == 3
