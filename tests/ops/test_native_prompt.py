"""Compiled attention of many queries on matrix units: beside the plain path, and by itself."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from cairn.ops import paths, reference
from cairn.ops.attention import AttentionPlan, ReadMemory, attention
from cairn.ops.native import prompt, rows
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


def reader(keys: Sequence[Tensor], values: Sequence[Tensor]) -> ReadMemory:
    """What spans with these keys and values would read of them."""

    def read(spans: tuple[int, ...], start: int, stop: int) -> tuple[Tensor, Tensor]:
        def of(x: Sequence[Tensor]) -> Tensor:
            parts = [x[span][start:stop] for span in spans]
            return torch.stack([pad(x, (0, 0, 0, 0, 0, stop - start - len(x))) for x in parts])

        return of(keys).transpose(1, 2), of(values).transpose(1, 2)

    return read


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
    read = reader(k.split(whole), v.split(whole))

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


@pytest.mark.parametrize("heads", [(6, 2), (3, 3)])
@pytest.mark.parametrize("window", [None, 1, 50, 97, 200])
def test_a_cut_changes_no_bit(heads: tuple[int, int], window):
    """Wherever a prompt is cut, as long as its pieces have queries enough for this path."""
    q, k, v = (x.contiguous() for x in drawn(400, *heads, 64))
    whole = attention(q, k, v, AttentionPlan.of([400], None, "cpu", window))
    read = reader([k], [v])
    for cuts in ((0, 100, 400), (0, 33, 96, 131, 200, 400), (0, 17, 290, 321, 400)):
        for first, stop in pairwise(cuts):
            plan = AttentionPlan.of([stop - first], [first], "cpu", window)
            with paths.recorded() as taken:
                piece = attention(q[first:stop], k[first:stop], v[first:stop], plan, read)
            assert [choice.path for choice in taken] == ["native"]
            assert torch.equal(piece, whole[first:stop])


def test_what_a_window_hides_is_not_read():
    """It may be another sequence's by now, and no number: 0 times it would be none, too."""
    q, k, v = (x.contiguous() for x in drawn(200, 4, 2, 64))
    whole = attention(q, k, v, AttentionPlan.of([200], None, "cpu", 40))
    k[:111] = v[:111] = torch.nan
    got = torch.empty(50, 4, 64, dtype=q.dtype)
    prompt.prompt(q[150:], k, v, [prompt.Span(0, 50, 0, 150)], 40, got)
    assert torch.equal(got, whole[150:])


@pytest.mark.parametrize("heads", [(6, 2), (3, 3)])
@pytest.mark.parametrize("window", [None, 70])
def test_few_queries_beside_a_prompt_are_left_to_torch(heads, window, monkeypatch):
    """They would have all their keys packed; and so nothing depends on the company."""
    lengths, past = [1, 200, 1, 5, 0, 16, 1], [500, 0, 0, 90, 8, 60, 0]
    whole = [a + b for a, b in zip(past, lengths, strict=True)]
    keys, values = (draw(sum(whole), heads[1], 64, seed=seed).split(whole) for seed in (1, 2))
    read = reader(keys, values)
    q = draw(sum(lengths), heads[0], 64)
    k, v = (
        torch.cat([part[old:] for part, old in zip(x, past, strict=True)]) for x in (keys, values)
    )
    counts = []

    def counting(q: Tensor, k: Tensor, v: Tensor, spans: list, window: int | None, y: Tensor):
        counts.extend(span.queries for span in spans)
        return plainly(q, k, v, spans, window, y)

    plainly = prompt.prompt
    monkeypatch.setattr(prompt, "prompt", counting)
    plan = AttentionPlan.of(lengths, past, "cpu", window)
    got = attention(q, k, v, plan, read)
    assert sorted(counts) == ([1, 1, 5, 16, 200] if heads[0] > heads[1] else [1, 1, 16, 200])
    with paths.only("torch"):
        plain = attention(q, k, v, plan, read)
    torch.testing.assert_close(got, plain, rtol=2e-2, atol=1e-2)
    parts = [x.split(lengths) for x in (q, k, v, got)]
    for s, (q, k, v, together) in enumerate(zip(*parts, strict=True)):
        if lengths[s]:
            its = AttentionPlan.of(lengths[s : s + 1], past[s : s + 1], "cpu", window)
            read = reader(keys[s : s + 1], values[s : s + 1])
            assert torch.equal(attention(q, k, v, its, read), together)


def test_many_short_spans():
    lengths = [2, 3, 0, 40] * 150
    q, k, v = drawn(sum(lengths), 4, 2, 32)
    got = attention(q, k, v, AttentionPlan.of(lengths, None, "cpu"))
    with paths.only("torch"):
        plain = attention(q, k, v, AttentionPlan.of(lengths, None, "cpu"))
    torch.testing.assert_close(got, plain, rtol=2e-2, atol=1e-2)


def test_a_window_beyond_all_keys():
    q, k, v = drawn(64, 2, 1, 32)
    whole = attention(q, k, v, AttentionPlan.of([64], None, "cpu"))
    for window in (64, 2**31, 2**32 + 1, 2**62):
        assert torch.equal(attention(q, k, v, AttentionPlan.of([64], None, "cpu", window)), whole)


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


@pytest.mark.parametrize("window", [None, 16])
def test_infinite_scores(window):
    """Minus infinity hides a key, as in torch; infinity has no softmax.

    There torch gives NaN in fp32, and in bf16 NaN or zeros, as its blocks happen to lie.
    """
    q, k, v = (x.contiguous() for x in drawn(200, 2, 1, 64))
    plan = AttentionPlan.of([200], None, "cpu", window)
    q[..., 5] = q[..., 5].abs() + 0.1
    for hidden in (0, 40, slice(0, 50), slice(0, 100), slice(30, 150), slice(None)):
        its = k.clone()
        its[hidden, 0, 5] = -torch.inf
        with paths.only("torch"):
            plain = attention(q, its, v, plan)
        assert plain.isfinite().all()
        torch.testing.assert_close(attention(q, its, v, plan), plain, rtol=2e-2, atol=1e-2)
    huge = (q.abs() + 0.1) * 1e36, (k.abs() + 0.1) * -1e36
    with paths.only("torch"):
        assert not attention(*huge, v, plan).any()
    assert not attention(*huge, v, plan).any()
    k[40, 0, 5] = torch.inf
    spoilt = attention(q, k, v, plan).isnan()
    stop = 200 if window is None else 40 + window
    assert spoilt[40:stop].all()
    assert not spoilt[:40].any()
    assert not spoilt[stop:].any()


def test_scores_at_the_end_of_the_range():
    """All finite, and further below zero than any sum of exponents could be."""
    q, k, v = (x.contiguous() for x in drawn(64, 2, 1, 64))
    plan = AttentionPlan.of([64], None, "cpu")
    q.zero_()[..., 0] = 1
    k.zero_()[..., 0] = -2e38
    with paths.only("torch"):
        plain = attention(q, k, v, plan)
    torch.testing.assert_close(attention(q, k, v, plan), plain, rtol=2e-2, atol=1e-2)


def test_no_matrix_units_are_not_called_no_memory():
    q, k, v = drawn(64, 2, 1, 32)
    library = native().library
    assert library
    library.cairn_tiles(0)
    try:
        with pytest.raises(RuntimeError, match="no matrix units for attention"):
            attention(q, k, v, AttentionPlan.of([64], None, "cpu"))
        with pytest.raises(RuntimeError, match="no matrix units for a product"):
            rows.dense(q[:, 0].contiguous(), draw(32, 32), None)
    finally:
        library.cairn_tiles(1)


def test_what_stays_with_torch():
    q, k, v = drawn(64, 2, 1, 32)
    plan = AttentionPlan.of([64], None, "cpu")
    cases = [
        ((q.float(), k.float(), v.float()), plan),
        ((q[..., :24], k[..., :24], v[..., :24]), plan),
        ((q.clone().requires_grad_(), k, v), plan),
        ((q, k, v), AttentionPlan.of([1] * 64, [7] * 64, "cpu")),
        ((q[:, :1], k, v), AttentionPlan.of([15, 15, 15, 15, 4], [7] * 5, "cpu")),
    ]
    read = reader([draw(30, 1, 32)] * 64, [draw(30, 1, 32)] * 64)
    for inputs, its in cases:
        with paths.recorded() as taken:
            attention(*inputs, its, read if its.past else None)
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
