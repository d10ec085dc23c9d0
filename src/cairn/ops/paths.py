"""Which implementation serves an operation: told on request, and never slow in silence on a GPU.

Every operation has a plain PyTorch path; where it pays it also has a compiled one for the CPU
(`native`), and on a GPU a Triton kernel (`triton`) or one of a library (`library`). An operation
asks `choose` at each call, and gives the reason for which a fast path cannot serve this call, if
there is one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from typing import Any, Literal

import torch

from cairn.base.errors import UserError

Path = Literal["torch", "native", "library", "triton"]


@dataclass(frozen=True)
class Choice:
    """One call of an operation: the path that served it, and why no faster one did."""

    op: str
    path: Path
    why: str = ""


@dataclass(frozen=True)
class _Asked:
    """What those around a call want of it."""

    forced: Path | None = None
    slow_allowed: bool = False
    taken: list[Choice] | None = None


_NOTHING = _Asked()
_asked: ContextVar[_Asked] = ContextVar("asked", default=_NOTHING)


def choose(
    op: str,
    device: torch.device,
    *,
    native: str | None = None,
    triton: str | None = None,
    library: str | None = None,
) -> Path:
    """The path for one call of `op` on `device`.

    `native`, `triton` and `library` say why the compiled, the Triton and the library's path cannot
    serve the call: empty where they can, None where the operation has no such path. A library that
    can goes before Triton. Raises UserError on a GPU where only the plain path is left, but inside
    `slow_paths`.
    """
    if torch.compiler.is_compiling():  # the compiler makes kernels of plain PyTorch itself
        return "torch"
    asked, on_gpu = _asked.get(), device.type == "cuda"
    if on_gpu and asked is _NOTHING:  # soon said, as a step of decoding asks a hundred times
        if library == "":
            return "library"
        if triton is None:
            return "torch"
        if not triton and not _triton_missing():
            return "triton"
    forced = asked.forced
    fast: Path = "native"
    why = native
    if on_gpu:
        fast = "library" if library == "" else "triton"
        why = "" if library == "" else _triton_missing() if triton == "" else triton
        why = library if why is None else why
    if forced is not None:
        path, why = forced, "asked for"
    elif why == "":
        path = fast
    else:
        path = "torch"
    slow = on_gpu and path == "torch" and triton is not None
    if slow and forced is None and not asked.slow_allowed:
        mend = "install triton, or allow it: `with cairn.ops.paths.slow_paths():`"
        raise UserError("op", op, f"would run its slow path on {device}: {why}", mend)
    if asked.taken is not None:
        asked.taken.append(Choice(op, path, "" if path == fast else why or ""))
    return path


def undisturbed() -> bool:
    """Whether `choose` would take what can serve and tell nobody, so that it need not be asked."""
    asked = _asked.get()
    quiet = asked.forced is None and asked.taken is None
    return quiet and not torch.compiler.is_compiling()


def for_kernel(x: torch.Tensor, problem: str = "") -> str | None:
    """What `choose` takes as `triton` for an operation on x: there are no kernels in float64."""
    return None if x.dtype == torch.float64 else problem


def has_triton() -> bool:
    """Whether there are kernels at all."""
    return not _triton_missing()


@contextmanager
def only(path: Path) -> Iterator[None]:
    """Inside, every operation takes this path: to hold one against another."""
    with _asking(forced=path):
        yield


@contextmanager
def slow_paths() -> Iterator[None]:
    """Inside, plain PyTorch may serve a GPU where a kernel cannot."""
    with _asking(slow_allowed=True):
        yield


@contextmanager
def recorded() -> Iterator[list[Choice]]:
    """The choices that are made inside, in order."""
    taken: list[Choice] = []
    with _asking(taken=taken):
        yield taken


@contextmanager
def _asking(**what: Any) -> Iterator[None]:
    token = _asked.set(replace(_asked.get(), **what))
    try:
        yield
    finally:
        _asked.reset(token)


@cache
def generation(device: torch.device) -> int:
    """The major number of a GPU's compute capability: 9 is Hopper.

    Kept, since what is asked at every call should not take the microseconds that a driver takes.
    """
    return torch.cuda.get_device_capability(device)[0]


@cache
def _triton_missing() -> str:
    return "" if find_spec("triton") else "triton is not installed"
