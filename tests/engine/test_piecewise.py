"""Forwards in graphs that are cut where tokens of a span meet, on a CPU that records calls."""

import sys
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cairn.engine import piecewise
from cairn.engine.captures import Captures
from cairn.engine.piecewise import SIZES, Piecewise
from cairn.engine.pool import Pool, Sizes
from cairn.engine.runner import Batch, Runner, _rows_of
from cairn.engine.warming import _computed
from cairn.model import Decoder, Spans, build
from cairn.model.decoder import Block
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
    monkeypatch.setattr(piecewise, "unowned", lambda x: x)
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


def small() -> Piecewise:
    """Of a hybrid, and two sequences of at most 256 tokens."""
    config = CONFIGS["hybrid"]
    model = build(config, seed=3)
    pool = Pool(config, Sizes(2, 256, (32,), 0), CPU, model.dtype)
    pool.assign(0, 0, 0, list(range(1, 17)))
    return Piecewise(model, pool, Captures(CPU))


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
    made = Piecewise(model, own, Captures(CPU))
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


@pytest.mark.parametrize("where", ["inside", "between"])
def test_graphs_that_fail_to_be_captured_are_not_kept(monkeypatch, where):
    """What was begun is ended, and the error is the first one."""
    made, begun = small(), list[Any]()
    last = made._model.backbone.layers[3]
    begin, end, forward = Captures.begin, Captures.end, Block.forward

    def fail(*_: Any) -> Any:
        raise ValueError("first")

    def inside(self: Any, *given: Any) -> Any:
        return fail() if begun and self is last else forward(self, *given)

    def ending(self: Captures, graph: Any) -> None:
        end(self, graph)
        begun.remove(graph)
        if where == "inside" and sys.exc_info()[0]:
            raise RuntimeError("second")

    def beginning(self: Captures) -> Any:
        begun.append(begin(self))
        return begun[-1]

    with monkeypatch.context() as patch:
        patch.setattr(Captures, "begin", beginning)
        patch.setattr(Captures, "end", ending)
        if where == "inside":
            patch.setattr(Block, "forward", inside)
        else:
            patch.setattr(piecewise, "unowned", fail)
        with pytest.raises(ValueError, match="first"):
            made.run(torch.arange(5), Spans.of([5], [0]))
    assert not begun
    assert len(made) == 0
    found = made.run(torch.arange(5), Spans.of([5], [0]))
    assert found is not None
    assert found.isfinite().all()


def test_where_memory_is_short_nothing_is_captured(monkeypatch, caplog):
    """And what was, gives its memory back."""
    made = small()
    assert made.run(torch.arange(5), Spans.of([5], [0])) is not None
    capture = Piecewise._capture

    def full(self: Piecewise, size: int) -> Any:
        if size > 8:
            raise torch.OutOfMemoryError("full")
        return capture(self, size)

    monkeypatch.setattr(Piecewise, "_capture", full)
    assert made.run(torch.arange(30), Spans.of([30], [0])) is None
    assert "of 32 tokens" in caplog.text
    assert made._pool.cache.lengths[0] == 5
    assert len(made) == 0
    assert made.run(torch.arange(9), Spans.of([9], [0])) is None  # nor what is nearly as large
    assert made.run(torch.arange(8), Spans.of([8], [0])) is not None
    made.give_way()
    assert len(made) == 0
    assert made.run(torch.arange(8), Spans.of([8], [0])) is None


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("full"), torch.AcceleratorError("CUDA error: out of memory")]
)
def test_what_does_not_fit_is_tried_once(monkeypatch, error):
    made = small()
    tried: list[int] = []

    def full(self: Piecewise, size: int) -> Any:
        tried.append(size)
        raise error

    monkeypatch.setattr(Piecewise, "_capture", full)
    for count in (8, 2, 2, 16):
        assert made.run(torch.arange(count), Spans.of([count], [0])) is None
    assert tried == [8]


@pytest.mark.parametrize("error", [torch.AcceleratorError("illegal address"), RuntimeError("no")])
def test_other_errors_are_errors(monkeypatch, error):
    made = small()
    monkeypatch.setattr(Piecewise, "_capture", lambda self, size: (_ for _ in ()).throw(error))
    with pytest.raises(RuntimeError):
        made.run(torch.arange(8), Spans.of([8], [0]))


def test_ranks_do_not_part_where_one_has_too_little_memory(monkeypatch):
    """The others would wait for sums of other shapes."""
    made = small()
    full = torch.OutOfMemoryError("full")
    monkeypatch.setattr(Piecewise, "_capture", lambda self, size: (_ for _ in ()).throw(full))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    with pytest.raises(torch.OutOfMemoryError):
        made.run(torch.arange(8), Spans.of([8], [0]))


def test_many_tokens_are_not_served():
    made = small()
    many = SIZES[-1] + 1
    assert made.run(torch.zeros(many, dtype=torch.int64), Spans.of([many], [0])) is None


def test_short_spans_are_rows_of_their_slots():
    sizes, slots, past = [3, 1, 2], [4, 0, 7], [10, 5, 0]
    each, before = _rows_of(sizes, slots, past)
    assert each == [4, 4, 4, 0, 7, 7]
    assert before == [10, 11, 12, 5, 0, 1]


class Stub:
    """In place of `Graphs`: what it was asked, and one place for all that it gives."""

    def __init__(self, model: Decoder) -> None:
        self.place = torch.zeros(200, model.config.hidden_size)
        self.asked: list[tuple[str, int]] = []
        self.piecewise = SimpleNamespace(run=self._spans)

    def ready(self, count: int, keys: int) -> bool:
        return keys <= 25_000

    def run(self, tokens: torch.Tensor, slots: list[int], past: list[int]) -> torch.Tensor:
        return self._leave("rows", tokens)

    def _spans(self, tokens: torch.Tensor, spans: Spans) -> torch.Tensor:
        return self._leave("spans", tokens)

    def _leave(self, name: str, tokens: torch.Tensor) -> torch.Tensor:
        self.asked.append((name, len(tokens)))
        self.place[:] = float(len(self.asked))
        return self.place[: len(tokens)]


def stubbed(name: str) -> tuple[Runner, Stub]:
    config = CONFIGS[name]
    model = build(config, seed=0)
    pool = Pool(config, Sizes(2, 32, (4,) * len(set(config.windows)), 0), CPU, torch.float32)
    runner = Runner(model, pool)
    stub = Stub(model)
    runner.graphs = stub  # type: ignore[assignment]
    return runner, stub


@pytest.mark.parametrize(
    ("name", "sizes", "past", "whether"),
    [
        ("window", [1, 1], [9000, 30_000], True),
        ("window", [3, 1], [100, 20_000], True),
        ("window", [3, 1], [100, 26_000], False),  # no such graph is there
        ("window", [5, 1], [8000, 20_000], False),  # too much to read
        ("window", [100, 29], [0, 0], False),  # too many
        ("hybrid", [1, 1], [5, 5], True),
        ("hybrid", [2, 1], [5, 5], False),
    ],
)
def test_which_spans_are_rows(name, sizes, past, whether):
    runner, stub = stubbed(name)
    tokens = torch.zeros(sum(sizes), dtype=torch.int64)
    runner.compute(tokens, Batch(sizes, [0, 1], past, 0))
    assert stub.asked == [("rows" if whether else "spans", len(tokens))]
    ones = all(size == 1 for size in sizes)
    with fixed_order():
        assert runner._each_a_row(sizes, past) is ones
    assert runner._each_a_row(sizes, past, spans_too=False) is ones


def test_what_two_forwards_of_a_step_leave_in_one_place_is_kept_apart():
    runner, stub = stubbed("hybrid")
    tokens = torch.zeros(12, dtype=torch.int64)
    found = runner.compute(tokens, Batch([1, 1, 10], [0, 1, 1], [5, 5, 0], 2))
    assert stub.asked == [("rows", 2), ("spans", 10)]
    assert found[:2].eq(1).all()
    assert found[2:].eq(2).all()


@pytest.mark.parametrize(("fails", "given"), [(1, True), (2, True), (0, False)])
def test_warming_gives_graphs_back_for_long_prompts(monkeypatch, caplog, fails, given):
    """Once; what does not fit without them fits nowhere."""
    runner, stub = stubbed("hybrid")
    held = [1]
    stub.piecewise = type(
        "Held", (), {"__len__": lambda self: len(held), "give_way": lambda self: held.clear()}
    )()
    left = [fails]

    def compute(self: Runner, tokens: torch.Tensor, batch: Batch) -> torch.Tensor:
        left[0] -= 1
        if left[0] >= 0:
            raise torch.OutOfMemoryError("full")
        return torch.ones(1)

    monkeypatch.setattr(Runner, "compute_together", compute)
    batch = Batch([5], [0], [0], 0)
    if fails > 1:
        with pytest.raises(torch.OutOfMemoryError):
            _computed(runner, torch.zeros(5, dtype=torch.int64), batch)
    else:
        assert _computed(runner, torch.zeros(5, dtype=torch.int64), batch).eq(1).all()
    assert (not held) is given
    assert ("short prompts" in caplog.text) is given
