"""Streams in which graphs are captured."""

import logging
from itertools import count
from types import SimpleNamespace

import pytest
import torch

from cairn.engine import graphs

HERE = torch.device("cpu")


class Owner:
    """In place of an engine's graphs."""


@pytest.fixture
def taken(monkeypatch):
    """Owners of streams, where PyTorch gives out as many as it has, in turn."""
    numbers = count()
    monkeypatch.setattr(
        torch.cuda,
        "Stream",
        lambda device: SimpleNamespace(cuda_stream=next(numbers) % graphs._STREAMS),
    )
    monkeypatch.setattr(graphs, "_streams", owners := type(graphs._streams)())
    return owners


def test_no_two_engines_capture_in_one_stream(taken):
    """Partial sums of a library's products lie where the stream says."""
    owners = [Owner() for _ in range(graphs._STREAMS)]
    for owner in owners:
        taken[owner] = graphs._unused_stream(HERE)
        for _ in range(30):  # somebody else takes some: the next is that of an engine before
            torch.cuda.Stream(HERE)
    assert len({one.cuda_stream for one in taken.values()}) == len(owners)


def test_streams_of_engines_that_are_gone_are_free_and_one_too_many_is_told(taken, caplog):
    owners = [Owner() for _ in range(graphs._STREAMS)]
    for number in range(len(owners)):
        taken[owners[number]] = graphs._unused_stream(HERE)
    gone = taken[owners[7]].cuda_stream
    del owners[7]
    with caplog.at_level(logging.WARNING):
        assert graphs._unused_stream(HERE).cuda_stream == gone
        assert not caplog.messages
        taken[last := Owner()] = graphs._unused_stream(HERE)
        assert not caplog.messages
        graphs._unused_stream(HERE)
    assert "at the same time" in caplog.text
    assert last in taken
