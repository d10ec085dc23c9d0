"""Kernels that begin before the one ahead of them has ended (programmatic dependent launch).

A step of decoding is hundreds of kernels of a few microseconds each, of which a good part is
launching, filling the GPU and emptying it again. So a kernel says at its beginning that the next
may come, and then waits until all before it is done. Whatever begins early waits, in every program
and before it reads or writes anything: then what it waits for has waited in its turn.

Why that is enough, whatever stands between. The wait ends when the kernel ahead has ended and what
it wrote is seen here. It had itself waited, or was launched as ever; so all before it had ended
too, and nothing that is read here is still being written, nor the other way round. What never says
that the next may come (a library's product, a copy, a sum over ranks by NCCL) lets it come when it
has ended; what is launched as ever after an early kernel begins when that has ended, and so do an
event and a graph. So memory that goes from one to another (counters of arrivals, keys in pages,
states in slots, what the allocator gives out again) needs no other order than the stream's. The
wait is each kernel's first access to memory in its machine code as well: tests/ops/test_compiled.py
reads that.

`CAIRN_EARLY=0` in the environment launches all kernels as ever.
"""

# pyright: reportAttributeAccessIssue=false, reportMissingImports=false

import os
from functools import cache
from typing import Any

import torch
import triton
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


def early(x: Tensor, recorded: bool = False) -> dict[str, Any]:
    """What a kernel with a parameter EARLY is launched with, for work on x.

    Early on NVIDIA's GPUs from Hopper on, where no gradient is `recorded`; as ever elsewhere.
    """
    if recorded or not x.is_cuda or not _can(x.device):
        return _AS_EVER
    return _EARLY


_AS_EVER: dict[str, Any] = {"EARLY": False}
_EARLY: dict[str, Any] = {"EARLY": True, "launch_pdl": True}


@cache
def _can(device: torch.device) -> bool:
    if torch.version.hip is not None or os.environ.get("CAIRN_EARLY") == "0":
        return False
    return torch.cuda.get_device_capability(device) >= (9, 0)


@triton.jit
def in_turn():
    """Let the next kernel come, and wait for those before."""
    gdc_launch_dependents()
    gdc_wait()
