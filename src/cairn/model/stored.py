"""Tensors in safetensors files: found by their headers, read piece by piece to where they belong.

The header is read here rather than by the library because a file that was cut short is refused by
that as a whole: this names the tensors that are lost. A tensor that is wanted as it is stored, in
the host's memory, is a view of a map of its file; every other is read piece by piece, since pages
of a map and the copies made of them would count as memory twice.
"""

import ctypes
import json
import mmap
import os
import sys
import threading
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cairn.base import UserError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
HEADER_BYTES = 100 * 10**6  # the library's own limit
PIECE_BYTES = 32 * 2**20  # read at a time where bytes are not yet what the parameter holds
FRESH_BYTES = 4 * 2**20  # of new memory made ready at a time: it is filled while still in a cache
# Where the file system has large pages, a first look brings in 2 MiB of a file at once: a disk is
# as busy as when all is asked for, and the memory is faster to stream through ever after.
_READ_IN_PIECES = getattr(mmap, "MADV_HUGEPAGE", getattr(mmap, "MADV_WILLNEED", 0))
_POPULATE_READ, _POPULATE_WRITE = 22, 23  # of Linux's madvise, since 5.14
AHEAD_BYTES = 16 * 2**20  # of a map, asked for at a time
PAGE = mmap.PAGESIZE
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: its name there, and where its bytes are."""

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def truncated(self) -> bool:
        """Whether the file ends before the tensor does."""
        return self.path.stat().st_size < self.stop


def stored_in(path: Path) -> list[Stored]:
    """Every tensor that a file's header tells of; UserError for a header that is damaged."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            held = path.stat().st_size - 8
            if not 2 <= size <= min(HEADER_BYTES, held):
                raise ValueError("its header is cut short")
            header = json.loads(file.read(size), object_pairs_hook=_once_each)
        found = [
            _entry(path, name, entry, 8 + size)
            for name, entry in header.items()
            if name != "__metadata__"
        ]
        found.sort(key=lambda one: (one.start, one.stop))
        _check_order(found, 8 + size, 8 + held)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
        raise UserError(f"{path} is truncated or damaged ({error}): fetch it anew") from None
    return found


def _once_each(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice} is there twice")
    return found


def _entry(path: Path, name: str, entry: dict[str, Any], start: int) -> Stored:
    """A tensor of a header, whose data begin at `start`."""
    begin, end = entry["data_offsets"]
    shape = tuple(entry["shape"])
    if not all(type(n) is int and n >= 0 for n in (begin, end, *shape)):
        raise ValueError(f"{name} has no whole numbers for its place")
    one = Stored(path, name, entry["dtype"], shape, start + begin, start + end)
    known = DTYPES.get(one.dtype)  # others are named later, with all that does not fit
    if known and end - begin != known.itemsize * prod(shape):
        raise ValueError(f"{name} has other bytes than its shape")
    return one


def _check_order(found: list[Stored], start: int, stop: int) -> None:
    """Tensors follow each other to the end of the file, or beyond where that was cut short."""
    at = start
    for one in found:
        if one.start != at:
            raise ValueError(f"{one.name} does not begin where the tensor before it ends")
        at = one.stop
    if at < stop:
        raise ValueError(f"{stop - at} bytes are no tensor's")


class Maps:
    """Maps of files, private to this process: what is written to them stays in memory."""

    def __init__(self) -> None:
        self._maps: dict[Path, mmap.mmap] = {}

    def read_ahead(self) -> None:
        """Bring in what is mapped from beginning to end, in a thread; returns at once.

        Who looks at weights in the order of layers has a disk seek: files hold them by name.
        More than memory holds is left to be read as it is needed.
        """
        size = sum(map(len, self._maps.values()))
        if _LIBC is not None and 0 < size < os.sysconf("SC_PHYS_PAGES") * PAGE:
            given = (list(self._maps.values()),)
            threading.Thread(target=_bring_in, args=given, name="read-ahead", daemon=True).start()

    def view(self, one: Stored) -> Tensor | None:
        """The tensor as a view of its file; None where its bytes are not aligned for that."""
        dtype = DTYPES[one.dtype]
        if one.start % dtype.itemsize or one.start == one.stop:
            return None
        if one.path not in self._maps:
            with one.path.open("rb") as file:
                made = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            made.madvise(_READ_IN_PIECES)
            self._maps[one.path] = made
        count = (one.stop - one.start) // dtype.itemsize
        flat = torch.frombuffer(self._maps[one.path], dtype=dtype, count=count, offset=one.start)
        return flat.view(one.shape)


def _bring_in(maps: list[mmap.mmap]) -> None:
    """Ask for every page; where the kernel does not know how, a first look brings it in as ever."""
    assert _LIBC is not None
    for each in maps:
        address = torch.frombuffer(each, dtype=torch.uint8, count=1).data_ptr()
        for at in range(0, len(each), AHEAD_BYTES):
            length = min(AHEAD_BYTES, len(each) - at)
            if _LIBC.madvise(
                ctypes.c_void_p(address + at), ctypes.c_size_t(length), _POPULATE_READ
            ):
                return


@torch.no_grad()
def read_into(one: Stored, target: Tensor, parts: list[tuple[int, int]] | None = None) -> None:
    """Fill a parameter from a file, converting and moving piece by piece.

    `parts` are the rows (start, stop) that follow each other in `target` [rows, ...]; None is all.
    """
    dtype = DTYPES[one.dtype]
    shape = one.shape or (1,)
    rows = target if one.shape else target.view(1)
    row_bytes = (one.stop - one.start) // shape[0] if shape[0] else 0
    here = target.dtype == dtype and target.device.type == "cpu" and target.is_contiguous()
    step = max(1, PIECE_BYTES // max(1, row_bytes))
    at = 0
    with one.path.open("rb", buffering=0) as file:
        for first, last in parts or [(0, shape[0])]:
            file.seek(one.start + first * row_bytes)
            for begin in range(first, last, last - first if here else step):
                count = min(last, begin + (last - first if here else step)) - begin
                place = rows[at : at + count]
                piece = place if here else torch.empty((count, *shape[1:]), dtype=dtype)
                _fill(file, piece, one)
                if not here:
                    place.copy_(piece)
                at += count


def _fill(file: object, piece: Tensor, one: Stored) -> None:
    """Read a contiguous tensor's bytes; UserError where the file ends first."""
    view = piece.view(torch.uint8).reshape(-1).numpy().data
    address = piece.data_ptr()
    while len(view):
        make_ready(address, min(len(view), FRESH_BYTES))
        got = file.readinto(view[:FRESH_BYTES])  # type: ignore[attr-defined]
        if not got:
            raise UserError(f"{one.path} ends inside {one.name}: fetch it anew")
        view = view[got:]
        address += got


def make_ready(address: int, size: int) -> None:
    """Let the kernel back fresh memory in one call rather than by a fault for each 4 KiB.

    Worth a third of the time of a load. Where it cannot, memory comes by faults as ever.
    """
    if _LIBC is not None and size >= FRESH_BYTES // 4:
        first = address & -PAGE
        length = -(-(address + size - first) // PAGE) * PAGE
        _LIBC.madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), _POPULATE_WRITE)
