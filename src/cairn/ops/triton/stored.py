"""What the kernels of the state update share: states as they are stored, outputs, gate and norm.

A program owns some rows of a group's states in one slot, whatever their heads are, so that no head
size wastes lanes. The last program of a group to arrive gates and norms the group's outputs.
"""

# pyright: reportAttributeAccessIssue=false, reportMissingImports=false, reportIndexIssue=false

from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from cairn.ops.triton.arrivals import counters, last_of
from cairn.ops.triton.few_tokens import silu

if TYPE_CHECKING:
    from cairn.ops.mamba import MixerForm
    from cairn.ops.state import Rows


def shape_of(state: Tensor, form: "MixerForm", tile: dict[str, int] | None) -> dict[str, Any]:
    """Compile-time sizes. A block is some rows of a group's states, whatever their heads."""
    return _shape(*state.shape[1:], form.groups, **(tile or {}))


@cache
def _shape(H: int, P: int, N: int, G: int, **tile: int) -> dict[str, Any]:
    rows = H * P // G
    shape = {
        "H": H,
        "P": P,
        "N": N,
        "G": G,
        "BLOCK": min(64 if P % 64 == 0 else 32, max(16, triton.next_power_of_2(rows))),
        "BLOCK_N": max(16, triton.next_power_of_2(N)),
        "BLOCK_I": triton.next_power_of_2(rows),
    } | tile
    shape.setdefault("num_warps", max(1, shape["BLOCK"] // 16))
    shape["PARTS"] = triton.cdiv(rows, shape["BLOCK"])
    return shape


def outputs(z: Tensor, form: "MixerForm", rows: "Rows") -> tuple[Tensor, Tensor, Tensor]:
    """y in fp32, the normed output (y itself where norms have other groups), and counters."""
    y = torch.empty(*z.shape, dtype=torch.float32, device=z.device)
    out = y
    if form.groups == form.norm_groups:
        out = torch.empty_like(z, memory_format=torch.contiguous_format)
    return y, out, counters(z.device, rows.slots.shape[0] * form.groups)


def noisy(state: Tensor, rows: "Rows") -> bool:
    return rows.seed is not None and state.dtype in (torch.float16, torch.int8)


@triton.jit
def _hash(word):
    word = (word ^ (word >> 16)) * 0x7FEB352D
    word = (word ^ (word >> 15)) * 0x846CA68B
    return word ^ (word >> 16)


@triton.jit
def _noise(seed, position, row, column):
    """Random words [rows, columns]; see cairn.ops.state.noise_of."""
    key = _hash(position.to(tl.uint32) ^ _hash(seed.to(tl.uint32)))
    r = _hash(row.to(tl.uint32) ^ key)
    c = _hash((column.to(tl.uint32) + 0x51ED270B) ^ key)
    return (r[:, None] ^ c[None, :]) * 0x9E3779B1


@triton.jit
def load_state(state, scales, at, row, row_in, within):
    S = tl.load(state + at, mask=within, other=0).to(tl.float32)
    if scales is not None:
        S *= tl.load(scales + row, mask=row_in, other=0)[:, None]
    return S


@triton.jit
def store_state(
    S, state, scales, at, row, row_in, within, seed, position, place, n, NOISY: tl.constexpr
):
    """Round and store states; `place` are their rows in [H * P], `row` those in the pool."""
    if scales is not None:
        top = tl.max(tl.abs(S), 1)
        inverse = tl.where(top > 0, 127 / tl.where(top > 0, top, 1.0), 0.0)
        steps = S * inverse[:, None]
        if NOISY:
            noise = _noise(seed, position, place, n)
            steps += (noise >> 8).to(tl.int32).to(tl.float32) * 5.9604644775390625e-08
        else:
            steps += 0.5
        steps = tl.minimum(tl.maximum(tl.floor(steps), -127.0), 127.0)
        tl.store(state + at, steps.to(tl.int8), mask=within)
        tl.store(scales + row, top / 127, mask=row_in)
    elif NOISY:  # fp16; see cairn.ops.state._rounded_to_half
        lift = tl.where(S < 0, -6.103515625e-05, 6.103515625e-05)
        lift = tl.where(tl.abs(S) < 6.103515625e-05, lift, 0.0)
        bits = (S + lift).to(tl.uint32, bitcast=True)  # noise grows the magnitude of either sign
        bits += _noise(seed, position, place, n) >> 19
        down = (bits & 0xFFFFE000).to(tl.float32, bitcast=True) - lift
        down = tl.minimum(tl.maximum(down, -65504.0), 65504.0)
        tl.store(state + at, down.to(tl.float16), mask=within)
    else:
        tl.store(state + at, S.to(state.dtype.element_ty), mask=within)


@triton.jit
def finish(
    y, z, out, norm, arrivals, start, stop, span, group, z_row, eps, G: tl.constexpr,
    PARTS: tl.constexpr, SIZE: tl.constexpr, INNER: tl.constexpr, BLOCK_I: tl.constexpr,
):  # fmt: skip
    """The last program of a group gates and norms all its outputs."""
    if last_of(arrivals + span * G + group, PARTS):
        _gate_and_norm(y, z, out, norm, start, stop, group, z_row, eps, SIZE, INNER, BLOCK_I)


@triton.jit
def _gate_and_norm(
    y, z, out, norm, start, stop, group, z_row, eps, SIZE: tl.constexpr, INNER: tl.constexpr,
    BLOCK_I: tl.constexpr,
):  # fmt: skip
    """RMSNorm of y * SiLU(z) over one group of every token."""
    i = tl.arange(0, BLOCK_I)
    inside = i < SIZE
    channel = group * SIZE + i
    weight = tl.load(norm + channel, mask=inside, other=0).to(tl.float32)
    for t in range(start, stop):
        # Other programs wrote y: past the first-level cache.
        v = tl.load(y + t * INNER + channel, mask=inside, other=0, cache_modifier=".cg")
        gate = tl.load(z + t * z_row + channel, mask=inside, other=0).to(tl.float32)
        v *= silu(gate)
        v *= tl.rsqrt(tl.sum(v * v, 0) / SIZE + eps) * weight
        tl.store(out + t * INNER + channel, v.to(out.dtype.element_ty), mask=inside)


@triton.jit
def zeros(out, start, stop, channel, inside, INNER: tl.constexpr):
    """What the null slot gives."""
    for t in range(start, stop):
        nothing = tl.zeros(channel.shape, out.dtype.element_ty)
        tl.store(out + t * INNER + channel, nothing, mask=inside)
