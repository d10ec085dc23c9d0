"""The compiled scan with its gradients, for training on a CPU.

Legend: T tokens, S spans, H heads, P head width, G groups, N state size.
"""

import ctypes

import numpy as np
import torch
from torch import Tensor

from cairn.ops.native.library import ELSEWHERE, Scan, native
from cairn.ops.ragged import Chunks

_CHUNK = 64  # tokens; mixer_inputs.c has the same number
_LANES = {"avx512": 16, "avx2": 8, "base": 4}  # vector.h has the same numbers


def scan_unfit(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, state: Tensor | None
) -> str:
    """Why the compiled scan cannot serve; empty where it can, gradients or not."""
    if x.is_cuda:
        return ELSEWHERE
    given = [x, dt, A, B, C, D] if state is None else [x, dt, A, B, C, D, state]
    if any(t.device.type != "cpu" for t in given):
        return ELSEWHERE
    if any(t.dtype != torch.float32 for t in given):
        return "not in fp32"
    return native().missing


def forward(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    state: Tensor | None,
    chunks: Chunks,
) -> tuple[Tensor, Tensor, Tensor]:
    """`ssd_scan`, and what `backward` needs: the states before every chunk and after the last."""
    x, B, C, given = _laid(x, dt, A, B, C, D)
    state = None if state is None else state.contiguous()
    spans, (T, H, P), N = chunks.spans, x.shape, B.shape[2]
    places = _places(chunks)
    Np, Pp = (-(-width // _lanes()) * _lanes() for width in (N, P))
    states = torch.empty(int(places[-1]), H, Np, Pp)
    y, last = torch.empty(T, H, P), torch.empty(spans, H, P, N)
    call = _call(x, B, C, given, chunks, places)
    call.state = None if state is None else state.data_ptr()
    call.states, call.y, call.last = (t.data_ptr() for t in (states, y, last))
    _run(call, False)
    return y, last, states


def backward(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    y: Tensor,
    states: Tensor,
    gy: Tensor | None,
    g_last: Tensor | None,
    chunks: Chunks,
    state_wanted: bool,
) -> tuple[Tensor | None, ...]:
    """Gradients of x, dt, A, B, C, D and, where wanted, of the states before [S, H, P, N]."""
    x, B, C, given = _laid(x, dt, A, B, C, D)
    gy = torch.zeros_like(y) if gy is None else gy.contiguous()
    g_last = None if g_last is None else g_last.contiguous()
    (T, H, P), (G, N), spans = x.shape, B.shape[1:], chunks.spans
    places = _places(chunks)
    call = _call(x, B, C, given, chunks, places)
    call.states, call.y, call.gy = (t.data_ptr() for t in (states, y, gy))
    call.g_last = None if g_last is None else g_last.data_ptr()
    gx, g_dt = torch.empty(T, H, P), torch.empty(T, H)
    gA, gD = torch.empty(spans, H), torch.empty(spans, H)
    gB, gC = (torch.empty(call.blocks, T, G, N) for _ in range(2))
    g_state = torch.empty(spans, H, P, N) if state_wanted else None
    for name, t in zip(
        ("gx", "g_dt", "gA", "gD", "gB", "gC"), (gx, g_dt, gA, gD, gB, gC), strict=True
    ):
        setattr(call, name, t.data_ptr())
    call.g_state = None if g_state is None else g_state.data_ptr()
    _run(call, True)
    gB, gC = (t[0] if len(t) == 1 else t.sum(0) for t in (gB, gC))
    return gx, g_dt, gA.sum(0), gB, gC, gD.sum(0), g_state


def _laid(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
    """x, B and C with tokens in one piece each, and the rest in one piece."""
    x, B, C = (t if _whole(t) else t.contiguous() for t in (x, B, C))
    return x, B, C, tuple(t.contiguous() for t in (dt, A, D))


def _whole(t: Tensor) -> bool:
    return t.stride(2) == 1 and t.stride(1) == t.shape[2]


def _places(chunks: Chunks) -> np.ndarray:
    """int64 [S + 1]: where the states of each span begin, and how many there are."""
    counts = -(-np.asarray(chunks.lengths, np.int64) // _CHUNK) + 1
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _call(
    x: Tensor,
    B: Tensor,
    C: Tensor,
    given: tuple[Tensor, ...],
    chunks: Chunks,
    places: np.ndarray,
) -> Scan:
    dt, A, D = given
    (T, H, P), (G, N), threads = x.shape, B.shape[1:], torch.get_num_threads()
    parts = (n for n in range(1, H // G + 1) if H // G % n == 0)
    enough = (n for n in parts if G * chunks.spans * n >= threads)
    return Scan(
        x=x.data_ptr(),
        dt=dt.data_ptr(),
        A=A.data_ptr(),
        B=B.data_ptr(),
        C=C.data_ptr(),
        D=D.data_ptr(),
        x_apart=x.stride(0),
        B_apart=B.stride(0),
        C_apart=C.stride(0),
        bounds=chunks.bounds.data_ptr(),
        places=places.__array_interface__["data"][0],
        T=T,
        S=chunks.spans,
        H=H,
        P=P,
        G=G,
        N=N,
        blocks=next(enough, H // G),
        threads=threads if x.numel() > 2**12 else 1,
    )


def _run(call: Scan, backward: bool) -> None:
    library = native().library
    assert library
    if library.cairn_scan(ctypes.byref(call), backward):
        raise MemoryError("no memory for a scan's working space")


def _lanes() -> int:
    return _LANES[native().level]
