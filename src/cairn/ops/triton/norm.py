"""Norms of rows in one pass: RMSNorm and LayerNorm, after a residual addition or a gate.

Forward takes one program a row and group; backward a few programs, each with its own sums for
the weights, so that results do not depend on the order in which programs run. Kernels are compiled
for whether rows lie multiples of 16 apart, so that they read whole vectors: models have few widths.
"""

# pyright: reportAttributeAccessIssue=false, reportMissingImports=false, reportIndexIssue=false
# pyright: reportPossiblyUnboundVariable=false, reportOperatorIssue=false

from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from cairn.ops.gradient import once, recorded
from cairn.ops.triton.early import early, in_turn

LARGEST = 2**15  # channels of a group that one program holds
WARPS = 32  # of backward passes on a multiprocessor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`cairn.ops.norm.rms_norm`."""
    return _normed(x, None, None, weight, None, 1, eps, False)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """`cairn.ops.layernorm.layer_norm`."""
    return _normed(x, None, None, weight, bias, 1, eps, True)


def gated_rms_norm(x: Tensor, gate: Tensor, weight: Tensor, groups: int, eps: float) -> Tensor:
    """`cairn.ops.norm.gated_rms_norm`."""
    return _normed(x, gate, None, weight, None, groups, eps, False)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`cairn.ops.norm.add_rms_norm`."""
    return _normed(x, None, residual, weight, None, 1, eps, False)


def add_layer_norm(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """`cairn.ops.layernorm.add_layer_norm`."""
    return _normed(x, None, residual, weight, bias, 1, eps, True)


def _normed(
    x: Tensor,
    gate: Tensor | None,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    groups: int,
    eps: float,
    centred: bool,
) -> Any:
    """The norm, and with a residual the sum; past autograd where it would keep nothing."""
    if recorded(x, gate, residual, weight, bias):
        return _Norm.apply(x, gate, residual, weight, bias, groups, eps, centred)
    y, total, _ = _computed(x, gate, residual, weight, bias, groups, eps, centred)
    return y if total is None else (y, total)


def _computed(
    x: Tensor,
    gate: Tensor | None,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    groups: int,
    eps: float,
    centred: bool,
    wanted: bool = False,
) -> tuple[Tensor, Tensor | None, tuple[Tensor | None, ...]]:
    """The norm, the sum where there is a residual, and what else a gradient that is `wanted` needs.

    That is x and the gate as rows, scales and means.
    """
    shape, x = x.shape, _rows(x)
    gate = None if gate is None else _rows(gate)
    T, D = x.shape
    y = torch.empty_like(x if gate is None else gate)  # rows that lie apart come together
    total = scale = mean = None
    if residual is not None:
        residual = _rows(residual)
        total = torch.empty_like(residual)
    if wanted:
        scale = torch.empty(T, groups, device=x.device)
        mean = torch.empty(T, groups, device=x.device) if centred else None
    if T:
        _forward[(T, groups)](
            x, gate, residual, weight, bias, y, total, scale, mean,
            x.stride(0), _stride(gate), _stride(residual), eps,
            **_constants(D, groups, centred), **early(x, wanted),
        )  # fmt: skip
    if len(shape) != 2:
        y, total = y.view(shape), None if total is None else total.view(shape)
    return y, total, (x, gate, scale, mean)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gate: Tensor | None,
        residual: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        groups: int,
        eps: float,
        centred: bool,
    ) -> Any:
        found = _computed(x, gate, residual, weight, bias, groups, eps, centred, wanted=True)
        y, total, (rows, gate, scale, mean) = found
        summed = rows if total is None else _rows(total)
        ctx.save_for_backward(summed, gate, weight, bias, scale, mean)
        ctx.centred, ctx.shape, ctx.added = centred, x.shape, total is not None
        ctx.dtypes = x.dtype, None if residual is None else residual.dtype
        return y if total is None else (y, total)

    @staticmethod
    @once
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, gate, weight, bias, scale, mean = ctx.saved_tensors
        (T, D), groups, device = x.shape, scale.shape[1], x.device
        grad = _rows(grads[0])
        more = _rows(grads[1]) if ctx.added else None
        gx = torch.empty(T, D, dtype=ctx.dtypes[1] or ctx.dtypes[0], device=device)
        g_gate = None if gate is None else torch.empty(T, D, dtype=gate.dtype, device=device)
        launch = _launch(D // groups)
        programs = max(1, min(T, _programs(device, launch["num_warps"]) // groups))
        g_weight = torch.empty(programs, D, device=device)
        g_bias = None if bias is None else torch.empty(programs, D, device=device)
        _backward[(programs, groups)](
            x, gate, weight, scale, mean, grad, more, gx, g_gate, g_weight, g_bias,
            x.stride(0), _stride(gate), grad.stride(0), _stride(more), T, -(-T // programs),
            D=D, SIZE=D // groups, CENTRED=ctx.centred, **launch,
        )  # fmt: skip
        gx = gx.view(ctx.shape)
        return (
            gx.to(ctx.dtypes[0]),
            None if g_gate is None else g_gate.view(ctx.shape),
            gx if ctx.added else None,
            g_weight.sum(0).to(weight.dtype),
            None if bias is None or g_bias is None else g_bias.sum(0).to(bias.dtype),
            None, None, None,
        )  # fmt: skip


def _rows(x: Tensor) -> Tensor:
    """[..., D] as [T, D] whose channels lie together.

    A row alone may have any stride, for each of which a kernel would be compiled: not so after
    this.
    """
    if x.ndim != 2 or x.stride(0) != x.shape[1]:
        x = x.reshape(-1, x.shape[-1])
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _stride(x: Tensor | None) -> int:
    return 0 if x is None else x.stride(0)


@cache
def _constants(width: int, groups: int, centred: bool) -> dict[str, Any]:
    """What `_forward` is launched with: the same for all norms of a width."""
    size = width // groups
    return {"D": width, "SIZE": size, "CENTRED": centred} | _launch(size)


@cache
def _launch(size: int) -> dict[str, int]:
    block = triton.next_power_of_2(size)
    return {"BLOCK": block, "num_warps": min(16, max(1, block // 512))}


def _programs(device: torch.device, warps: int) -> int:
    """Programs of a backward pass, all groups together: what fits a GPU at a time."""
    if device.type != "cuda":
        return 4
    return WARPS // warps * torch.cuda.get_device_properties(device).multi_processor_count


@triton.jit
def _sigmoid(x):
    return 1 / (1 + tl.exp(-x))


@triton.jit
def _forward(
    x,
    gate,
    residual,
    weight,
    bias,
    y,
    total,
    scale,
    mean,
    x_row,
    gate_row,
    residual_row,
    eps,
    D: tl.constexpr,
    SIZE: tl.constexpr,
    CENTRED: tl.constexpr,
    BLOCK: tl.constexpr,
    EARLY: tl.constexpr,
):
    if EARLY:
        in_turn()
    t = tl.program_id(0).to(tl.int64)
    group, groups = tl.program_id(1), tl.num_programs(1)
    i = tl.arange(0, BLOCK)
    inside = i < SIZE
    i += group * SIZE
    v = tl.load(x + t * x_row + i, mask=inside, other=0).to(tl.float32)
    if residual is not None:
        v += tl.load(residual + t * residual_row + i, mask=inside, other=0).to(tl.float32)
        rounded = v.to(total.dtype.element_ty)
        tl.store(total + t * D + i, rounded, mask=inside)
        v = rounded.to(tl.float32)
    if gate is not None:
        z = tl.load(gate + t * gate_row + i, mask=inside, other=0).to(tl.float32)
        v *= z * _sigmoid(z)
    if CENTRED:
        middle = tl.sum(v, 0) / SIZE
        v = tl.where(inside, v - middle, 0.0)
        if mean is not None:
            tl.store(mean + t * groups + group, middle)
    s = tl.rsqrt(tl.sum(v * v, 0) / SIZE + eps)
    if scale is not None:
        tl.store(scale + t * groups + group, s)
    v *= s * tl.load(weight + i, mask=inside, other=0).to(tl.float32)
    if bias is not None:
        v += tl.load(bias + i, mask=inside, other=0).to(tl.float32)
    tl.store(y + t * D + i, v.to(y.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows", "share"])
def _backward(
    x, gate, weight, scale, mean, grad, more, gx, g_gate, g_weight, g_bias,
    x_row, gate_row, grad_row, more_row, rows, share,
    D: tl.constexpr, SIZE: tl.constexpr, CENTRED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Program p takes rows p * share to (p + 1) * share."""
    p = tl.program_id(0).to(tl.int64)
    group, groups = tl.program_id(1), tl.num_programs(1)
    i = tl.arange(0, BLOCK)
    inside = i < SIZE
    i += group * SIZE
    w = tl.load(weight + i, mask=inside, other=0).to(tl.float32)
    to_weight = tl.zeros([BLOCK], tl.float32)
    to_bias = tl.zeros([BLOCK], tl.float32)
    for t in range(p * share, tl.minimum((p + 1) * share, rows)):
        v = tl.load(x + t * x_row + i, mask=inside, other=0).to(tl.float32)
        g = tl.load(grad + t * grad_row + i, mask=inside, other=0).to(tl.float32)
        s = tl.load(scale + t * groups + group)
        product = v
        if gate is not None:
            z = tl.load(gate + t * gate_row + i, mask=inside, other=0).to(tl.float32)
            open_ = _sigmoid(z)
            product = v * z * open_
        if CENTRED:
            product = tl.where(inside, product - tl.load(mean + t * groups + group), 0.0)
        normed = product * s
        to_weight += g * normed
        to_bias += g
        g *= w
        g_product = g - normed * (tl.sum(g * normed, 0) / SIZE)
        if CENTRED:
            g_product -= tl.sum(g, 0) / SIZE
        g_product *= s
        if more is not None:
            g_product += tl.load(more + t * more_row + i, mask=inside, other=0).to(tl.float32)
        if gate is not None:
            slope = open_ * (1 + z * (1 - open_))
            to_gate = (g_product * v * slope).to(g_gate.dtype.element_ty)
            tl.store(g_gate + t * D + i, to_gate, mask=inside)
            g_product *= z * open_
        tl.store(gx + t * D + i, g_product.to(gx.dtype.element_ty), mask=inside)
    tl.store(g_weight + p * D + i, to_weight, mask=inside)
    if g_bias is not None:
        tl.store(g_bias + p * D + i, to_bias, mask=inside)
