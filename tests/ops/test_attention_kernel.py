"""Attention's Triton kernel against the definition: flat and paged keys, windows, any spans."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from cairn.ops import paths, reference
from cairn.ops.attention import AttentionPlan, Pages, attention
from cairn.ops.order import fixed_order
from cairn.ops.triton import attention as kernels
from cairn.ops.triton.attention import (
    ENOUGH,
    LEAST_PIECE,
    MOST_PIECE,
    PIECE,
    split_of,
    unfit_on_hopper,
)

pytestmark = pytest.mark.kernels

WIDTH = 12
NEAR = {"rtol": 1e-4, "atol": 1e-5}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def new_rows(x: Tensor, past: list[int], lengths: list[int]) -> Tensor:
    whole = [a + b for a, b in zip(past, lengths, strict=True)]
    return torch.cat([part[old:] for part, old in zip(x.split(whole), past, strict=True)])


def paged(k: Tensor, v: Tensor, whole: list[int], size: int, room: int) -> Pages:
    """Keys and values in shuffled pages; what no sequence uses is NaN."""
    counts = [-(-n // size) for n in whole]
    order = torch.randperm(sum(counts) + 2, generator=torch.Generator().manual_seed(1))
    heads, width = k.shape[1:]
    memory = [torch.full((len(order), heads, room, width), float("nan")) for _ in range(2)]
    table = torch.zeros(len(whole), max(1, *counts), dtype=torch.int32)
    at = 0
    for s, (count, key, value) in enumerate(
        zip(counts, k.split(whole), v.split(whole), strict=True)
    ):
        pages = order[at : at + count]
        table[s, :count] = pages.int()
        for i, page in enumerate(pages):
            for held, x in zip(memory, (key, value), strict=True):
                part = x[i * size : (i + 1) * size].transpose(0, 1)
                held[page, :, : part.shape[1]] = part
        at += count
    return Pages(memory[0], memory[1], table)


def moved(pages: Pages, device: torch.device) -> Pages:
    return Pages(pages.keys.to(device), pages.values.to(device), pages.table.to(device))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    spans=st.lists(st.tuples(st.integers(0, 40), st.sampled_from([0, 1, 5, 33])), min_size=1,
                   max_size=4).filter(lambda spans: any(new for _, new in spans)),
    share=st.sampled_from([1, 2, 5]),
    window=st.sampled_from([None, 1, 7, 40]),
    size=st.sampled_from([16, 64, None]),
)  # fmt: skip
def test_paged_keys(triton_device, spans, share, window, size):
    past, lengths = ([span[i] for span in spans] for i in range(2))
    whole = [a + b for a, b in spans]
    heads = 2
    q = draw(sum(whole), heads * share, WIDTH)
    k, v = draw(sum(whole), heads, WIDTH, seed=1), draw(sum(whole), heads, WIDTH, seed=2)
    wanted = new_rows(reference.attention(q, k, v, whole, window), past, lengths)
    plan = AttentionPlan.of(lengths, past, triton_device, window)
    pages = moved(paged(k, v, whole, size or 100, size or 100), triton_device)
    new = [new_rows(x, past, lengths).to(triton_device) for x in (q, k, v)]
    with paths.only("triton"):
        got = attention(*new, plan, pages=pages)
    torch.testing.assert_close(got.cpu(), wanted, **NEAR)


@pytest.mark.parametrize("window", [None, 90])
@pytest.mark.parametrize("fixed", [False, True])
def test_pieces_of_long_keys_are_joined(triton_device, window, fixed):
    past, lengths = [700, 20, 255], [1, 2, 1]
    whole = [a + b for a, b in zip(past, lengths, strict=True)]
    q, k = draw(sum(whole), 4, WIDTH) * 3, draw(sum(whole), 2, WIDTH, seed=1) * 3
    v = draw(sum(whole), 2, WIDTH, seed=2)
    wanted = new_rows(reference.attention(q, k, v, whole, window), past, lengths)
    plan = AttentionPlan.of(lengths, past, triton_device, window)
    pages = moved(paged(k, v, whole, 16, 16), triton_device)
    new = [new_rows(x, past, lengths).to(triton_device) for x in (q, k, v)]
    with paths.only("triton"), fixed_order(fixed):
        got = attention(*new, plan, pages=pages)
        alone = attention(
            *(x[:1] for x in new),
            AttentionPlan.of([1], [700], triton_device, window),
            pages=Pages(pages.keys, pages.values, pages.table[:1]),
        )
    torch.testing.assert_close(got.cpu(), wanted, **NEAR)
    torch.testing.assert_close(alone.cpu(), wanted[:1], **NEAR)
    assert not fixed or torch.equal(alone, got[:1])  # whatever else is in the call


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_wide_heads_in_the_tiles_of_a_gpu_with_little_shared_memory(
    triton_device, dtype, monkeypatch
):
    monkeypatch.setattr(kernels, "_small", lambda device: True)
    past, lengths, wide = [40, 0, 150], [60, 90, 1], 256
    whole = [a + b for a, b in zip(past, lengths, strict=True)]
    q, k, v = (draw(sum(whole), heads, wide, seed=heads) for heads in (4, 2, 1))
    k, v = k[:, :1].to(dtype), v.to(dtype)
    q = q.to(dtype)
    exact = reference.attention(q.float(), k.float(), v.float(), whole, None)
    plan = AttentionPlan.of(lengths, past, triton_device, None)
    pages = moved(paged(k, v, whole, 16, 16), triton_device)
    new = [new_rows(x, past, lengths).to(triton_device) for x in (q, k, v)]
    with paths.only("triton"):
        got = attention(*new, plan, pages=pages)
    near = NEAR if dtype == torch.float32 else {"atol": 5e-3, "rtol": 5e-3}
    torch.testing.assert_close(got.cpu().float(), new_rows(exact, past, lengths), **near)


def test_pieces_are_shorter_for_few_sequences_and_longer_for_many():
    assert split_of(8, 4) == LEAST_PIECE
    assert split_of(ENOUGH // 4, 2) == PIECE // 2
    assert split_of(ENOUGH, 1) == split_of(1, 2 * ENOUGH) == PIECE
    assert split_of(ENOUGH, 8) == MOST_PIECE


@pytest.mark.parametrize("split", [64, 256, 2048])
@pytest.mark.parametrize("window", [None, 300])
def test_pieces_of_any_length_are_joined_alike(triton_device, window, split, monkeypatch):
    """Spans of one token each, as decoding has them, and one that begins."""
    monkeypatch.setattr(kernels, "split_of", lambda programs, pieces: split)
    past = [700, 0, 255, 1100]
    whole = [old + 1 for old in past]
    q, k = draw(sum(whole), 6, WIDTH) * 3, draw(sum(whole), 2, WIDTH, seed=1) * 3
    v = draw(sum(whole), 2, WIDTH, seed=2)
    wanted = new_rows(reference.attention(q, k, v, whole, window), past, [1] * 4)
    plan = AttentionPlan.of([1] * 4, past, triton_device, window)
    assert plan.tables(3, 16, triton_device).alone
    pages = moved(paged(k, v, whole, 16, 16), triton_device)
    new = [new_rows(x, past, [1] * 4).to(triton_device) for x in (q, k, v)]
    with paths.only("triton"):
        got = attention(*new, plan, pages=pages)
    torch.testing.assert_close(got.cpu(), wanted, **NEAR)


@pytest.mark.parametrize("lengths", [[3, 0, 50], [1, 1], [70]])
@pytest.mark.parametrize("window", [None, 20])
def test_flat_keys_of_this_call(triton_device, lengths, window):
    T = sum(lengths)
    whole = draw(T, (4 + 2 + 2) * WIDTH).unflatten(-1, (-1, WIDTH))
    q, k, v = whole.split([4, 2, 2], 1)  # views of one projection
    wanted = reference.attention(q, k, v, lengths, window)
    plan = AttentionPlan.of(lengths, None, triton_device, window)
    with paths.only("triton"):
        got = attention(*(x.to(triton_device) for x in (q, k, v)), plan)
    torch.testing.assert_close(got.cpu(), wanted, **NEAR)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize("width", [64, 128])
def test_bf16_on_a_gpu_errs_no_more_than_twice_the_twin(window, width):
    lengths, past = [300, 1, 513, 1], [0, 900, 77, 40]
    whole = [a + b for a, b in zip(past, lengths, strict=True)]
    T = sum(whole)
    q, k, v = (draw(T, n, width, seed=n).bfloat16() for n in (8, 2, 2))
    wanted = new_rows(reference.attention(*(x.double() for x in (q, k, v)), whole, window), past,
                      lengths)  # fmt: skip
    pages = moved(paged(k, v, whole, 16, 16), torch.device("cuda"))
    new = [new_rows(x, past, lengths).cuda() for x in (q, k, v)]
    got = attention(*new, AttentionPlan.of(lengths, past, "cuda", window), pages=pages)
    with paths.only("torch"):
        twin = attention(
            *(x.cuda() for x in (q, k, v)), AttentionPlan.of(whole, None, "cuda", window)
        )
    twin = new_rows(twin, past, lengths)
    errors = [(x.cpu().double() - wanted).norm() / wanted.norm() for x in (got, twin)]
    assert errors[0] <= 2 * errors[1]


HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9


def as_in_a_cache(pages: Pages) -> Pages:
    """Heads of a key beside each other, as `cairn.model.cache` keeps them."""
    keys, values = (
        x.transpose(1, 2).contiguous().transpose(1, 2) for x in (pages.keys, pages.values)
    )
    return Pages(keys, values, pages.table)


@pytest.mark.gpu
@pytest.mark.skipif(not HOPPER, reason="needs a Hopper GPU")
@pytest.mark.parametrize("window", [None, 300])
@pytest.mark.parametrize(
    ("width", "share", "form"),
    [
        (128, 4, "cache"),
        (128, 4, "heads apart"),
        (128, 4, "pages of 64"),
        (128, 5, "cache"),
        (64, 1, "cache"),
        (64, 8, "cache"),
    ],
)
def test_warp_groups_on_hopper(width, share, form, window):
    lengths, past = [300, 1, 513, 1, 40, 128], [0, 900, 77, 40, 1000, 3000]
    whole = [a + b for a, b in zip(past, lengths, strict=True)]
    T, cuda = sum(whole), torch.device("cuda")
    q, k, v = (draw(T, n, width, seed=n).bfloat16() for n in (2 * share, 2, 2))
    size = 64 if form == "pages of 64" else 16
    pages = moved(paged(k, v, whole, size, size), cuda)
    pages = Pages(pages.keys.bfloat16(), pages.values.bfloat16(), pages.table)
    pages = pages if form == "heads apart" else as_in_a_cache(pages)
    new = [new_rows(x, past, lengths).to(cuda) for x in (q, k, v)]
    assert unfit_on_hopper(new[0], pages.keys, pages.values, pages.size) == ""
    with paths.recorded() as taken:
        got = attention(*new, AttentionPlan.of(lengths, past, cuda, window), pages=pages)
    assert taken == [paths.Choice("attention", "triton")]
    plan = AttentionPlan.of(whole, None, cuda, window)
    with paths.only("torch"):
        twin, wanted = (
            new_rows(attention(*(x.to(cuda, dtype) for x in (q, k, v)), plan), past, lengths)
            for dtype in (torch.bfloat16, torch.float64)
        )
    errors = [float((x - wanted).norm() / wanted.norm()) for x in (got, twin)]
    assert errors[0] <= 2 * errors[1]
    begins = [0, 301]  # spans by themselves: what else is in the call changes no bit
    for span, begin in zip((0, 2), begins, strict=True):
        rows = slice(begin, begin + lengths[span])
        own = Pages(pages.keys, pages.values, pages.table[span : span + 1])
        plan = AttentionPlan.of([lengths[span]], [past[span]], cuda, window)
        with paths.only("triton"):
            alone = attention(*(x[rows] for x in new), plan, pages=own)
        assert torch.equal(alone, got[rows])


@pytest.mark.gpu
@pytest.mark.skipif(not HOPPER, reason="needs a Hopper GPU")
@pytest.mark.parametrize("window", [None, 100])
def test_warp_groups_on_hopper_read_views_of_one_projection(window):
    lengths, width = [300, 0, 7, 513], 128
    whole = draw(sum(lengths), (8 + 2 + 2) * width).bfloat16().cuda().unflatten(-1, (-1, width))
    parts = whole.split([8, 2, 2], 1)
    plan = AttentionPlan.of(lengths, None, "cuda", window)
    with paths.only("triton"):
        got = attention(*parts, plan)
    with paths.only("torch"):
        twin, wanted = (
            attention(*(x.to(dtype) for x in parts), plan)
            for dtype in (torch.bfloat16, torch.float64)
        )
    errors = [float((x - wanted).norm() / wanted.norm()) for x in (got, twin)]
    assert errors[0] <= 2 * errors[1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("window", [None, 100])
def test_the_librarys_path_trains_as_the_twin(window):
    lengths = [300, 0, 70, 513]
    inputs = [draw(sum(lengths), n, 64, seed=n).bfloat16().cuda() for n in (8, 2, 2)]
    plan = AttentionPlan.of(lengths, None, "cuda", window)
    found = []
    for path in ("torch", None):
        leaves = [x.clone().requires_grad_() for x in inputs]
        with paths.recorded() as taken:
            if path:
                with paths.only(path):
                    out = attention(*leaves, plan)
            else:
                out = attention(*leaves, plan)
        assert taken[0].path == (path or "library")
        found.append([out, *torch.autograd.grad(out.float().square().sum(), leaves)])
    for one, other in zip(*found, strict=True):
        assert (one - other).float().norm() < 0.02 * other.float().norm()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("window", [None, 40])
def test_keys_of_a_past_that_lie_before_each_spans_own(window: int | None) -> None:
    lengths, past = (130, 70), (300, 0)
    torch.manual_seed(0)
    q = torch.randn(200, 4, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    k, v = (
        torch.randn(500, 2, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        for _ in range(2)
    )
    plan = AttentionPlan.of(lengths, past, "cuda", window)

    def read(spans: tuple[int, ...], start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        begins, ends = torch.tensor([0, 430]), torch.tensor([430, 500])
        which = torch.tensor(spans)
        index = begins[which, None] + torch.arange(start, stop)
        index = torch.minimum(index, ends[which, None] - 1).cuda()
        return k[index].transpose(1, 2), v[index].transpose(1, 2)

    fast = attention(q, k, v, plan, read)
    with paths.only("torch"):
        plain = attention(q, k, v, plan, read)
    assert torch.allclose(fast, plain, atol=2e-2)
    one, two = (torch.autograd.grad(y.float().square().sum(), (q, k, v)) for y in (fast, plain))
    for mine, theirs in zip(one, two, strict=True):
        assert torch.allclose(mine, theirs, rtol=5e-2, atol=1e-1)


@pytest.mark.parametrize("share", [20, 72])
def test_one_key_head_for_many_is_joined_too(triton_device, share):
    """As steps of captured graphs lay them out, with a row that is nobody's."""
    past = [700, 0, 300]
    whole = [old + 1 for old in past]
    q, k = draw(sum(whole), share, WIDTH) * 3, draw(sum(whole), 1, WIDTH, seed=1) * 3
    v = draw(sum(whole), 1, WIDTH, seed=2)
    wanted = new_rows(reference.attention(q, k, v, whole), past, [1] * 3)
    first = torch.arange(4, dtype=torch.int32, device=triton_device)
    tiles = torch.stack([first[:3], torch.zeros_like(first[:3])], 1)
    ends = torch.tensor(whole, dtype=torch.int32, device=triton_device)
    tables = kernels.Tables(first, ends, tiles, tiles[:0], 2, alone=True)
    plan = AttentionPlan.of_tables(tables, 3, triton_device, None)
    pages = moved(paged(k, v, whole, 16, 16), triton_device)
    new = [new_rows(x, past, [1] * 3).to(triton_device) for x in (q, k, v)]
    with paths.only("triton"):
        got = attention(*new, plan, pages=pages)
    torch.testing.assert_close(got.cpu(), wanted, **NEAR)


@pytest.mark.parametrize("window", [None, 7])
def test_tokens_of_a_span_may_be_rows_of_one_slot(triton_device, window):
    """Each with its own end of the keys, which are all there already."""
    past, new = [530, 0], [5, 3]
    whole = [old + more for old, more in zip(past, new, strict=True)]
    q, k = draw(sum(whole), 4, WIDTH) * 3, draw(sum(whole), 2, WIDTH, seed=1) * 3
    v = draw(sum(whole), 2, WIDTH, seed=2)
    wanted = new_rows(reference.attention(q, k, v, whole, window), past, new)
    slots = [0] * 5 + [1] * 3
    first = torch.arange(9, dtype=torch.int32, device=triton_device)
    tiles = torch.stack([first[:8], torch.zeros_like(first[:8])], 1)
    ends = torch.tensor([*range(531, 536), 1, 2, 3], dtype=torch.int32, device=triton_device)
    tables = kernels.Tables(first, ends, tiles, tiles[:0], 2, alone=True)
    plan = AttentionPlan.of_tables(tables, 8, triton_device, window)
    there = moved(paged(k, v, whole, 16, 16), triton_device)
    pages = Pages(there.keys, there.values, there.table[slots])
    given_rows = [new_rows(x, past, new).to(triton_device) for x in (q, k, v)]
    with paths.only("triton"):
        got = attention(*given_rows, plan, pages=pages)
    torch.testing.assert_close(got.cpu(), wanted, **NEAR)
