"""Counters of kernels: who shares them with whom."""

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

from cairn.ops.triton import arrivals
from cairn.ops.triton.arrivals import Held, counters, counters_in

pytestmark = pytest.mark.kernels


class Stream:
    """A GPU's current stream, with counters in the host's memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.number, self.capturing = 7, False
        zeros = torch.zeros
        monkeypatch.setattr(arrivals, "_held", held := {})
        monkeypatch.setattr(
            arrivals, "_of_graphs", arrivals.ContextVar("of_graphs_here", default=held)
        )
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: self.capturing)
        monkeypatch.setattr(
            torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=self.number)
        )
        monkeypatch.setattr(torch, "zeros", lambda n, dtype, device: zeros(n, dtype=dtype))

    def counters(self, count: int = 4, capturing: bool = False) -> int:
        """Where they lie."""
        self.capturing = capturing
        found = counters(torch.device("cuda", 0), count)
        assert len(found) >= count
        return found.data_ptr()


def test_streams_and_captured_graphs_do_not_share_counters(monkeypatch):
    stream = Stream(monkeypatch)
    first, captured = stream.counters(), stream.counters(capturing=True)
    assert first != captured
    assert stream.counters() == first
    stream.number = 8
    assert stream.counters() not in (first, captured)
    assert stream.counters(capturing=True) == captured, "any stream may replay a graph"


def test_graphs_of_two_owners_do_not_share_counters(monkeypatch):
    stream = Stream(monkeypatch)
    one: Held = {}
    other: Held = {}
    places = set()
    for held in (one, other):
        with counters_in(held):
            outside = stream.counters()
            made = len(next(iter(held.values())))
            places |= {outside, stream.counters(capturing=True)}
            assert len(next(iter(held.values()))) == made, "none is made in a capture"
    assert len(places) == 3  # kernels that are launched in turn in one stream share theirs


def test_counters_that_graphs_know_stay_where_they_are(monkeypatch):
    stream = Stream(monkeypatch)
    held: Held = {}
    with counters_in(held):
        stream.counters()
        small = stream.counters(capturing=True)
        stream.counters(arrivals._SIZE + 1)
        large = stream.counters(arrivals._SIZE + 1, capturing=True)
    assert large != small
    assert [x.data_ptr() for x in next(iter(held.values()))] == [small, large]


def test_counters_are_zero_after_every_call(triton_device):
    from cairn.ops.attention import AttentionPlan, Pages, attention
    from cairn.ops.paths import only

    x = torch.randn(2, 2, 16, device=triton_device)
    memory = torch.randn(80, 1, 16, 16, device=triton_device)
    table = torch.arange(80, dtype=torch.int32, device=triton_device).view(2, 40)
    plan = AttentionPlan.of([1, 1], [600, 300], triton_device)
    with only("triton"):
        for _ in range(2):
            attention(x, x[:, :1], x[:, :1], plan, pages=Pages(memory, memory, table))
    assert arrivals._held
    assert not any(found.any() for every in arrivals._held.values() for found in every)
