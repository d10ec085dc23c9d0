"""Counters by which the last of several programs knows that it is the last."""

# pyright: reportAttributeAccessIssue=false, reportMissingImports=false, reportIndexIssue=false

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import triton
import triton.language as tl
from torch import Tensor

Held = dict[tuple[torch.device, int], list[Tensor]]
"""Counters of a device and a stream: the last are in use, others by graphs that were captured."""

_SIZE = 65_536  # large from the start: captured graphs hold counters by address
_GRAPHS = -1  # in place of a stream's number
_held: Held = {}
_of_graphs: ContextVar[Held] = ContextVar("of_graphs", default=_held)


@contextmanager
def counters_in(held: Held) -> Iterator[None]:
    """Inside, graphs are captured with the counters of `held`, which has to live as long as they.

    Graphs that share counters must not be replayed at the same time, as those of two engines in
    two streams may be.
    """
    token = _of_graphs.set(held)
    try:
        yield
    finally:
        _of_graphs.reset(token)


def counters(device: torch.device, count: int) -> Tensor:
    """Zeros [count or more] that every launch leaves as zeros; streams do not share them.

    Graphs that are captured have others (`counters_in`). They are made in a call outside of
    captures, since what is made in one is zero only from its first replay on.
    """
    if device.type != "cuda":
        return _of(_held, device, 0, count)
    for_graphs = _of(_of_graphs.get(), device, _GRAPHS, count)
    if torch.cuda.is_current_stream_capturing():
        return for_graphs
    return _of(_held, device, torch.cuda.current_stream(device).cuda_stream, count)


def _of(held: Held, device: torch.device, owner: int, count: int) -> Tensor:
    found = held.setdefault((device, owner), [])
    if not found or len(found[-1]) < count:
        found.append(torch.zeros(max(count, _SIZE), dtype=torch.int32, device=device))
    return found[-1]


@triton.jit
def last_of(counter, programs):
    """Whether so many programs have come here; what the others wrote before is to be read now.

    It has to be read past the first-level cache (".cg").
    """
    tl.debug_barrier()  # this program's own writes, of all its threads
    arrived = tl.atomic_add(counter, 1)
    if arrived == programs - 1:
        tl.store(counter, 0)
    return arrived == programs - 1
