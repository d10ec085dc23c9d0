"""Kernels that begin before the one ahead of them has ended (programmatic dependent launch).

A step of decoding is hundreds of kernels of a few microseconds each, of which a good part is
launching, filling the GPU and emptying it again. So a kernel says at its beginning that the next
may come, and then waits until all before it is done. Whatever begins early waits, in every program
and before it reads or writes anything: then what it waits for has waited in its turn.
"""

# pyright: reportAttributeAccessIssue=false, reportMissingImports=false

from functools import cache
from typing import Any

import torch
import triton
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


def early(x: Tensor, recorded: bool = False) -> dict[str, Any]:
    """What a kernel with a parameter EARLY is launched with, for work on x.

    Early on Hopper GPUs and later, where no gradient is `recorded`; as ever elsewhere.
    """
    if recorded or not x.is_cuda or not _can(x.device):
        return {"EARLY": False}
    return {"EARLY": True, "launch_pdl": True}


@cache
def _can(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= (9, 0)


@triton.jit
def in_turn():
    """Let the next kernel come, and wait for those before."""
    gdc_launch_dependents()
    gdc_wait()
