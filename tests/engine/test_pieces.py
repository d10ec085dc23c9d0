"""Forwards in graphs that are cut where tokens of a span meet, on a CPU that records calls."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cairn.engine import pieces
from cairn.engine.captures import Captures
from cairn.engine.pieces import SIZES, Pieces
from cairn.engine.pool import Pool, Sizes
from cairn.engine.runner import Runner, _rows_of
from cairn.model import Spans, build
from cairn.ops import paths
from cairn.ops.order import fixed_order

from ..fixtures.shapes import LIVELY, WINDOW, untrained

CPU = torch.device("cpu")


class Recording(TorchDispatchMode):
    """In place of a CUDA graph: calls, made again over the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, ...]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, found))
        return found

    def replay(self) -> None:
        for func, args, kwargs, found in self.calls:
            again = func(*args, **kwargs)
            for new, old in zip(tree_leaves(again), tree_leaves(found), strict=True):
                if isinstance(old, torch.Tensor) and new.data_ptr() != old.data_ptr():
                    old.copy_(new)


@pytest.fixture(autouse=True)
def recording(monkeypatch):
    """Captures that record."""

    def begin(self: Captures) -> Any:
        return Recording().__enter__()

    monkeypatch.setattr(Captures, "open", lambda self: nullcontext())
    monkeypatch.setattr(Captures, "counting", lambda self: nullcontext())
    monkeypatch.setattr(Captures, "begin", begin)
    monkeypatch.setattr(Captures, "end", lambda self, graph: graph.__exit__(None, None, None))
    monkeypatch.setattr(pieces, "unowned", lambda x: x)
    with paths.only("torch"), torch.inference_mode():  # compiled code would not be recorded
        yield


CONFIGS = {
    "hybrid": untrained("M-*M*-", 50, **LIVELY),
    "window": untrained("*-*-", 50, **LIVELY | WINDOW),
    "wide_sums": untrained(
        "MM",
        50,
        **LIVELY
        | {"family": "mamba2", "residual_fp32": True, "tie_embeddings": True, "norm_groups": 1},
    ),
    "ends_in_attention": untrained("-M*", 50, **LIVELY),
}
STEPS = [  # sizes and slots of each forward; slots go on from what they hold
    ([5], [0]),
    ([3, 20], [1, 2]),
    ([8, 1], [0, 1]),
    ([70], [3]),
    ([2, 30, 32], [1, 3, 0]),
    ([6], [2]),
    ([1], [3]),
]


@pytest.mark.parametrize("name", CONFIGS)
def test_spans_of_any_lengths_are_the_one_forward_s(name):
    config = CONFIGS[name]
    model = build(config, seed=3)
    groups = len(dict.fromkeys(config.windows))
    own, plain = (Pool(config, Sizes(4, 256, (64,) * groups, 0), CPU, model.dtype) for _ in "12")
    for pool in (own, plain):
        for group in range(groups):
            for slot in range(4):
                pool.assign(slot, group, 0, list(range(1 + 16 * slot, 17 + 16 * slot)))
    made = Pieces(model, own, Captures(CPU))
    for number, (sizes, slots) in enumerate(STEPS):
        draw = torch.Generator().manual_seed(number)
        tokens = torch.randint(50, (sum(sizes),), generator=draw)
        spans = Spans.of(sizes, slots)
        found = made.run(tokens, spans)
        torch.testing.assert_close(found, model.hidden(tokens, spans, plain.cache))
        assert own.cache.lengths.tolist() == plain.cache.lengths.tolist()
    assert len(made) == len({next(size for size in SIZES if size >= sum(s)) for s, _ in STEPS})
    for mine, theirs in zip(own.cache.state, plain.cache.state, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_graphs_that_fail_to_be_captured_are_not_kept(monkeypatch):
    config = CONFIGS["hybrid"]
    model = build(config, seed=3)
    pool = Pool(config, Sizes(2, 256, (32,), 0), CPU, model.dtype)
    made = Pieces(model, pool, Captures(CPU))
    monkeypatch.setattr(pieces, "unowned", lambda x: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        made.run(torch.arange(5), Spans.of([5], [0]))
    assert len(made) == 0
    monkeypatch.setattr(pieces, "unowned", lambda x: x)
    pool.assign(0, 0, 0, list(range(1, 17)))
    assert made.run(torch.arange(5), Spans.of([5], [0])).isfinite().all()


def test_where_memory_is_short_nothing_is_captured(monkeypatch, caplog):
    """And what was, gives its memory back."""
    config = CONFIGS["hybrid"]
    model = build(config, seed=3)
    pool = Pool(config, Sizes(2, 256, (32,), 0), CPU, model.dtype)
    pool.assign(0, 0, 0, list(range(1, 17)))
    made = Pieces(model, pool, Captures(CPU))
    assert made.run(torch.arange(5), Spans.of([5], [0])) is not None
    capture = Pieces._capture

    def full(self: Pieces, size: int) -> Any:
        if size > 8:
            raise torch.OutOfMemoryError("full")
        return capture(self, size)

    monkeypatch.setattr(Pieces, "_capture", full)
    assert made.run(torch.arange(30), Spans.of([30], [0])) is None
    assert "of 32 tokens" in caplog.text
    assert pool.cache.lengths[0] == 5
    assert len(made) == 0
    assert made.run(torch.arange(9), Spans.of([9], [0])) is None  # nor what is nearly as large
    assert made.run(torch.arange(8), Spans.of([8], [0])) is not None
    assert made.give_way()
    assert not made.give_way()
    assert made.run(torch.arange(8), Spans.of([8], [0])) is None


def test_many_tokens_are_not_served():
    config = CONFIGS["hybrid"]
    model = build(config, seed=3)
    pool = Pool(config, Sizes(2, 2048, (256,), 0), CPU, model.dtype)
    made = Pieces(model, pool, Captures(CPU))
    many = SIZES[-1] + 1
    assert made.run(torch.zeros(many, dtype=torch.int64), Spans.of([many], [0])) is None
    assert list(SIZES) == sorted(SIZES)


def test_short_spans_are_rows_of_their_slots():
    sizes, slots, past = [3, 1, 2], [4, 0, 7], [10, 5, 0]
    each, before = _rows_of(sizes, slots, past)
    assert each == [4, 4, 4, 0, 7, 7]
    assert before == [10, 11, 12, 5, 0, 1]


@pytest.mark.parametrize(
    ("name", "sizes", "past", "whether"),
    [
        ("window", [1, 1], [9000, 20_000], True),
        ("window", [3, 1], [100, 20_000], True),
        ("window", [5, 1], [8000, 20_000], False),
        ("window", [100, 29], [0, 0], False),
        ("hybrid", [1, 1], [5, 5], True),
        ("hybrid", [2, 1], [5, 5], False),
    ],
)
def test_which_spans_are_rows(name, sizes, past, whether):
    config = CONFIGS[name]
    pool = Pool(config, Sizes(2, 32, (4,) * len(set(config.windows)), 0), CPU, torch.float32)
    runner = Runner(build(config, seed=0), pool)
    assert runner._each_a_row(sizes, past) is whether
    with fixed_order():
        assert runner._each_a_row(sizes, past) is all(size == 1 for size in sizes)
