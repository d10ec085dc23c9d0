"""Streams in which graphs are captured, and the memory that they share."""

import logging
from itertools import count
from typing import NamedTuple

import pytest
import torch

from cairn.engine import captures

HERE, THERE = torch.device("cuda", 0), torch.device("cuda", 1)


class Owner:
    """In place of an engine's graphs."""


class Stream(NamedTuple):
    """In place of a device's: one of a few, given out in turn."""

    number: int
    device: torch.device


@pytest.fixture(autouse=True)
def streams(monkeypatch):
    """Those that were asked for."""
    numbers, given = count(), []

    def one(device):
        given.append(Stream(next(numbers) % captures._MOST, device))
        return given[-1]

    monkeypatch.setattr(torch.cuda, "Stream", one)
    monkeypatch.setattr(captures, "_streams", [])
    return given


def test_no_two_engines_capture_in_one_stream(streams):
    """Partial sums of a library's products lie where the stream says."""
    owners, own = [Owner() for _ in range(captures._MOST)], []
    for owner in owners:
        own.append(captures._own_stream(owner, HERE))
        for _ in range(30):  # somebody else takes some: the next is that of an engine before
            torch.cuda.Stream(HERE)
    assert len(set(own)) == len(owners)


def test_engines_one_after_the_other_share_a_stream(streams):
    """Each stream costs scratch memory that PyTorch never gives back."""
    for _ in range(5):
        owner = Owner()
        captures._own_stream(owner, HERE)
        del owner
    assert len(streams) == 1
    assert captures._own_stream(Owner(), THERE).device == THERE


def test_one_engine_too_many_is_told(caplog):
    owners = [Owner() for _ in range(captures._MOST)]
    own = [captures._own_stream(owner, HERE) for owner in owners]
    del owners[7]
    with caplog.at_level(logging.WARNING):
        owners.append(Owner())
        assert captures._own_stream(owners[-1], HERE) is own[7]
        assert not caplog.messages
        captures._own_stream(Owner(), HERE)
    assert "at the same time" in caplog.text


class Graph:
    """In place of a CUDA graph: which memory it was given, and has."""

    def __init__(self) -> None:
        self.given = None

    def capture_begin(self, pool, capture_error_mode):
        self.given = pool

    def capture_end(self):
        self.own = self.given or object()

    def pool(self):
        return self.own


def test_graphs_share_memory_as_long_as_one_of_them_lives(monkeypatch):
    """PyTorch does not know the memory of graphs that are all gone."""
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    made = captures.Captures(HERE)

    def one() -> Graph:
        graph = made.begin()
        made.end(graph)
        return graph

    first, second = one(), one()
    assert first.given is None
    assert second.given is first.own
    del first
    third = one()
    assert third.given is second.given
    del second, third
    assert one().given is None


def test_a_graph_that_fails_ends_all_the_same(monkeypatch):
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    made = captures.Captures(HERE)
    with pytest.raises(RuntimeError, match="no"), made.graph() as graph:
        raise RuntimeError("no")
    assert graph.own
