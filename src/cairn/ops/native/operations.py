"""The compiled operations with tensors in and out; who calls them has asked whether they fit."""

import ctypes
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cairn.ops.native.library import ELSEWHERE, KINDS, Mixer, native, unfit
from cairn.ops.ragged import Chunks
from cairn.ops.slots import Slots

if TYPE_CHECKING:
    from cairn.ops.mamba import MixerForm, MixerWeights, Pool

_NO_LIMITS = (0.0, torch.inf)


def few_rows(dtype: torch.dtype) -> int:
    """Up to how many rows reading weights takes the time, and torch's product is slow.

    Of weights in bf16 torch's is the faster one sooner, where this has no instructions for them.
    """
    if dtype == torch.bfloat16:
        return 32 if native().narrow else 24
    return 32 if dtype == torch.float32 else 0


def linear_unfit(x: Tensor, weight: Tensor) -> str:
    """Why `linear` cannot serve, or should not; empty where it can."""
    if x.is_cuda:
        return ELSEWHERE
    rows = few_rows(x.dtype)
    if x.numel() > rows * x.shape[-1]:
        return f"over {rows} rows: torch's product is as fast"
    if not weight.is_contiguous() or x.dtype != weight.dtype:
        return "a strided weight or two dtypes"
    return unfit(x, weight)


def linear(x: Tensor, weight: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """x [..., I] times weight [O, I], [..., O], for few rows; sums in fp32.

    In x's dtype, or of what is narrower in a wider one.
    """
    library = native().library
    assert library
    outputs, inner = weight.shape
    x, rows = x.contiguous(), x.numel() // inner
    y = torch.empty(*x.shape[:-1], outputs, dtype=dtype or x.dtype)
    if library.cairn_linear(
        x.data_ptr(),
        KINDS[x.dtype],
        weight.data_ptr(),
        KINDS[weight.dtype],
        y.data_ptr(),
        KINDS[y.dtype],
        rows,
        outputs,
        inner,
        torch.get_num_threads(),
    ):
        raise MemoryError("no memory for a product's working space")
    return y


def norm_unfit(x: Tensor, gate: Tensor | None, weight: Tensor) -> str:
    """Why `norm` cannot serve; empty where it can."""
    if x.is_cuda:
        return ELSEWHERE
    if gate is not None and (gate.ndim != 2 or gate.stride(1) != 1):
        return "a gate that is no matrix with rows in one piece"
    return unfit(x, gate, weight, autocast=True)


def norm(x: Tensor, gate: Tensor | None, weight: Tensor, groups: int, eps: float) -> Tensor:
    """`rms_norm`, or with a gate `gated_rms_norm`; x [..., D] in the gate's or its own dtype."""
    library = native().library
    assert library
    x, width = x.contiguous(), x.shape[-1]
    out = torch.empty_like(x, dtype=x.dtype if gate is None else gate.dtype)
    library.cairn_norm(
        x.data_ptr(),
        KINDS[x.dtype],
        None if gate is None else gate.data_ptr(),
        0 if gate is None else gate.stride(0),
        weight.data_ptr(),
        KINDS[weight.dtype],
        out.data_ptr(),
        KINDS[out.dtype],
        x.numel() // width,
        width,
        groups,
        eps,
        _threads(x.numel()),
    )
    return out


def mixer_unfit(
    z: Tensor, xbc: Tensor, dt: Tensor, weights: "MixerWeights", pool: "Pool | None"
) -> str:
    """Why `mixer` cannot serve; empty where it can."""
    if z.is_cuda:
        return ELSEWHERE
    if any(x.stride(-1) != 1 or x.dtype != z.dtype for x in (z, xbc, dt)):
        return "inputs of several dtypes, or whose rows are not in one piece"
    if any(x is not None and not x.is_contiguous() for x in weights):
        return "strided parameters"
    if any(x.dtype != torch.float32 for x in (weights.A_log, weights.D, weights.dt_bias)):
        return "A_log, D or dt_bias that is not fp32"
    narrow = {x.dtype for x in (weights.conv, weights.conv_bias, weights.norm) if x is not None}
    if len(narrow) > 1:
        return "convolution and norm of several dtypes"
    if pool is not None:
        if pool.state.dtype != torch.float32 or pool.window.dtype != z.dtype:
            return f"a state in {pool.state.dtype} or a window in {pool.window.dtype}"
        if not (pool.state.is_contiguous() and pool.window.is_contiguous()):
            return "a strided memory"
    return unfit(z, xbc, dt, *weights)


def mixer(
    z: Tensor,
    xbc: Tensor,
    dt: Tensor,
    weights: "MixerWeights",
    form: "MixerForm",
    chunks: Chunks,
    pool: "Pool | None",
    slots: Slots | None,
) -> Tensor:
    """`mamba_inner` in one call; see there."""
    library = native().library
    assert library
    out = torch.empty(z.shape, dtype=z.dtype)
    y = out if out.dtype == torch.float32 else torch.empty(z.shape, dtype=torch.float32)
    H, C, spans = dt.shape[1], xbc.shape[1], chunks.spans
    threads = torch.get_num_threads()
    least, most = form.dt_limits or _NO_LIMITS
    call = Mixer(
        z=z.data_ptr(),
        xbc=xbc.data_ptr(),
        dt=dt.data_ptr(),
        z_stride=z.stride(0),
        xbc_stride=xbc.stride(0),
        dt_stride=dt.stride(0),
        kind=KINDS[z.dtype],
        conv=weights.conv.data_ptr(),
        conv_bias=None if weights.conv_bias is None else weights.conv_bias.data_ptr(),
        norm=weights.norm.data_ptr(),
        weight_kind=KINDS[weights.norm.dtype],
        window_kind=KINDS[z.dtype],
        A_log=weights.A_log.data_ptr(),
        D=weights.D.data_ptr(),
        dt_bias=weights.dt_bias.data_ptr(),
        bounds=chunks.bounds.data_ptr(),
        slots=None if slots is None else slots.index.data_ptr(),
        window=None if pool is None else pool.window.data_ptr(),
        state=None if pool is None else pool.state.data_ptr(),
        y=y.data_ptr(),
        out=out.data_ptr(),
        S=spans,
        H=H,
        P=z.shape[1] // H,
        G=form.groups,
        N=(C - z.shape[1]) // 2 // form.groups,
        C=C,
        W=weights.conv.shape[-1] - 1,
        norm_groups=form.norm_groups,
        eps=form.eps,
        dt_least=least,
        dt_most=most,
        threads=threads if xbc.numel() > 2**12 else 1,
    )
    if library.cairn_mixer(ctypes.byref(call)):
        raise MemoryError("no memory for a mixer's working space")
    return out


def _threads(elements: int) -> int:
    """One where waking others costs more than they save."""
    return torch.get_num_threads() if elements > 2**14 else 1
