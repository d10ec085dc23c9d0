"""Layers in one compiled call, against the same layers in parts."""

import gc
import weakref

import pytest
import torch

from cairn.model import Cache, ModelConfig, Spans, build
from cairn.ops import paths
from cairn.ops.native.library import native

pytestmark = pytest.mark.skipif(bool(native().missing), reason=native().missing or "compiled")


def steps(model, config: ModelConfig, path: paths.Path | None = None) -> torch.Tensor:
    """Logits of a prompt and of a few steps of two sequences."""
    cache, found = Cache(config, 3, 64), []
    tokens = torch.arange(20) % config.vocab_size
    with torch.no_grad():
        for lengths in ([13, 1], [1, 1], [2, 4]):
            spans = Spans.of(lengths, [2, 0])
            if path is None:
                found.append(model(tokens[: sum(lengths)], spans, cache))
            else:
                with paths.only(path):
                    found.append(model(tokens[: sum(lengths)], spans, cache))
    return torch.cat(found)


def taken(model, config: ModelConfig) -> set[str]:
    with paths.recorded() as choices:
        steps(model, config)
    return {choice.op for choice in choices if choice.path == "native"}


def test_whole_layers_are_their_parts(model, tiny):
    assert {"mamba_layer", "feedforward_layer"} <= taken(model, tiny)
    torch.testing.assert_close(
        steps(model, tiny), steps(model, tiny, "torch"), rtol=1e-4, atol=1e-4
    )


def test_new_parameters_are_seen(tiny, roughen):
    model = roughen(build(tiny, seed=1)).eval()
    before = steps(model, tiny)
    with torch.no_grad():
        for layer in model.backbone.layers:
            layer.norm.weight.mul_(2)  # in place
            layer.norm.weight = torch.nn.Parameter(layer.norm.weight * 2)  # another one
            layer.norm.weight.data = layer.norm.weight * 2  # other memory
    after = steps(model, tiny)
    assert (after - before).abs().max() > 1e-3
    torch.testing.assert_close(after, steps(model, tiny, "torch"), rtol=1e-4, atol=1e-4)


def test_hooks_on_the_parts_are_called(tiny):
    model = build(tiny, seed=1).eval()
    steps(model, tiny)
    heard = []
    hook = model.backbone.layers[0].mixer.register_forward_hook(lambda *_: heard.append(1))
    steps(model, tiny)
    assert len(heard) == 3
    hook.remove()
    assert "mamba_layer" in taken(model, tiny)


def test_models_go_when_nobody_holds_them(tiny):
    model = build(tiny, seed=1).eval()
    steps(model, tiny)
    gone = weakref.ref(model.backbone.layers[0])
    del model
    gc.collect()
    assert gone() is None


def test_gradients_and_bf16_are_computed_in_parts(tiny):
    model = build(tiny, seed=1)
    with paths.recorded() as choices:
        model(torch.arange(5), Spans.of([5])).sum().backward()
        with torch.no_grad():
            narrow = build(tiny, seed=1, dtype=torch.bfloat16)
            narrow(torch.arange(5), Spans.of([5]))
    assert not {"mamba_layer", "feedforward_layer"} & {choice.op for choice in choices}
