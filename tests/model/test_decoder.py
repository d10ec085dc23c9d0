"""One forward: any split, packing, order of spans or slots gives the same logits."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cairn.base import UserError
from cairn.model import Cache, ModelConfig, Spans, build
from cairn.model.decoder import drawn, empty
from cairn.ops.loss import linear_cross_entropy

NEAR = {"rtol": 0, "atol": 1e-4}


@pytest.fixture(scope="module")
def tiny(each_tiny):
    """Every property holds for every family."""
    return each_tiny


@pytest.fixture(scope="module")
def model(tiny, roughen):
    return roughen(build(tiny, seed=1)).eval()


PRESETS = {
    "nemotron_h": ("nemotron-nano-9b-v2",),
    "mamba2": (),
    "starcoder2": ("starcoder2-3b", "starcoder2-15b"),
    "llama": ("llama-3.1-8b",),
    "qwen2": ("qwen2.5-7b",),
    "qwen3": ("qwen3-8b",),
}
CUTS = st.lists(st.integers(1, 9), min_size=1, max_size=6)


def some_tokens(config: ModelConfig, count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(config.vocab_size, (count,), generator=generator)


def reach(config: ModelConfig) -> tuple[int, int]:
    """How many tokens, its own included, a token reaches in one layer's window, and in all."""
    windows = [window for window in config.windows if window]
    if "M" in config.pattern or None in config.windows:
        return 1_000, 1_000
    return min(windows), 1 + sum(window - 1 for window in windows)


def alone(model, tokens: torch.Tensor) -> torch.Tensor:
    return model.logits(tokens[None])[0]


@settings(max_examples=30, deadline=None)
@given(pieces=CUTS)
@torch.no_grad()
def test_any_split_gives_the_same_logits(model, pieces):
    tokens = some_tokens(model.config, sum(pieces))
    cache = Cache(model.config, slots=3, capacity=64)
    got = [model(part, Spans.of([len(part)], [1]), cache) for part in tokens.split(pieces)]
    torch.testing.assert_close(torch.cat(got), alone(model, tokens), **NEAR)
    assert cache.lengths.tolist() == [0, sum(pieces), 0]


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(0, 13), min_size=1, max_size=5).filter(any))
@torch.no_grad()
def test_any_packing_and_order_gives_the_same_logits(model, lengths):
    parts = [some_tokens(model.config, n, seed=i) for i, n in enumerate(lengths)]
    packed = model(torch.cat(parts), Spans.of(lengths)).split(lengths)
    back = model(torch.cat(parts[::-1]), Spans.of(lengths[::-1])).split(lengths[::-1])
    for part, one, other in zip(parts, packed, back[::-1], strict=True):
        torch.testing.assert_close(one, other, **NEAR)
        if len(part):
            torch.testing.assert_close(one, alone(model, part), **NEAR)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
@torch.no_grad()
def test_ragged_mixtures_of_prefill_and_decode_in_any_slots(model, data):
    count = data.draw(st.integers(1, 4))
    slots = data.draw(st.permutations(range(5)))[:count]
    cache = Cache(model.config, slots=5, capacity=32)
    texts = [some_tokens(model.config, 24, seed=i) for i in range(count)]
    seen: list[list[torch.Tensor]] = [[] for _ in texts]
    for _ in range(data.draw(st.integers(1, 5))):
        order = data.draw(st.permutations(range(count)))
        lengths = [data.draw(st.sampled_from([0, 1, 1, 2, 5])) for _ in order]
        starts = [sum(map(len, seen[i])) for i in order]
        lengths = [min(n, 24 - start) for n, start in zip(lengths, starts, strict=True)]
        parts = [texts[i][a : a + n] for i, a, n in zip(order, starts, lengths, strict=True)]
        if not sum(lengths):
            continue
        spans = Spans.of(lengths, [slots[i] for i in order])
        for i, out in zip(order, model(torch.cat(parts), spans, cache).split(lengths), strict=True):
            seen[i].append(out)
    for text, outs in zip(texts, seen, strict=True):
        whole = alone(model, text)
        got = torch.cat(outs) if outs else whole[:0]
        torch.testing.assert_close(got, whole[: len(got)], **NEAR)


@torch.no_grad()
def test_a_reset_slot_remembers_nothing(model):
    tokens = some_tokens(model.config, 9)
    cache = Cache(model.config, slots=2, capacity=16)
    first = model(tokens, Spans.of([9]), cache)
    cache.reset([0])
    torch.testing.assert_close(model(tokens, Spans.of([9]), cache), first, rtol=0, atol=0)


@torch.no_grad()
def test_a_later_token_changes_nothing_before(model):
    tokens = some_tokens(model.config, 19)
    before = alone(model, tokens)
    for place in (0, 3, 4, 11, 18):
        changed = tokens.clone()
        changed[place] = (changed[place] + 1) % model.config.vocab_size
        after = alone(model, changed)
        torch.testing.assert_close(after[:place], before[:place], rtol=0, atol=1e-6)
        near, far = reach(model.config)
        reached = slice(place, place + near)
        assert (after[reached] - before[reached]).abs().amax(-1).min() > 1e-4
        torch.testing.assert_close(after[place + far :], before[place + far :], rtol=0, atol=1e-6)


@torch.no_grad()
def test_nothing_passes_between_packed_documents(model):
    parts = [some_tokens(model.config, n, seed=n) for n in (7, 10, 5)]
    poisoned = model.backbone.embeddings.weight.clone()
    free = next(i for i in range(61) if not any((p == i).any() for p in parts))
    tokens = torch.cat(parts)
    expected = model.hidden(tokens, Spans.of([7, 10, 5])).split([7, 10, 5])
    model.backbone.embeddings.weight[free] = float("nan")
    tokens[7:17] = free
    got = model.hidden(tokens, Spans.of([7, 10, 5])).split([7, 10, 5])
    model.backbone.embeddings.weight.copy_(poisoned)
    assert got[1].isnan().all()
    torch.testing.assert_close(got[0], expected[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(got[2], expected[2], rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("asked", [[], [0, 16], [9]])
def test_rows_that_nobody_asks_for_may_be_left_out(model, asked):
    tokens, spans = some_tokens(model.config, 17), Spans.of([7, 10])
    caches = [Cache(model.config, 2, 20) for _ in range(2)]
    whole = model.hidden(tokens, spans, caches[0])
    got = model.hidden(tokens, spans, caches[1], asked)
    torch.testing.assert_close(got[asked], whole[asked], rtol=0, atol=1e-5)
    assert got.isfinite().all()
    assert got.shape == whole.shape
    more = [model(tokens[:2], Spans.of([1, 1]), cache) for cache in caches]
    torch.testing.assert_close(more[1], more[0], rtol=0, atol=1e-5)  # they remember the same


def test_gradients_are_equal_across_packing(tiny):
    lengths = [7, 1, 12, 4]
    parts = [some_tokens(tiny, n, seed=n) for n in lengths]

    def gradients(batches: list[list[torch.Tensor]]) -> dict[str, torch.Tensor]:
        model = build(tiny, seed=3)
        for batch in batches:
            tokens = torch.cat(batch)
            hidden = model.hidden(tokens, Spans.of([len(part) for part in batch]))
            linear_cross_entropy(
                hidden, model.lm_head.weight, tokens, torch.ones(len(tokens))
            ).backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    together, apart = gradients([parts]), gradients([[part] for part in parts])
    assert set(together) == {name for name, _ in build(tiny).named_parameters()}
    for name, grad in together.items():
        torch.testing.assert_close(grad, apart[name], rtol=1e-3, atol=1e-4, msg=name)


def test_gradients_agree_with_finite_differences_through_the_whole_model(tiny):
    model = build(tiny, seed=3, dtype=torch.float64)
    tokens = some_tokens(tiny, 11)
    spans = Spans.of([6, 5])

    def loss() -> torch.Tensor:
        logits = model(tokens, spans)
        return torch.nn.functional.cross_entropy(logits, tokens, reduction="sum")

    loss().backward()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        along = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(along, alpha=sign * 1e-5)
                ends.append(loss())
                parameter.sub_(along, alpha=sign * 1e-5)
        slope = (ends[0] - ends[1]) / 2e-5
        wanted = (parameter.grad * along).sum()
        torch.testing.assert_close(slope, wanted, rtol=1e-4, atol=1e-6, msg=name)


def test_bf16_autocast_trains_on_nearly_the_same_gradient(tiny):
    model = build(tiny, seed=3)
    tokens, spans = some_tokens(tiny, 40), Spans.of([25, 15])

    def gradient() -> torch.Tensor:
        hidden = model.hidden(tokens, spans)
        loss = linear_cross_entropy(hidden, model.lm_head.weight, tokens, torch.ones(40))
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, [*model.parameters()])])

    exact = gradient()
    with torch.autocast("cpu", torch.bfloat16):
        near = gradient()
    assert (near - exact).norm() < 0.05 * exact.norm()


def test_initialisation_reaches_every_parameter(tiny):
    model = build(tiny)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    model.initialise(seed=5)
    left = [name for name, p in model.named_parameters() if p.isnan().any()]
    assert left == []
    again = build(tiny, seed=5).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in model.state_dict().items())
    other = build(tiny, seed=6).state_dict()
    assert not torch.equal(other["lm_head.weight"], again["lm_head.weight"])


def test_initial_decays_and_steps_are_in_the_range_of_the_paper(tinies):
    mixer = build(tinies["nemotron_h"]).backbone.layers[0].mixer
    rate, step = mixer.A_log.exp(), torch.nn.functional.softplus(mixer.dt_bias)
    assert ((rate >= 1) & (rate <= 16)).all()
    assert ((step >= 0.99e-3) & (step <= 0.101)).all()
    assert (mixer.D == 1).all()


def test_the_model_has_as_many_parameters_and_tensors_as_its_configuration_says(tiny):
    for config in (tiny, *map(ModelConfig.preset, PRESETS[tiny.family])):
        with torch.device("meta"):
            parameters = dict(empty(config, "meta").named_parameters())
        assert sum(p.numel() for p in parameters.values()) == config.parameters
        assert len(parameters) == config.tensors


def test_bf16_models_keep_some_parameters_and_all_states_in_fp32(tinies):
    tiny = tinies["nemotron_h"]
    model = build(tiny, dtype=torch.bfloat16)
    kept = {n.rpartition(".")[2] for n, p in model.named_parameters() if p.dtype == torch.float32}
    assert kept == {"A_log", "D", "dt_bias"}
    cache = Cache(tiny, 1, 8, dtype=torch.bfloat16)
    assert cache.layers[0].state.dtype == torch.float32
    tokens = some_tokens(tiny, 8)
    with torch.no_grad():
        whole = model(tokens, Spans.of([8]))
        parts = torch.cat([model(t[None], Spans.of([1]), cache) for t in tokens])
    assert whole.dtype == torch.float32
    torch.testing.assert_close(parts, whole, rtol=0, atol=3e-2)


def test_tied_embeddings_are_one_tensor(tiny):
    config = dataclasses.replace(tiny, tie_embeddings=True)
    model = build(config)
    assert model.lm_head.weight is model.backbone.embeddings.weight
    assert sum(p.numel() for p in model.parameters()) == config.parameters
    assert len(list(model.parameters())) == config.tensors


def test_mistakes_are_named(model, tiny):
    cache = Cache(tiny, slots=2, capacity=4)
    tokens = some_tokens(tiny, 6)
    for spans, message in (
        (Spans.of([6]), "over its capacity of 4"),
        (Spans.of([3, 3], [1, 1]), "used twice"),
        (Spans.of([3, 3], [1, 2]), "the cache has 2"),
        (Spans.of([5]), "give a flat list"),
    ):
        with pytest.raises(ValueError, match=message):
            model(tokens, spans, cache)
    with pytest.raises(ValueError, match="must rise"):
        Spans(torch.tensor([0, 4, 2]))
    with pytest.raises(ValueError, match="slots"):
        Spans.of([1, 2], [0])
    undecided = dataclasses.replace(tiny, vocab_size=0)
    with pytest.raises(UserError, match="vocab_size"):
        build(undecided)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_gpu_computes_what_the_cpu_computes(tiny):
    host, there = build(tiny, seed=3), build(tiny, seed=3, device="cuda")
    tokens, lengths = some_tokens(tiny, 30), [17, 0, 1, 12]
    hidden = [m.hidden(tokens.to(m.device), Spans.of(lengths)) for m in (host, there)]
    torch.testing.assert_close(hidden[1].cpu(), hidden[0], rtol=0, atol=1e-3)
    for m, h in zip((host, there), hidden, strict=True):
        weights = torch.ones(30, device=m.device)
        linear_cross_entropy(h, m.lm_head.weight, tokens.to(m.device), weights).backward()
    for (name, p), q in zip(host.named_parameters(), there.parameters(), strict=True):
        assert p.grad is not None
        assert q.grad is not None
        torch.testing.assert_close(q.grad.cpu(), p.grad, rtol=1e-2, atol=1e-3, msg=name)
    cache = Cache(tiny, 2, 32, "cuda")
    with torch.no_grad():
        parts = [
            there(part, Spans.of([len(part)], [1]), cache) for part in tokens.split([9, 1, 20])
        ]
        torch.testing.assert_close(torch.cat(parts).cpu(), alone(host, tokens), rtol=0, atol=1e-3)


def test_parameters_drawn_one_module_at_a_time_are_those_of_a_built_model(tiny):
    wanted = dict(build(tiny, seed=3).named_parameters())
    found = [(name, tensor.clone()) for name, tensor in drawn(tiny, seed=3)]
    assert sorted(name for name, _ in found) == sorted(wanted)
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in found)
