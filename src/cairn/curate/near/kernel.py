"""The compiled half of a sketch: minhash.c, which the build leaves beside this file as a library.

Where it is absent, numpy does the same more slowly; `kernel_name` says which one works, and why.
"""

import ctypes
import hashlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cairn.curate.near.definition import BANDS, NGRAM, PERMUTATIONS, family

SOURCE = Path(__file__).with_name("minhash.c")
LIBRARY = Path(__file__).with_name("libminhash.so.1")


@dataclass(frozen=True)
class Kernel:
    """The loaded library (None: numpy serves), and in words what it is."""

    library: ctypes.CDLL | None
    name: str


@cache
def kernel() -> Kernel:
    """Load the library once a process. One that another source was compiled to is not used."""
    if not LIBRARY.exists():
        return Kernel(None, "numpy (nothing is compiled: there was no C compiler at the install)")
    try:
        library = ctypes.CDLL(str(LIBRARY))  # whose calls release the interpreter's lock
    except OSError as error:
        return Kernel(None, f"numpy ({LIBRARY.name} does not load: {error})")
    library.cairn_source.restype = ctypes.c_char_p
    library.cairn_machine.restype = ctypes.c_char_p
    if library.cairn_source() != hashlib.sha256(SOURCE.read_bytes()).hexdigest().encode():
        return Kernel(None, f"numpy ({LIBRARY.name} is not of this {SOURCE.name}: install again)")
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    library.cairn_blank.argtypes = [pointer, size, ctypes.c_char_p]
    library.cairn_blank.restype = None
    library.cairn_sketch.argtypes = [pointer, size, pointer, pointer, pointer]
    library.cairn_sketch.restype = size
    library.cairn_components.argtypes = [pointer, size, pointer, size]
    library.cairn_components.restype = size
    return Kernel(library, f"C ({library.cairn_machine().decode()})")


def kernel_name() -> str:
    """`C (AVX-512)`, `C (AVX2)`, `C (portable)`, or `numpy` and why."""
    return kernel().name


def is_compiled() -> bool:
    """Whether the compiled kernel serves."""
    return kernel().library is not None


_LEAST, _KEYS = ctypes.c_uint32 * PERMUTATIONS, ctypes.c_int64 * BANDS


def sketch(
    library: ctypes.CDLL, text: str, seed: int
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]] | None:
    """(minima, keys) as `definition` has them; None for a text of under five words."""
    least, keys = _LEAST(), _KEYS()
    drawn = family(seed)  # held here: the cache could let it go
    address = drawn.ctypes.data
    if text.isascii():
        raw = text.encode()
        words = library.cairn_sketch(raw, len(raw), address, least, keys)
    else:
        raw = bytearray(text.lower(), "utf-8", "surrogatepass")
        held = (ctypes.c_char * len(raw)).from_buffer(raw)
        beyond = any(first in raw for first in range(0xF0, 0xF5))  # beyond the 16-bit characters
        library.cairn_blank(held, len(raw), _letters(0x110000 if beyond else 0x10000))
        words = library.cairn_sketch(held, len(raw), address, least, keys)
    if words < NGRAM:
        return None
    return np.asarray(least), np.asarray(keys)


@cache
def _letters(count: int) -> bytes:
    """A bit for each of the first Unicode characters: whether this Python's `\\w` matches it."""
    every = "".join(map(chr, range(count)))
    bits = np.zeros(len(every), np.bool_)
    for found in re.finditer(r"\w++", every):  # a quarter of a second sooner than one by one
        bits[found.start() : found.end()] = True
    bits[ord("_")] = False
    return np.packbits(bits, bitorder="little").tobytes()
