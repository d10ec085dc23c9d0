"""Matrices side by side: one product for all, while parameters stay what they are."""

import copy
from dataclasses import replace

import pytest
import torch

from cairn.engine.watch import Watch
from cairn.engine.weights import join_weights, narrow_weights, put_weights, replace_weights
from cairn.model import Cache, Spans, build, load, save
from cairn.model.joined import apart, join
from cairn.ops import paths
from cairn.ops.order import fixed_order


def groups(model):
    mixers = [block.mixer for block in model.backbone.layers]
    return [m.together for m in mixers if getattr(m, "together", ())]


def drawn(config, roughen, seed: int = 1, **more):
    return roughen(build(config, seed, **more)).eval()


def tokens(config, count: int = 40):
    return torch.arange(count) * 7 % config.vocab_size


@torch.no_grad()
def answers(model, ids) -> list[torch.Tensor]:
    """Logits of all tokens at once, and of the same a few at a time."""
    whole = model(ids, Spans.of([len(ids)]))
    cache, parts = Cache(model.config, 1, len(ids)), []
    for part in (*ids[:6].split(1), ids[6:]):
        parts.append(model(part, Spans.of([len(part)]), cache))
    return [whole, torch.cat(parts)]


def products_in(taken) -> set[str]:
    return {choice.path for choice in taken if choice.op == "joined_products"}


def test_joined_products_give_what_single_ones_give(each_tiny, roughen):
    plain = drawn(each_tiny, roughen)
    joined = copy.deepcopy(plain)
    count = join(joined)
    assert count == len(groups(joined))
    assert not any(map(apart, groups(joined)))
    assert join(joined) == count  # and nothing moves
    ids = tokens(each_tiny)
    with fixed_order(), paths.recorded() as taken:  # or a CPU computes layers whole
        found = answers(joined, ids)
    assert products_in(taken) == ({"native"} if count else set())
    with fixed_order():
        wanted = answers(plain, ids)
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one.argmax(-1), other.argmax(-1))
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    for one, other in zip(answers(joined, ids), answers(plain, ids), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_parameters_stay_what_they_are(tinies, roughen, tmp_path):
    model = drawn(tinies["starcoder2"], roughen)
    before, kept = dict(model.named_parameters()), copy.deepcopy(model.state_dict())
    sizes = {name: p.nbytes for name, p in before.items()}
    save(model, tmp_path / "plain")
    join(model)
    after = dict(model.named_parameters())
    assert all(after[name] is p for name, p in before.items())
    assert after.keys() == before.keys()
    assert {name: p.nbytes for name, p in after.items()} == sizes
    assert model.state_dict().keys() == kept.keys()
    assert all(torch.equal(t, kept[name]) for name, t in model.state_dict().items())
    save(model, tmp_path / "joined")
    for file in (tmp_path / "plain").iterdir():
        assert file.read_bytes() == (tmp_path / "joined" / file.name).read_bytes()


@torch.no_grad()
def test_other_weights_come_through_the_views(tinies, roughen, tmp_path):
    config = tinies["qwen2"]
    other = drawn(config, roughen, seed=5)
    save(other, tmp_path)
    model = drawn(config, roughen)
    join(model)
    assert replace_weights(model, tmp_path) == len(list(model.parameters()))
    assert not any(map(apart, groups(model)))
    with fixed_order():
        found, wanted = (answers(m, tokens(config)) for m in (model, other))
    torch.testing.assert_close(found, wanted)


@torch.no_grad()
def test_weights_in_8_bits_are_joined_and_replaced_in_place(tinies, roughen):
    config = replace(tinies["qwen3"], hidden_size=32, intermediate_size=48)
    models = [drawn(config, roughen, seed) for seed in (1, 1, 2)]
    for model in models:
        narrow_weights(model)
    joined, plain, other = models
    join(joined)
    assert not any(map(apart, groups(joined)))
    with fixed_order(), paths.recorded() as taken:
        found = answers(joined, tokens(config))
    assert products_in(taken) == {"native"}
    with fixed_order():
        torch.testing.assert_close(found, answers(plain, tokens(config)))
    put_weights(joined, dict(drawn(config, roughen, seed=2).named_parameters()))
    assert not any(map(apart, groups(joined)))
    with fixed_order():
        found, wanted = (answers(m, tokens(config)) for m in (joined, other))
    torch.testing.assert_close(found, wanted)


def test_gradients_are_those_of_single_layers(tinies, roughen):
    config = tinies["qwen2"]
    plain = drawn(config, roughen)
    joined = copy.deepcopy(plain)
    join(joined)
    for model in (plain, joined):
        model(tokens(config), Spans.of([40])).square().mean().backward()
    for one, other in zip(joined.parameters(), plain.parameters(), strict=True):
        assert one.grad is not None
        assert one.grad.shape == one.shape
        torch.testing.assert_close(one.grad, other.grad)
    with torch.no_grad():
        for model in (plain, joined):
            for p in model.parameters():
                p.sub_(p.grad, alpha=0.1)  # as an optimizer does
    assert not any(map(apart, groups(joined)))
    for one, other in zip(
        answers(joined, tokens(config)), answers(plain, tokens(config)), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_model_that_was_joined_in_inference_mode_is_trained_on(tinies, roughen):
    """As where one model draws and learns in turn: an engine may be made where nothing is learned.

    And a change of weights is noticed, by which cached prefixes go.
    """
    plain = drawn(tinies["qwen2"], roughen)
    joined = copy.deepcopy(plain)
    with torch.inference_mode():
        assert join(joined) > 0
    assert not any(map(apart, groups(joined)))
    watch = Watch(joined)
    learn = [torch.optim.AdamW(m.parameters(), lr=0.01, foreach=True) for m in (plain, joined)]
    for _ in range(2):
        for model, optimizer in zip((plain, joined), learn, strict=True):
            optimizer.zero_grad()
            model(tokens(model.config), Spans.of([40])).square().mean().backward()
            optimizer.step()
    assert watch.changed()
    assert not any(map(apart, groups(joined)))
    for one, other in zip(joined.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_parameters_in_memory_of_an_optimizer_stay_there(tinies, roughen):
    """Which steps on the whole: ZeRO's optimizers, and FSDP of the first kind."""
    model = drawn(tinies["llama"], roughen)
    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    at = 0
    for p in model.parameters():
        p.data = flat[at : at + p.numel()].view(p.shape)
        at += p.numel()
    first = model.backbone.layers[0].mixer.together
    if apart(first):  # they may happen to follow each other
        assert "whose owner may write there" in apart(first)
    join(model)
    wanted = answers(model, tokens(model.config))
    flat.mul_(1.25)
    assert not torch.allclose(answers(model, tokens(model.config))[0], wanted[0])
    assert all(
        p.untyped_storage().data_ptr() == flat.untyped_storage().data_ptr()
        for p in model.parameters()
    )


def test_what_came_apart_is_joined_again(tinies, roughen):
    model = drawn(tinies["llama"], roughen)
    join(model)
    first = model.backbone.layers[0].mixer
    first.q_proj.weight = torch.nn.Parameter(first.q_proj.weight.detach().clone())
    assert apart(first.together) != ""
    join(model)
    assert apart(first.together) == ""


@torch.no_grad()
def test_layers_without_parameters_of_their_own_serve_one_by_one(tinies, roughen):
    """As in copies of DataParallel, and where a weight is computed from others."""
    model = drawn(tinies["llama"], roughen)
    ids = tokens(model.config)
    with fixed_order():
        wanted = answers(model, ids)
        for layer in model.backbone.layers[0].mixer.together:
            weight = layer._parameters.pop("weight")
            layer.weight = weight.detach()
        torch.testing.assert_close(answers(model, ids), wanted)
    assert apart(model.backbone.layers[0].mixer.together) == "one is another kind of layer"
    join(model)


@torch.no_grad()
def test_who_listens_to_a_norm_of_heads_hears_it(tinies, roughen):
    model, heard = drawn(tinies["qwen3"], roughen), []
    wanted = answers(model, tokens(model.config))
    norm = model.backbone.layers[0].mixer.q_norm
    with norm.register_forward_hook(lambda _m, _x, y: heard.append(len(y))):
        found = answers(model, tokens(model.config))
    assert heard == [40, *[1] * 6, 34]
    torch.testing.assert_close(found, wanted)


@torch.no_grad()
def test_who_listens_to_a_layer_hears_it(tinies, roughen):
    model = drawn(tinies["llama"], roughen)
    join(model)
    layer, heard = model.backbone.layers[0].mixer, []
    with (
        layer.k_proj.register_forward_hook(lambda _m, _x, y: heard.append(y.shape)),
        paths.recorded() as taken,
    ):
        model(tokens(model.config), Spans.of([40]))
    assert heard == [(40, 16)]
    whole = [choice for choice in taken if choice.op == "joined_products"]
    assert whole
    assert products_in(taken) == {"native"}


def test_what_cannot_be_joined_says_why_and_serves_as_before(tinies, roughen):
    model = drawn(tinies["llama"], roughen)
    wanted = answers(model, tokens(model.config))
    first, second = model.backbone.layers[0].mixer, model.backbone.layers[2].mixer
    assert apart(first.together) == "they lie apart: an engine on a GPU joins them"
    second.v_proj.weight = second.k_proj.weight
    again = answers(model, tokens(model.config))
    assert join(model) == len(groups(model)) - 1
    assert apart(first.together) == ""
    assert apart(second.together) == "one weight serves twice"
    torch.testing.assert_close(answers(model, tokens(model.config)), again)
    assert not torch.equal(again[0], wanted[0])
    first.q_proj.weight = torch.nn.Parameter(first.q_proj.weight.detach().clone())
    assert apart(first.together).startswith("they lie apart")
    torch.testing.assert_close(answers(model, tokens(model.config)), again)
    first.k_proj.half()
    assert apart(first.together) == "weight differs in kind"


def test_layers_that_share_a_weight_are_joined_once(tinies, roughen):
    model = drawn(tinies["llama"], roughen)
    one, other = model.backbone.layers[0].mixer, model.backbone.layers[2].mixer
    other.q_proj.weight = one.q_proj.weight
    assert join(model) == len(groups(model)) - 1
    assert apart(one.together) == ""
    assert apart(other.together) != ""


def test_copies_and_other_dtypes_lie_apart(tinies, roughen):
    model = drawn(tinies["qwen3"], roughen)
    join(model)
    ids = tokens(model.config)
    wanted = answers(model, ids)
    copied = copy.deepcopy(model)
    assert all(map(apart, groups(copied)))
    torch.testing.assert_close(answers(copied, ids), wanted)
    assert all(map(apart, groups(copied.double())))


def test_a_rank_s_share_is_joined_too(tinies, roughen, tmp_path):
    save(drawn(tinies["qwen2"], roughen), tmp_path)
    plain, joined = (load(tmp_path, rank=1, ranks=2) for _ in range(2))
    assert join(joined) == 6
    with fixed_order():
        found, wanted = (answers(m, tokens(m.config)) for m in (joined, plain))
    torch.testing.assert_close(found, wanted)


def test_nothing_moves_on_a_cpu(tinies, roughen):
    model = drawn(tinies["qwen3"], roughen)
    assert join_weights(model) == 0
    assert all(map(apart, groups(model)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("float8", [False, True])
@torch.no_grad()
def test_joined_products_on_a_gpu_and_what_joining_takes(tinies, float8):
    shape = {"hidden_size": 2048, "intermediate_size": 16_384, "attention_heads": 32}
    config = replace(tinies["qwen3"], pattern="*-" * 4, head_dim=64, **shape)
    model = build(config, device="cuda", dtype=torch.bfloat16 if float8 else torch.float32)
    if float8:
        narrow_weights(model)
    ids = tokens(config).cuda()
    wanted = [model(ids[:n], Spans.of([n])) for n in (1, 5, 40)]
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()  # what is reserved has holes that others left
    assert join_weights(model) == 8
    widest = 2 * model.backbone.layers[1].mixer.up_proj.weight.nbytes
    assert torch.cuda.max_memory_allocated() <= before + 1.1 * widest
    assert torch.cuda.memory_allocated() <= before + 0.1 * widest
    with paths.recorded() as taken:
        found = [model(ids[:n], Spans.of([n])) for n in (1, 5, 40)]
    assert products_in(taken) == {"library"}
    for one, other in zip(found, wanted, strict=True):
        assert ((one - other).norm() / other.norm()).item() < (3e-2 if float8 else 1e-4)
    assert [row for row in model.paths() if row.op == "joined_products" and row.why] == []
