"""Layers in one compiled call, against the same layers in parts."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from cairn.model import Cache, ModelConfig, Spans, build, fused
from cairn.model.linear import Linear
from cairn.ops import paths
from cairn.ops.native.library import native

from ..fixtures.units import UNITS, only

pytestmark = pytest.mark.skipif(bool(native().missing), reason=native().missing or "compiled")


def steps(model, config: ModelConfig, path: paths.Path | None = None) -> torch.Tensor:
    """Logits of a prompt and of a few steps of two sequences."""
    cache, found = Cache(config, 3, 64, dtype=model.dtype), []
    tokens = torch.arange(20) % config.vocab_size
    with torch.no_grad():
        for lengths in ([13, 1], [1, 1], [2, 4], [7, 0], [1, 12]):
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


LAYERS = {"M": "mamba_layer", "-": "feedforward_layer", "*": "attention_layer"}


@pytest.mark.parametrize("width", [None, 32, 40])  # of heads: below a vector, whole, and a rest
def test_whole_layers_are_their_parts(each_tiny, roughen, width):
    if width and "*" in each_tiny.pattern:
        each_tiny = replace(each_tiny, head_dim=width)
    model = roughen(build(each_tiny, seed=1)).eval()
    assert {LAYERS[letter] for letter in each_tiny.pattern} <= taken(model, each_tiny)
    torch.testing.assert_close(
        steps(model, each_tiny), steps(model, each_tiny, "torch"), rtol=1e-5, atol=1e-5
    )


def test_keys_are_read_from_pages_that_lie_anywhere(tinies, roughen):
    config = tinies["qwen3"]
    model, tokens = roughen(build(config, seed=1)).eval(), torch.arange(60) % config.vocab_size
    found = []
    for scattered in (False, True):
        cache = Cache(config, 2, 64, pages=[8] if scattered else None)
        if scattered:
            cache.tables[0][:] = [[7, 2, 5, 1], [3, 8, 4, 6]]
        with torch.no_grad():
            parts = [
                model(tokens[: sum(lengths)], Spans.of(lengths, [1, 0]), cache)
                for lengths in ([30, 18], [2, 1], [1, 4], [1, 1])
            ]
        found.append(torch.cat(parts))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


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


def test_other_parts_are_seen(tiny, roughen):
    model = roughen(build(tiny, seed=1)).eval()
    before, other = steps(model, tiny), roughen(build(tiny, seed=2)).eval()
    model.backbone.layers[0] = other.backbone.layers[0]
    after = steps(model, tiny)
    assert (after - before).abs().max() > 1e-3
    torch.testing.assert_close(after, steps(model, tiny, "torch"), rtol=1e-4, atol=1e-4)
    model.backbone.layers[0].mixer.out_proj = other.backbone.layers[2].mixer.out_proj
    last = steps(model, tiny)
    torch.testing.assert_close(last, steps(model, tiny, "torch"), rtol=1e-4, atol=1e-4)


def test_tokens_may_be_of_another_integer_type(tiny):
    model, tokens = build(tiny, seed=1).eval(), torch.arange(5)
    with torch.no_grad():
        found = [model(given, Spans.of([5]), Cache(tiny, 1, 8)) for given in (tokens, tokens.int())]
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("other", [{"pattern": "-"}, {"mamba_heads": 2}, {"conv_kernel": 3}])
def test_a_cache_of_another_form_is_refused(tiny, other):
    """Compiled code writes where it is told."""
    model, cache = build(tiny, seed=1).eval(), Cache(replace(tiny, **other), 1, 8)
    with torch.no_grad(), pytest.raises(ValueError, match="the cache is of a model with other"):
        model(torch.arange(5), Spans.of([5]), cache)


def test_hooks_on_the_parts_are_called(tiny):
    model = build(tiny, seed=1).eval()
    steps(model, tiny)
    heard = []
    hook = model.backbone.layers[0].mixer.register_forward_hook(lambda *_: heard.append(1))
    steps(model, tiny)
    assert len(heard) == 5
    hook.remove()
    assert "mamba_layer" in taken(model, tiny)


class Doubled(Linear):
    """A layer that computes something else with its weight."""

    def forward(self, input):
        return 2 * super().forward(input)


class Twice(nn.Module):
    """A weight computed from the one that is kept."""

    def forward(self, weight):
        return 2 * weight


@pytest.mark.parametrize("after", [False, True], ids=["before use", "after use"])
@pytest.mark.parametrize("computed", [False, True], ids=["another layer", "a computed weight"])
def test_layers_that_compute_otherwise_are_called(tiny, after, computed):
    model, same = build(tiny, seed=1).eval(), build(tiny, seed=1).eval()
    if after:
        steps(model, tiny)
    for block, like in zip(model.backbone.layers, same.backbone.layers, strict=True):
        name = next(n for n in ("out_proj", "o_proj", "down_proj") if hasattr(block.mixer, n))
        one = getattr(block.mixer, name)
        if computed:
            parametrize.register_parametrization(one, "weight", Twice())
        else:
            other = Doubled(one.in_features, one.out_features, bias=one.bias is not None)
            other.load_state_dict(one.state_dict())
            setattr(block.mixer, name, other)
        getattr(like.mixer, name).weight.data.mul_(2)
    torch.testing.assert_close(steps(model, tiny), steps(same, tiny), rtol=1e-5, atol=1e-5)


def test_models_go_when_nobody_holds_them(tiny):
    model = build(tiny, seed=1).eval()
    steps(model, tiny)
    gone = weakref.ref(model.backbone.layers[0])
    del model
    gc.collect()
    assert gone() is None


def test_gradients_are_computed_in_parts(tiny):
    model = build(tiny, seed=1)
    with paths.recorded() as choices:
        model(torch.arange(5), Spans.of([5])).sum().backward()
    assert not {"mamba_layer", "feedforward_layer"} & {choice.op for choice in choices}


@pytest.fixture(params=UNITS)
def units(request):
    with only(request.param):
        yield


@pytest.mark.usefixtures("units")
@pytest.mark.parametrize(("hidden", "head"), [(64, 16), (40, 80)])  # of 16 outputs none or 8 over
def test_layers_in_bf16_are_as_near_as_their_parts(each_tiny, roughen, hidden, head):
    inside = {"mamba_head_dim": head} if "M" in each_tiny.pattern else {}
    inside |= {"intermediate_size": 96} if "-" in each_tiny.pattern else {}
    config = replace(each_tiny, hidden_size=hidden, **inside)  # as tiles want it
    narrow = roughen(build(config, seed=1)).eval().to(torch.bfloat16)
    for module in narrow.modules():
        for name in getattr(module, "keep_fp32", ()):
            getattr(module, name).data = getattr(module, name).data.float()
    wide = build(config, seed=1).eval()
    wide.load_state_dict(narrow.state_dict())
    assert {LAYERS[letter] for letter in config.pattern} <= taken(narrow, config)
    truth = steps(wide, config, "torch")
    got, plain = (steps(narrow, config, path) for path in (None, "torch"))
    nearest = 1.1 * (plain - truth).norm()  # both end in rounding to bf16, which is most of it
    assert (got - truth).norm() <= nearest


@pytest.mark.parametrize("token", [-1, 61])
def test_a_token_of_no_vocabulary_is_told(tiny, token):
    model = build(replace(tiny, vocab_size=61), seed=1).eval()
    with torch.no_grad(), pytest.raises(IndexError):
        model(torch.tensor([token]), Spans.of([1]), Cache(tiny, 1, 8))


@pytest.fixture(params=[1, 2, 3], ids=["one", "two", "three"])
def threads(request):
    """Three share no groups of two evenly: then all take parts of every step."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def wider(config: ModelConfig, dtype: torch.dtype):
    """As matrix units want it, in a dtype whose logits are told apart."""
    model = build(replace(config, hidden_size=64, initializer_range=0.3), seed=1, dtype=dtype)
    return model.eval(), model.config


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("batch", [1, 5, 16, 20])
def test_the_likeliest_are_those_of_the_logits(tiny, dtype, batch):
    model, config = wider(tiny, dtype)
    tokens, spans = torch.arange(batch) % config.vocab_size, Spans.of([1] * batch)
    caches = [Cache(config, batch, 8, dtype=dtype) for _ in range(4)]
    with torch.no_grad():
        for _ in range(3):
            highest, likeliest = model.likeliest(tokens, spans, caches[0])
            logits = model(tokens, spans, caches[1])
            parts = model.head(model.hidden(tokens, spans, caches[2]))
            assert torch.equal(logits, parts)
            assert torch.equal(highest, logits.amax(-1))
            assert torch.equal(likeliest, logits.argmax(-1))
            with paths.only("torch"):
                plain, _ = model.likeliest(tokens, spans, caches[3])
            torch.testing.assert_close(
                highest, plain, rtol=1e-4 if dtype == torch.float32 else 0.05, atol=0.05
            )
            tokens = likeliest


@pytest.mark.usefixtures("threads")
def test_layers_on_any_number_of_threads_are_their_parts(tiny, roughen):
    model = roughen(build(tiny, seed=1)).eval()
    torch.testing.assert_close(
        steps(model, tiny), steps(model, tiny, "torch"), rtol=1e-5, atol=1e-5
    )


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("vocabulary", [1, 3, 61, 300])
def test_the_first_of_equal_logits_and_any_nan_are_found(tiny, vocabulary):
    model = build(replace(tiny, vocab_size=vocabulary), seed=1).eval()
    spans, tokens = Spans.of([1] * 2), torch.zeros(2, dtype=torch.int64)

    def found() -> tuple[list[float], list[int]]:
        with torch.no_grad():
            given = model.likeliest(tokens, spans, Cache(model.config, 2, 8))
        return given[0].tolist(), given[1].tolist()

    with torch.no_grad():
        model.lm_head.weight.zero_()
        assert found() == ([0.0] * 2, [0] * 2)
        model.lm_head.weight[vocabulary // 2] = torch.nan
        highest, likeliest = found()
        assert all(value != value for value in highest)
        assert likeliest == [vocabulary // 2] * 2
        model.lm_head.weight.fill_(-torch.inf)
        model.backbone.norm_f.weight.abs_()
        assert found()[1] == torch.full((2, vocabulary), torch.nan).argmax(-1).tolist()


def test_who_listens_to_the_output_matrix_is_told(tiny):
    model, heard = build(tiny, seed=1).eval(), []
    model.lm_head.register_forward_hook(lambda *_: heard.append(1))
    with torch.no_grad():
        for call in (model, model.likeliest):
            call(torch.arange(5), Spans.of([5]), Cache(tiny, 1, 8))
    assert len(heard) == 2


def test_caches_go_when_nobody_holds_them(tiny):
    model, cache = build(tiny, seed=1).eval(), Cache(tiny, 1, 8)
    with torch.no_grad():
        model(torch.arange(5), Spans.of([5]), cache)
    gone = weakref.ref(cache.state)
    del cache
    gc.collect()
    assert gone() is None


def other_memory(model, _) -> None:
    model.backbone.layers[0].norm.weight.data = model.backbone.layers[0].norm.weight * 2


def other_parameter(model, _) -> None:
    norm = model.backbone.layers[1].norm
    norm.weight = torch.nn.Parameter(norm.weight * 0.5)


def other_head(model, _) -> None:
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight * -1)


def other_threads(*_) -> None:
    torch.set_num_threads(THREADS % 2 + 1)


def another_table(_, cache) -> None:
    cache.tables[0] = cache.tables[0][::-1].copy()  # pages of others: what is there is nothing


def other_pools(_, cache) -> None:
    old = cache.layers[0]
    cache.layers[0] = type(old)(old.window * 2, old.state * 2)


THREADS = torch.get_num_threads()
CHANGES = [other_memory, other_parameter, other_head, other_threads, another_table, other_pools]


@pytest.mark.parametrize("change", CHANGES)
def test_a_call_that_is_kept_is_the_one_that_would_be_made(tiny, roughen, change):
    """Token by token over the same spans, with something changed on the way, bit by bit."""
    sides = [(roughen(build(tiny, seed=1)).eval(), Cache(tiny, 3, 64)) for _ in range(3)]
    found: list[list[torch.Tensor]] = [[], [], []]
    try:
        with torch.no_grad():
            for number in range(9):
                for side, (model, cache) in enumerate(sides):
                    if number == 5 and side < 2:
                        change(model, cache)
                    if side:
                        fused._kept.pop(model.backbone, None)
                    tokens, spans = torch.tensor([number, number + 1]), Spans.of([1, 1], [2, 0])
                    given = (model.hidden, model, model.likeliest)[number % 3](tokens, spans, cache)
                    found[side] += given if isinstance(given, tuple) else [given]
    finally:
        torch.set_num_threads(THREADS)
    kept, anew, unchanged = found
    assert all(map(torch.equal, kept, anew))
    assert change is other_threads or not all(map(torch.equal, kept, unchanged))


def test_a_call_is_made_once_for_the_same_spans(tiny, monkeypatch):
    model, cache, made, real = build(tiny, seed=1).eval(), Cache(tiny, 3, 64), [], fused.Prepared
    monkeypatch.setattr(fused, "Prepared", lambda *given: made.append(1) or real(*given))
    with torch.no_grad():
        for slots, count in (([2, 0], 1), ([2, 0], 1), ([0, 2], 2), ([0, 2], 2)):
            model(torch.tensor([3, 4]), Spans.of([1, 1], slots), cache)
            assert len(made) == count
        model(torch.tensor([3, 4]), Spans.of([1, 1], [0, 2]), Cache(tiny, 3, 64))
        model(torch.tensor([3, 4]), Spans.of([1, 1], [0, 2]), cache)
    assert len(made) == 3
