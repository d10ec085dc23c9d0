"""Compiled attention of many queries on matrix units: beside the plain path, and by itself."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from cairn.ops import paths, reference
from cairn.ops.attention import AttentionPlan, attention
from cairn.ops.native.library import native
from cairn.ops.order import fixed_order

pytestmark = [
    pytest.mark.kernels,
    pytest.mark.skipif(not native().tiles, reason=native().missing or "no matrix units here"),
]


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator).bfloat16()


def drawn(tokens: int, heads: int, key_heads: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v as parts of one product's rows would lie."""
    whole = draw(tokens, heads + 2 * key_heads, width)
    q, k, v = whole.split([heads, key_heads, key_heads], 1)
    return q, k, v


def held(got: Tensor, plain: Tensor, exact: Tensor) -> None:
    """It errs no more than the plain path in the same dtype, within a tenth."""
    assert got.dtype == plain.dtype
    assert got.shape == exact.shape
    assert (got - exact).norm() <= 1.1 * (plain - exact).norm()


SHAPES = [(4, 2, 32), (12, 2, 64), (5, 1, 96), (4, 4, 128), (2, 1, 256)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("window", [None, 1, 40, 1000])
@pytest.mark.parametrize("threads", [1, 3])
def test_ragged_spans(shape, window, threads):
    lengths = (1, 33, 0, 130, 32, 97)
    q, k, v = drawn(sum(lengths), *shape)
    plan = AttentionPlan.of(lengths, None, "cpu", window)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with paths.recorded() as taken:
            got = attention(q, k, v, plan)
    finally:
        torch.set_num_threads(before)
    assert taken == [paths.Choice("attention", "native")]
    with paths.only("torch"):
        plain = attention(q, k, v, plan)
    exact = reference.attention(q.double(), k.double(), v.double(), lengths, window)
    held(got, plain, exact)
    # Spans of 0 and 1 tokens aside, every query weighs several keys.
    torch.testing.assert_close(got.double(), exact, rtol=2e-2, atol=1e-2)


@pytest.mark.parametrize("window", [None, 50])
def test_spans_after_what_they_remember(window):
    lengths, past = (40, 1, 65, 0), (0, 300, 129, 7)
    whole = [a + b for a, b in zip(past, lengths, strict=True)]
    q, k, v = drawn(sum(whole), 6, 3, 64)
    keys, values = k.split(whole), v.split(whole)

    def read(spans, start, stop):
        def of(x: tuple[Tensor, ...]) -> Tensor:
            parts = [x[span][start:stop] for span in spans]
            return torch.stack([pad(x, (0, 0, 0, 0, 0, stop - start - len(x))) for x in parts])

        return of(keys).transpose(1, 2), of(values).transpose(1, 2)

    def last(x: Tensor) -> Tensor:
        return torch.cat([part[old:] for part, old in zip(x.split(whole), past, strict=True)])

    plan = AttentionPlan.of(lengths, past, "cpu", window)
    new = last(q), last(k), last(v)
    with paths.recorded() as taken:
        got = attention(*new, plan=plan, read=read)
    assert [choice.path for choice in taken] == ["native"]
    with paths.only("torch"):
        plain = attention(*new, plan=plan, read=read)
    exact = last(reference.attention(q.double(), k.double(), v.double(), whole, window))
    held(got, plain, exact)


def test_company_changes_no_bit():
    lengths = (100, 37, 260)
    q, k, v = drawn(sum(lengths), 6, 2, 64)
    whole = attention(q, k, v, AttentionPlan.of(lengths, None, "cpu")).split(lengths)
    apart = zip(q.split(lengths), k.split(lengths), v.split(lengths), strict=True)
    for one, (q, k, v) in zip(whole, apart, strict=True):
        assert torch.equal(attention(q, k, v, AttentionPlan.of([len(q)], None, "cpu")), one)


def test_many_keys_are_packed_by_parts(monkeypatch):
    """More than the room of one turn: 2 spans with 2 key heads of 5 MB each."""
    lengths = (40_000 // 8,) * 2
    q, k, v = drawn(sum(lengths), 2, 2, 256)
    got = attention(q, k, v, AttentionPlan.of(lengths, None, "cpu", 64))
    with paths.only("torch"):
        plain = attention(q, k, v, AttentionPlan.of(lengths, None, "cpu", 64))
    torch.testing.assert_close(got, plain, rtol=2e-2, atol=2e-2)


def test_large_scores_and_what_is_no_number():
    q, k, v = (x.contiguous() for x in drawn(64, 2, 1, 32))
    plan = AttentionPlan.of([64], None, "cpu")
    q[10] *= 1e4  # one key has all the weight
    with paths.only("torch"):
        plain = attention(q, k, v, plan)
    torch.testing.assert_close(attention(q, k, v, plan), plain, rtol=2e-2, atol=1e-2)
    q[20, 0, 3] = torch.nan
    v[63] = torch.inf  # 0 times it is NaN, in the block that it is in
    got = attention(q, k, v, plan)
    assert got[20, 0].isnan().all()
    assert got[20, 1].isfinite().all()
    assert got[:20].isfinite().all()
    assert got[21:32].isfinite().all()


def test_what_stays_with_torch():
    q, k, v = drawn(64, 2, 1, 32)
    plan = AttentionPlan.of([64], None, "cpu")
    cases = [
        ((q.float(), k.float(), v.float()), plan),
        ((q[..., :24], k[..., :24], v[..., :24]), plan),
        ((q.clone().requires_grad_(), k, v), plan),
        ((q, k, v), AttentionPlan.of([8] * 8, None, "cpu")),
    ]
    for inputs, its in cases:
        with paths.recorded() as taken:
            attention(*inputs, plan=its)
        assert [choice.path for choice in taken] == ["torch"]
    with fixed_order(), paths.recorded() as taken:
        attention(q, k, v, plan)
    assert [choice.path for choice in taken] == ["torch"]


@pytest.mark.parametrize("spread", [1e4, 1e6])
def test_huge_scores_leave_what_the_highest_says(spread):
    q, k, v = drawn(97, 4, 2, 64)
    plan = AttentionPlan.of([97], None, "cpu", None)
    got = attention(q * spread, k * spread, v, plan)
    with paths.only("torch"):
        plain = attention(q * spread, k * spread, v, plan)
    assert got.isfinite().all()
    assert (got - plain).abs().max() < 0.05
