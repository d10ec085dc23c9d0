"""Host memory: what is freed and needed again, and pages that are large enough to be read fast."""

import ctypes
from functools import cache
from typing import Any

from torch import Tensor

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_LARGEST_THRESHOLD = 32 * 2**20  # glibc takes no larger one
_KEPT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let this process keep freed tensors' memory for the next ones; whether that took effect.

    By default glibc hands large blocks back to the kernel, which clears every page anew: about
    50,000 page faults, 15% of the time, in a step of a small model over 4096 tokens. Affects the
    whole process, so that only programs that own theirs should call it. False without glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    took = [
        mallopt(ctypes.c_int(_M_MMAP_THRESHOLD), ctypes.c_int(_LARGEST_THRESHOLD)),
        mallopt(ctypes.c_int(_M_TRIM_THRESHOLD), ctypes.c_int(_KEPT)),
    ]
    return all(took)


_HUGE_PAGE = 2 * 2**20
_MADV_HUGEPAGE = 14  # of Linux's mman.h


def use_huge_pages(tensor: Tensor) -> None:
    """Ask for 2 MiB pages for a tensor of 2 MiB or more that nothing was written to yet.

    Weights and states are streamed through once a token; with pages of 4 KiB a core waits for
    their addresses as much as for their bytes. A hint: without Linux nothing happens.
    """
    size = tensor.numel() * tensor.element_size()
    advise = _advise()
    if tensor.device.type != "cpu" or size < _HUGE_PAGE or advise is None:
        return
    start = tensor.data_ptr() // _HUGE_PAGE * _HUGE_PAGE  # what lies beside it may be large, too
    stop = -(-(tensor.data_ptr() + size) // _HUGE_PAGE) * _HUGE_PAGE
    advise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), ctypes.c_int(_MADV_HUGEPAGE))


@cache
def _advise() -> Any:
    try:
        return ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return None
