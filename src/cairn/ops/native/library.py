"""The compiled library: found, checked against its sources, bound to the OpenMP of torch."""

import ctypes
import hashlib
import re
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

HERE = Path(__file__).parent
KINDS = {torch.float32: 0, torch.bfloat16: 1}  # vector.h has the same numbers
_NO_MEMORY = 1  # what functions give: tiles.c


class Mixer(ctypes.Structure):
    """`Mixer` of mixer.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("z", "xbc", "dt")),
        *((name, ctypes.c_int64) for name in ("z_stride", "xbc_stride", "dt_stride", "kind")),
        *((name, ctypes.c_void_p) for name in ("conv", "conv_bias", "norm")),
        *((name, ctypes.c_int64) for name in ("weight_kind", "window_kind")),
        *((name, ctypes.c_void_p) for name in ("A_log", "D", "dt_bias")),
        *((name, ctypes.c_void_p) for name in ("bounds", "slots", "window", "state", "y", "out")),
        *((name, ctypes.c_int64) for name in ("S", "H", "P", "G", "N", "C", "W", "norm_groups")),
        *((name, ctypes.c_float) for name in ("eps", "dt_least", "dt_most")),
        *((name, ctypes.c_int64) for name in ("threads", "blocks", "only")),
    ]


class Attention(ctypes.Structure):
    """`Attention` of attention.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("k", "k_bias", "v", "v_bias", "q_norm", "k_norm")),
        *((name, ctypes.c_int64) for name in ("H", "KV", "P", "window", "group")),
    ]


class Layer(ctypes.Structure):
    """`Layer` of layer.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("norm", "norm_bias", "first", "first_bias")),
        *((name, ctypes.c_void_p) for name in ("gate", "gate_bias", "last", "last_bias")),
        ("mixer", ctypes.POINTER(Mixer)),
        ("attention", ctypes.POINTER(Attention)),
        *((name, ctypes.c_int64) for name in ("inside", "width", "activation", "kind")),
        ("eps", ctypes.c_float),
    ]


class Call(ctypes.Structure):
    """`Call` of layer.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "tokens", "norm", "norm_bias", "out")),
        *((name, ctypes.c_void_p) for name in ("memory", "cos", "sin", "tables")),
        *((name, ctypes.c_void_p) for name in ("bounds", "slots", "past", "room")),
        *((name, ctypes.c_int64) for name in ("x_kind", "norm_kind", "out_kind", "memory_kind")),
        *((name, ctypes.c_int64) for name in ("T", "S", "D", "R", "V", "pages", "threads")),
        ("eps", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("head", "logits", "highest", "likeliest")),
        ("O", ctypes.c_int64),
    ]


class Dense(ctypes.Structure):
    """`Dense` of dense.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "weight", "bias", "times", "y")),
        *((name, ctypes.c_int64) for name in ("apart", "T", "O", "K", "y_kind")),
        *((name, ctypes.c_int64) for name in ("activation", "threads")),
    ]


class Prompt(ctypes.Structure):
    """`Prompt` of prompt.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("q", "k", "v", "y", "spans")),
        *((name, ctypes.c_int64) for name in ("q_apart", "k_apart", "v_apart")),
        *((name, ctypes.c_int64) for name in ("S", "H", "KV", "P", "window", "threads")),
    ]


class Scan(ctypes.Structure):
    """`Scan` of scan.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "dt", "A", "B", "C", "D")),
        *((name, ctypes.c_int64) for name in ("x_apart", "B_apart", "C_apart")),
        *((name, ctypes.c_void_p) for name in ("bounds", "places", "state", "states", "y", "last")),
        *((name, ctypes.c_void_p) for name in ("gy", "g_last", "gx", "g_dt", "gA", "gD")),
        *((name, ctypes.c_void_p) for name in ("gB", "gC", "g_state")),
        *((name, ctypes.c_int64) for name in ("T", "S", "H", "P", "G", "N", "blocks", "threads")),
    ]


class Norms(ctypes.Structure):
    """`Norms` of rows.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "residual", "weight", "bias")),
        *((name, ctypes.c_void_p) for name in ("normed", "total")),
        *((name, ctypes.c_int64) for name in ("x_kind", "residual_kind", "weight_kind")),
        *((name, ctypes.c_int64) for name in ("rows", "width", "threads")),
        ("eps", ctypes.c_float),
    ]


class Turns(ctypes.Structure):
    """`Turns` of rows.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "cos", "sin", "to")),
        *((name, ctypes.c_int64) for name in ("kind", "T", "heads", "P", "R", "apart", "threads")),
        ("sign", ctypes.c_float),
    ]


@dataclass(frozen=True)
class Native:
    """The loaded library, or why there is none."""

    library: ctypes.CDLL | None
    missing: str
    """Empty where there is a library."""
    level: str = ""
    """`avx512`, `avx2` or `base`."""
    tiles: bool = False
    """Whether products of a few rows with weights in bf16 take matrix units (AMX)."""
    pairs: bool = False
    """Whether they take vectors of pairs (AVX512_BF16) otherwise."""

    @property
    def narrow(self) -> bool:
        """Whether this CPU multiplies bf16: then it is the dtype for weights that are stored so."""
        return self.tiles or self.pairs

    @property
    def words(self) -> str:
        """What it was compiled for, for people."""
        units = "vectors of pairs" if self.pairs else "vectors"
        units = "matrix units" if self.tiles else units
        return self.missing or f"compiled for {self.level}, weights in bf16 by {units}"


@cache
def native() -> Native:
    """Load the library once a process. One that other sources were compiled to is not used."""
    level = _level()
    path = HERE / f"libcairn_{level}.so.1"
    if not path.exists():
        return Native(None, "nothing is compiled: there was no C compiler at the install")
    problem = _bring_openmp()
    if problem:
        return Native(None, problem)
    try:
        library = ctypes.CDLL(str(path))  # whose calls release the interpreter's lock
    except OSError as error:
        return _unused(f"{path.name} does not load: {error}")
    library.cairn_source.restype = ctypes.c_char_p
    if library.cairn_source() != _digest().encode():
        return _unused(f"{path.name} is not of these sources: install again")
    _declare(library)
    tiles, pairs = bool(library.cairn_tiles(1)), bool(library.cairn_pairs(1))
    return Native(library, "", level, tiles, pairs)


def _unused(why: str) -> Native:
    """Nothing compiled, though there is something: nobody chose that, so it is said."""
    warnings.warn(f"slow paths serve this CPU: {why}", RuntimeWarning, stacklevel=3)
    return Native(None, why)


def _declare(library: ctypes.CDLL) -> None:
    """Tell the arguments and results of every function."""
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    for name, result, arguments in (
        ("cairn_tiles", size, [size]),
        ("cairn_pairs", size, [size]),
        ("cairn_linear", size, [*3 * (pointer, size), size, size, size, size]),
        (
            "cairn_norm",
            None,
            [
                *(pointer, size, pointer, size, pointer, size, pointer, size),
                *(size, size, size, ctypes.c_float, size),
            ],
        ),
        ("cairn_dense", size, [ctypes.POINTER(Dense)]),
        ("cairn_prompt", size, [ctypes.POINTER(Prompt)]),
        ("cairn_scan", size, [ctypes.POINTER(Scan), size]),
        ("cairn_add_norm", None, [ctypes.POINTER(Norms)]),
        ("cairn_rotate", None, [ctypes.POINTER(Turns)]),
        ("cairn_activate", None, [pointer, pointer, size, size, size, size]),
        ("cairn_mixer", size, [ctypes.POINTER(Mixer)]),
        ("cairn_layers", size, [pointer, pointer, size]),
        ("cairn_layers_room", size, [pointer, pointer, size]),
    ):
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, result


def _level() -> str:
    """The best instruction set of this machine that torch would use, too."""
    capability = torch.backends.cpu.get_cpu_capability()
    if capability.startswith("AVX512"):
        return "avx512"
    return "avx2" if capability.startswith("AVX2") else "base"


def _digest() -> str:
    names = sorted(path.name for path in HERE.iterdir() if path.suffix in (".c", ".h"))
    names.sort(key=lambda name: name != "native.c")
    return hashlib.sha256(b"".join((HERE / name).read_bytes() for name in names)).hexdigest()


def _bring_openmp() -> str:
    """Make the OpenMP that torch works with visible to the library; why not, or empty.

    Two of them in one process would each keep its own threads, and spin against each other.
    """
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:
        return "torch's OpenMP cannot be found on this system"
    found = re.search(r"\S*/lib(?:gomp|iomp5|omp)[^/\s]*\.so\S*", maps)
    if not found:
        return "torch works without OpenMP here"
    try:
        openmp = ctypes.CDLL(found[0], mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        return f"torch's OpenMP does not load: {error}"
    return "" if hasattr(openmp, "GOMP_parallel") else f"{found[0]} is no OpenMP of GCC's kind"


def raise_if_failed(result: int, task: str) -> None:
    """Raise what a function on matrix units says of a task that it did not do.

    MemoryError where there was no room to work in, RuntimeError where no matrix unit serves.
    """
    if result == _NO_MEMORY:
        raise MemoryError(f"no memory for {task}'s working space")
    if result:
        raise RuntimeError(f"no matrix units for {task}: who calls has to ask whether they serve")


ELSEWHERE = "not on the CPU"  # asked first, since a launch on a GPU takes no longer than the rest


def unfit(*tensors: Tensor | None, autocast: bool = False) -> str:
    """Why the compiled path cannot compute with these tensors; empty where it can.

    It knows fp32 and bf16 and has no gradient. `autocast`: whether that changes nothing.
    """
    if tensors[0] is not None and tensors[0].device.type != "cpu":
        return ELSEWHERE
    missing = native().missing
    if missing:
        return missing
    if not autocast and torch.is_autocast_enabled("cpu"):
        return "autocast is on"
    for tensor in tensors:
        if tensor is None:
            continue
        if tensor.dtype not in KINDS:
            return f"{tensor.dtype} is not compiled"
        if tensor.requires_grad and torch.is_grad_enabled():
            return "gradients are wanted"
    return ""
