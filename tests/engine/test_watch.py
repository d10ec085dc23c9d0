"""What counts as other weights."""

import copy

import pytest
import torch
from torch import nn

from cairn.engine.watch import Watch
from cairn.model import build

from ..fixtures.shapes import untrained


@pytest.fixture
def watched():
    model = build(untrained("M*-", 40), seed=0)
    return model, Watch(model)


def test_nothing_changes_by_itself(watched):
    model, watch = watched
    assert not watch.changed()
    model.logits(torch.zeros(1, 3, dtype=torch.int64))
    assert not watch.changed()


def in_place(model):
    with torch.no_grad():
        model.lm_head.weight.mul_(2)


def moved(model):
    model.lm_head.weight.data = model.lm_head.weight.data.clone()


def replaced(model):
    model.backbone.norm_f.weight = nn.Parameter(model.backbone.norm_f.weight.detach().clone())


def other_layer(model):
    model.backbone.layers[1].mixer = copy.deepcopy(model.backbone.layers[1].mixer)


def one_more(model):
    model.backbone.extra = nn.Linear(2, 2)


def one_less(model):
    del model.backbone.layers[2]


def inside_a_leaf(model):
    model.lm_head.extra = nn.Linear(2, 2)


def of_a_block(model):
    model.backbone.layers[0].scale = nn.Parameter(torch.ones(1))


def new_dtype(model):
    model.to(torch.bfloat16)


CHANGES = [
    in_place, moved, replaced, other_layer, one_more, one_less, inside_a_leaf, of_a_block,
    new_dtype,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_is_seen_once(watched, change):
    model, watch = watched
    change(model)
    assert watch.changed()
    assert not watch.changed()
    change(model) if change is in_place else in_place(model)
    assert watch.changed()


def test_weights_of_inference_are_watched_by_their_place():
    with torch.inference_mode():
        model = build(untrained("M*-", 40), seed=0)
    watch = Watch(model)
    assert not watch.changed()
    with torch.inference_mode():
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.clone(), requires_grad=False)
    assert watch.changed()
