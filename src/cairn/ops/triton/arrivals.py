"""Counters by which the last of several programs knows that it is the last."""

# pyright: reportAttributeAccessIssue=false, reportMissingImports=false, reportIndexIssue=false

import torch
import triton
import triton.language as tl
from torch import Tensor

_SIZE = 65_536  # large from the start: captured graphs hold counters by address
_GRAPHS = -1  # in place of a stream's number
_held: dict[tuple[torch.device, int], Tensor] = {}
_outgrown: list[Tensor] = []


def counters(device: torch.device, count: int) -> Tensor:
    """Zeros [count or more] that every launch leaves as zeros; streams do not share them.

    Graphs that are captured share some of their own. They are made in a call outside of captures,
    since what is made in one is zero only from its first replay on.
    """
    if device.type != "cuda":
        return _of(device, 0, count)
    if torch.cuda.is_current_stream_capturing():
        return _of(device, _GRAPHS, count)
    _of(device, _GRAPHS, count)
    return _of(device, torch.cuda.current_stream(device).cuda_stream, count)


def _of(device: torch.device, owner: int, count: int) -> Tensor:
    held = _held.get((device, owner))
    if held is None or len(held) < count:
        if held is not None:
            _outgrown.append(held)
        held = torch.zeros(max(count, _SIZE), dtype=torch.int32, device=device)
        _held[device, owner] = held
    return held


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
