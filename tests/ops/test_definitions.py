"""Every fast operation against its definition: values, gradients, any chunking."""

import importlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from cairn.ops import reference
from cairn.ops.activation import gelu_tanh, swiglu
from cairn.ops.attention import AttentionPlan, attention
from cairn.ops.conv import causal_conv, next_window
from cairn.ops.layernorm import layer_norm
from cairn.ops.loss import linear_cross_entropy, linear_kl
from cairn.ops.norm import gated_rms_norm, rms_norm, squared_relu
from cairn.ops.ragged import Chunks
from cairn.ops.rotary import rotate
from cairn.ops.scan import ssd_scan

attention_room = importlib.import_module("cairn.ops.attention")  # the package names its function
pytestmark = pytest.mark.kernels

H, P, G, N, W = 4, 3, 2, 2, 3
LENGTHS = st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(any)


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator, dtype=dtype)


def scan_inputs(lengths: list[int], carried: bool, seed: int = 0) -> list[Tensor]:
    T = sum(lengths)
    inputs = [
        draw(T, H, P, seed=seed),
        draw(T, H, seed=seed + 1).abs(),
        -draw(H, seed=seed + 2).abs(),
        draw(T, G, N, seed=seed + 3),
        draw(T, G, N, seed=seed + 4),
        draw(H, seed=seed + 5),
    ]
    return inputs + ([draw(len(lengths), H, P, N, seed=seed + 6)] if carried else [])


def scan(chunks: Chunks, *inputs: Tensor) -> tuple[Tensor, Tensor]:
    x, dt, A, B, C, D, *state = inputs
    return ssd_scan(x, dt, A, B, C, D, chunks, *state)


@settings(max_examples=40, deadline=None)
@given(LENGTHS, st.integers(1, 12), st.booleans())
def test_scan_is_the_recurrence(lengths, size, carried):
    inputs = scan_inputs(lengths, carried)
    chunks = Chunks.of(lengths, size, W, "cpu")
    expected = reference.ssd_scan(*inputs[:6], lengths, *inputs[6:])
    for got, wanted in zip(scan(chunks, *inputs), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 4, 16])
@pytest.mark.parametrize("carried", [False, True])
def test_scan_gradients(size, carried):
    lengths = [5, 0, 9, 1]
    chunks = Chunks.of(lengths, size, W, "cpu")
    inputs = [t.requires_grad_() for t in scan_inputs(lengths, carried)]
    assert gradcheck(lambda *a: scan(chunks, *a), inputs)


def test_scan_survives_decay_that_overflows():
    lengths = [64]
    inputs = [t.float() for t in scan_inputs(lengths, carried=False)]
    inputs[1] = inputs[1] * 1e4
    inputs = [t.requires_grad_() for t in inputs]
    y, last = scan(Chunks.of(lengths, 64, W, "cpu"), *inputs)
    (y.sum() + last.sum()).backward()
    assert y.isfinite().all()
    assert all(t.grad is not None and t.grad.isfinite().all() for t in inputs)


def test_scan_grouped_heads_use_their_group():
    lengths = [3]
    inputs = scan_inputs(lengths, carried=False)
    y, _ = scan(Chunks.of(lengths, 4, W, "cpu"), *inputs)
    inputs[3][:, 1] += 1  # B of the second group
    other, _ = scan(Chunks.of(lengths, 4, W, "cpu"), *inputs)
    changed = (other - y).abs().amax((0, 2)) > 0
    assert changed.tolist() == [False, False, True, True]


@settings(max_examples=40, deadline=None)
@given(LENGTHS, st.integers(1, 12), st.booleans())
def test_conv_is_the_definition(lengths, size, carried):
    x, weight, bias = draw(sum(lengths), 6), draw(6, 1, W + 1), draw(6)
    window = draw(len(lengths), W, 6) if carried else None
    chunks = Chunks.of(lengths, size, W, "cpu")
    got = causal_conv(x, weight, bias, chunks, window)
    wanted, wanted_window = reference.causal_conv(x, weight, bias, lengths, window)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)
    carried_on = next_window(x, chunks, torch.zeros(len(lengths), W, 6).double())
    if window is not None:
        carried_on = next_window(x, chunks, window)
    torch.testing.assert_close(carried_on, wanted_window, rtol=0, atol=0)


@pytest.mark.parametrize("size", [1, 2, 4, 16])
@pytest.mark.parametrize("carried", [False, True])
def test_conv_gradients(size, carried):
    lengths = [5, 0, 9, 1]
    chunks = Chunks.of(lengths, size, W, "cpu")
    window = draw(len(lengths), W, 4) if carried else None
    inputs = [t.requires_grad_() for t in (draw(15, 4), draw(4, 1, W + 1), draw(4))]

    def run(x, weight, bias):
        return causal_conv(x, weight, bias, chunks, window)

    assert gradcheck(run, inputs)


def test_norms_and_activation():
    x, gate, weight = draw(5, 6), draw(5, 6, seed=1), draw(6, seed=2)
    for fast, slow, inputs in (
        (rms_norm, reference.rms_norm, (x, weight, 1e-5)),
        (gated_rms_norm, reference.gated_rms_norm, (x, gate, weight, 2, 1e-5)),
        (squared_relu, reference.squared_relu, (x,)),
    ):
        torch.testing.assert_close(fast(*inputs), slow(*inputs), rtol=0, atol=1e-12)
        wanting = [t.clone().requires_grad_() if isinstance(t, Tensor) else t for t in inputs]
        assert gradcheck(fast, wanting)


def test_operations_of_dense_transformers():
    x, up, weight, bias = draw(5, 6), draw(5, 6, seed=1), draw(6, seed=2), draw(6, seed=3)
    for fast, slow, inputs in (
        (layer_norm, reference.layer_norm, (x, weight, bias, 1e-5)),
        (gelu_tanh, reference.gelu_tanh, (x,)),
        (swiglu, reference.swiglu, (x, up)),
    ):
        torch.testing.assert_close(fast(*inputs), slow(*inputs), rtol=0, atol=1e-12)
        wanting = [t.clone().requires_grad_() if isinstance(t, Tensor) else t for t in inputs]
        assert gradcheck(fast, wanting)


@pytest.mark.parametrize("pairs", [1, 2, 3])
def test_rotary_is_the_definition(pairs):
    angles = draw(5, pairs) * 3
    q, k = draw(5, 4, 6).requires_grad_(), draw(5, 2, 6, seed=1).requires_grad_()
    tables = angles.cos(), angles.sin()
    got, wanted = rotate(q, k, *tables), reference.rotate(q, k, *tables)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)
    assert gradcheck(lambda q, k: rotate(q, k, *tables), (q, k))
    narrow = rotate(q.bfloat16(), k.bfloat16(), *(t.float() for t in tables))
    wide = reference.rotate(
        q.bfloat16().float(), k.bfloat16().float(), *(t.float() for t in tables)
    )
    for one, other in zip(narrow, wide, strict=True):
        torch.testing.assert_close(one, other.bfloat16(), rtol=1e-2, atol=1e-3)


def test_norms_keep_a_narrow_dtype_and_compute_wide():
    x = draw(5, 6).float() * 1e3
    narrow = rms_norm(x.bfloat16(), torch.ones(6), 1e-5)
    assert narrow.dtype == torch.bfloat16
    wide = reference.rms_norm(x.bfloat16().float(), torch.ones(6), 1e-5)
    torch.testing.assert_close(narrow, wide.bfloat16(), rtol=0, atol=0)


WINDOWS = st.sampled_from([None, 1, 2, 4, 100])


@pytest.fixture(scope="module", autouse=True)
def small_blocks():
    """Slices of keys for every few queries, so that short texts have several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention_room, "LEAST_BLOCK", 3)
        yield


@settings(max_examples=60, deadline=None)
@given(LENGTHS, WINDOWS)
def test_attention_is_the_definition(lengths, window):
    T = sum(lengths)
    q, k, v = draw(T, 4, 3), draw(T, 2, 3, seed=1), draw(T, 2, 3, seed=2)
    got = attention(q, k, v, AttentionPlan.of(lengths, None, "cpu", window))
    wanted = reference.attention(q, k, v, lengths, window)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(LENGTHS, WINDOWS, st.data())
def test_attention_to_memory_is_the_end_of_attention_to_all(lengths, window, data):
    past = [data.draw(st.integers(0, 7)) for _ in lengths]
    whole = [a + b for a, b in zip(past, lengths, strict=True)]
    T = sum(whole)
    q, k, v = draw(T, 4, 3), draw(T, 2, 3, seed=1), draw(T, 2, 3, seed=2)
    keys = [part.transpose(0, 1) for part in k.split(whole)]  # [heads, length, width]
    values = [part.transpose(0, 1) for part in v.split(whole)]

    def read(spans, start, stop):
        def padded(parts):
            zeros = [torch.full((2, 20, 3), 9.0).double() for _ in spans]
            for zero, span in zip(zeros, spans, strict=True):
                zero[:, : whole[span]] = parts[span]
            return torch.stack(zeros)[:, :, start:stop]

        return padded(keys), padded(values)

    new = torch.cat([part[old:] for part, old in zip(q.split(whole), past, strict=True)])
    got = attention(new, new, new, AttentionPlan.of(lengths, past, "cpu", window), read)
    all_of_it = reference.attention(q, k, v, whole, window).split(whole)
    wanted = torch.cat([part[old:] for part, old in zip(all_of_it, past, strict=True)])
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("window", [None, 1, 2])
def test_attention_gradients(window):
    lengths = [5, 0, 3, 1]
    plan = AttentionPlan.of(lengths, None, "cpu", window)
    inputs = [t.requires_grad_() for t in (draw(9, 4, 2), draw(9, 2, 2), draw(9, 2, 2, seed=1))]
    assert gradcheck(lambda q, k, v: attention(q, k, v, plan), inputs)


@pytest.mark.parametrize("size", [1, 3, 100, None])
def test_cross_entropy_in_slices(size):
    hidden, weight = draw(7, 4).requires_grad_(), draw(11, 4).requires_grad_()
    targets = torch.randint(11, (7,), generator=torch.Generator().manual_seed(0))
    weights = torch.tensor([1, 0, 0.5, 1, 2, 0, 1], dtype=torch.float64)
    got = linear_cross_entropy(hidden, weight, targets, weights, size)
    torch.testing.assert_close(
        got, reference.linear_cross_entropy(hidden, weight, targets, weights), rtol=0, atol=1e-12
    )
    assert gradcheck(
        lambda h, w: linear_cross_entropy(h, w, targets, weights, size), (hidden, weight)
    )


def test_cross_entropy_of_huge_logits_is_finite():
    hidden, weight = torch.full((2, 4), 1e3), torch.eye(4) * 1e3
    loss = linear_cross_entropy(hidden, weight, torch.tensor([0, 1]), torch.ones(2))
    assert loss.isfinite()


def test_cross_entropy_without_gradient_saves_none():
    with torch.no_grad():
        loss = linear_cross_entropy(draw(7, 4), draw(11, 4), torch.zeros(7).long(), torch.ones(7))
    assert not loss.requires_grad


@pytest.mark.parametrize("size", [1, 3, None])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_kl_in_slices(size, temperature):
    hidden, weight = draw(7, 4).requires_grad_(), draw(11, 4).requires_grad_()
    teacher = draw(7, 5), draw(11, 5)
    weights = torch.tensor([1, 0, 0.5, 1, 2, 0, 1], dtype=torch.float64)
    got = linear_kl(hidden, weight, *teacher, weights, temperature, size)
    wanted = reference.linear_kl(hidden, weight, *teacher, weights, temperature)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)
    assert gradcheck(
        lambda h, w: linear_kl(h, w, *teacher, weights, temperature, size), (hidden, weight)
    )
    same = linear_kl(*teacher, *teacher, weights)
    torch.testing.assert_close(same, torch.zeros_like(same), rtol=0, atol=1e-12)


def test_losses_under_autocast_stay_near():
    hidden, weight = draw(64, 32).float().requires_grad_(), draw(50, 32).float().requires_grad_()
    targets, weights = torch.arange(64) % 50, torch.ones(64)
    exact = linear_cross_entropy(hidden, weight, targets, weights)
    wanted = torch.autograd.grad(exact, (hidden, weight))
    with torch.autocast("cpu", torch.bfloat16):
        near = linear_cross_entropy(hidden, weight, targets, weights)
    got = torch.autograd.grad(near, (hidden, weight))
    assert near.dtype == torch.float32
    torch.testing.assert_close(near, exact, rtol=2e-2, atol=0)
    for one, other in zip(got, wanted, strict=True):
        assert one.dtype == torch.float32
        assert (one - other).norm() < 3e-2 * other.norm()
