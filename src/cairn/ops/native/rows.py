"""Compiled operations on many rows: products with what follows, norms of sums, rotations.

Who calls them has asked whether they fit. Legend: T tokens, I inputs, O outputs, R rotated pairs.
"""

import ctypes

import torch
from torch import Tensor

from cairn.ops.native.library import (
    ELSEWHERE,
    KINDS,
    Dense,
    Norms,
    Turns,
    native,
    raise_if_failed,
    unfit,
)

ACTIVATIONS = {"relu2": 0, "gelu_tanh": 1, "silu": 2}  # layer.c has the same numbers
_NONE = -1
LEAST_ROWS = 96  # of a plain product, below which packing the weight takes too long
DEEP = 32  # inputs that a tile holds


def dense_unfit(x: Tensor, weight: Tensor, bias: Tensor | None) -> str:
    """Why `dense` cannot serve, or should not; empty where it can."""
    if x.is_cuda:
        return ELSEWHERE
    if x.dtype != torch.bfloat16 or weight.dtype != torch.bfloat16:
        return "not in bf16: torch's product is as fast"
    if x.numel() < LEAST_ROWS * x.shape[-1]:
        return f"under {LEAST_ROWS} rows: torch's product is as fast"
    if not weight.is_contiguous() or x.stride(-1) != 1 or weight.shape[1] % DEEP:
        return f"strided, or no multiple of {DEEP} inputs"
    if bias is not None and (bias.dtype != weight.dtype or not bias.is_contiguous()):
        return "a bias of another dtype"
    return unfit(x, weight, bias) or ("" if native().tiles else "no matrix units")


def dense(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None = None,
    dtype: torch.dtype | None = None,
    times: Tensor | None = None,
) -> Tensor:
    """activation(x W^T + bias), x [..., I], weight [O, I]: [..., O], in bf16 or in `dtype`.

    Multiplied with `times` bf16 [..., O] where that is given; rounded once, at the end.
    """
    library = native().library
    assert library
    outputs, inner = weight.shape
    rows = x.reshape(-1, inner)
    y = torch.empty(*x.shape[:-1], outputs, dtype=dtype or x.dtype)
    call = Dense(
        x=rows.data_ptr(),
        weight=weight.data_ptr(),
        bias=None if bias is None else bias.data_ptr(),
        times=None if times is None else times.data_ptr(),
        y=y.data_ptr(),
        apart=rows.stride(0),
        T=len(rows),
        O=outputs,
        K=inner,
        y_kind=KINDS[y.dtype],
        activation=_NONE if activation is None else ACTIVATIONS[activation],
        threads=torch.get_num_threads(),
    )
    raise_if_failed(library.cairn_dense(ctypes.byref(call)), "a product")
    return y


def add_norm_unfit(x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None) -> str:
    """Why `add_norm` cannot serve; empty where it can."""
    if x.is_cuda:
        return ELSEWHERE
    if not weight.is_contiguous() or (bias is not None and bias.dtype != weight.dtype):
        return "a norm of two dtypes, or a strided one"
    return unfit(x, residual, weight, bias, autocast=True)


def add_norm(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """The norm of x + residual in x's dtype, and that sum in the residual's; [..., D] all.

    An RMSNorm without a bias [D], a LayerNorm with one. Without a residual the sum is x itself.
    """
    library = native().library
    assert library
    x, width = x.contiguous(), x.shape[-1]
    total = x
    if residual is not None:
        residual = residual.contiguous()
        total = torch.empty_like(residual)
    normed = torch.empty_like(x)
    call = Norms(
        x=x.data_ptr(),
        residual=None if residual is None else residual.data_ptr(),
        weight=weight.data_ptr(),
        bias=None if bias is None else bias.data_ptr(),
        normed=normed.data_ptr(),
        total=total.data_ptr(),
        x_kind=KINDS[x.dtype],
        residual_kind=KINDS[total.dtype],
        weight_kind=KINDS[weight.dtype],
        rows=x.numel() // width,
        width=width,
        threads=_threads(x.numel()),
        eps=eps,
    )
    library.cairn_add_norm(ctypes.byref(call))
    return normed, total


def rotate_unfit(x: Tensor, cos: Tensor, sin: Tensor) -> str:
    """Why `turned` cannot serve; empty where it can."""
    if x.is_cuda:
        return ELSEWHERE
    if x.dim() != 3 or x.stride(2) != 1 or x.stride(1) != x.shape[2]:
        return "heads that are not in one piece"
    if any(table.dtype != torch.float32 or not table.is_contiguous() for table in (cos, sin)):
        return "angles that are not fp32 in one piece"
    return unfit(x, cos, sin, autocast=True)


def turned(x: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    """x [T, heads, width] turned by `sign` times the angles of cos, sin [T, R]."""
    library = native().library
    assert library
    to = torch.empty(x.shape, dtype=x.dtype)
    call = Turns(
        x=x.data_ptr(),
        cos=cos.data_ptr(),
        sin=sin.data_ptr(),
        to=to.data_ptr(),
        kind=KINDS[x.dtype],
        T=len(x),
        heads=x.shape[1],
        P=x.shape[2],
        R=cos.shape[1],
        apart=x.stride(0),
        threads=_threads(x.numel()),
        sign=sign,
    )
    library.cairn_rotate(ctypes.byref(call))
    return to


def activate(x: Tensor, activation: str) -> Tensor:
    """An activation of every element, computed in fp32, in x's dtype."""
    library = native().library
    assert library
    x = x.contiguous()
    to = torch.empty_like(x)
    kind, number = KINDS[x.dtype], ACTIVATIONS[activation]
    count = x.numel()
    library.cairn_activate(x.data_ptr(), to.data_ptr(), count, kind, number, _threads(count))
    return to


def _threads(elements: int) -> int:
    """One where waking others costs more than they save."""
    return torch.get_num_threads() if elements > 2**14 else 1
