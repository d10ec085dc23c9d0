"""Host memory: what is freed and needed again, and pages that are large enough to be read fast."""

import contextlib
import ctypes
import mmap
from collections.abc import Sequence
from math import prod

import torch
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
_WORTH_IT = 2**18  # bytes: less is left to malloc
_LINE = 64  # bytes: weights that begin elsewhere are read more slowly
_ALONE = 32 * 2**20  # bytes, from which on the ends of large pages are no great part


def fresh(size: int) -> Tensor:
    """Zeros uint8 [size] on the CPU at a multiple of 64, taken when they are first written.

    Linux is asked for pages of 2 MiB, as many as it fills. What is streamed through once a token is
    in no cache of addresses, and with pages of 4 KiB a core waits for these as much as for the
    bytes: 99 million parameters and 16 sequences are decoded a fifth faster. MemoryError where the
    system refuses it.
    """
    if size < _WORTH_IT:
        return torch.zeros(size, dtype=torch.uint8, device="cpu")
    piece, at = _piece(size)
    return torch.frombuffer(piece, dtype=torch.uint8, count=size, offset=at)


def empty_together(shapes: Sequence[torch.Size], dtype: torch.dtype) -> list[Tensor]:
    """Tensors on the CPU that hold anything, one behind another in one piece of such memory.

    By itself a tensor of 4 MB is half in pages of 4 KiB, since no whole 2 MiB are left at its
    ends. Small ones lie together at the end, so that who looks at no large one takes little
    memory. The piece goes when the last of them does; so those of 32 MiB and more have a piece
    each, and a model that is narrowed or moved matrix by matrix gives memory back meanwhile.
    """
    sizes = [-(-prod(shape) * dtype.itemsize // _LINE) * _LINE for shape in shapes]
    if len(shapes) > 1 and max(sizes) >= _ALONE:
        alone = {i for i, size in enumerate(sizes) if size >= _ALONE}
        few = [shape for i, shape in enumerate(shapes) if i not in alone]
        rest = iter(empty_together(few, dtype))
        return [
            empty_together([shape], dtype)[0] if i in alone else next(rest)
            for i, shape in enumerate(shapes)
        ]
    if sum(sizes) < _WORTH_IT:
        return [torch.empty(shape, dtype=dtype, device="cpu") for shape in shapes]
    piece, at = _piece(sum(sizes))
    made = [torch.empty(0)] * len(shapes)
    for i in sorted(range(len(shapes)), key=lambda i: -sizes[i]):
        if sizes[i]:
            flat = torch.frombuffer(piece, dtype=dtype, count=prod(shapes[i]), offset=at)
            made[i] = flat.view(shapes[i])
        else:
            made[i] = torch.empty(shapes[i], dtype=dtype, device="cpu")
        at += sizes[i]
    return made


def _piece(size: int) -> tuple[mmap.mmap, int]:
    """Memory of which `size` bytes are free from an offset on, at a multiple of 2 MiB.

    MemoryError where the system refuses it.
    """
    try:
        piece = mmap.mmap(-1, size + _HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        needed = f"{size / 2**20:,.0f} MiB for weights or for what sequences remember"
        mend = "a smaller model, capacity or number of slots needs less"
        raise MemoryError(f"no memory: the system refuses {needed}; {mend}") from error
    at = -torch.frombuffer(piece, dtype=torch.uint8, count=1).data_ptr() % _HUGE_PAGE
    whole = size // _HUGE_PAGE * _HUGE_PAGE  # a page beyond would be taken for a few bytes of it
    if whole and hasattr(mmap, "MADV_HUGEPAGE"):  # Linux, which may have been built without
        with contextlib.suppress(OSError):
            piece.madvise(mmap.MADV_HUGEPAGE, at, whole)
    return piece, at
