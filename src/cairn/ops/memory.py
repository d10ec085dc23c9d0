"""Host memory: what a training loop on the CPU frees at each step, it needs at the next."""

import ctypes

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
