"""What a Mamba-2 mixer does between its two matrices: convolution, scan, gate and norm.

Legend: T tokens, S spans, H heads, P head width, I = H * P, G groups, N state size,
C = I + 2 * G * N channels, W taps before the current one.
"""

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.nn import functional

from cairn.ops import paths
from cairn.ops.context import Context, context_conv, context_scan
from cairn.ops.conv import causal_conv, next_window
from cairn.ops.native import operations as native
from cairn.ops.norm import gated_rms_norm, shared_gated_rms_norm
from cairn.ops.order import order_is_fixed
from cairn.ops.ragged import Chunks
from cairn.ops.scan import ssd_scan
from cairn.ops.slots import Slots
from cairn.ops.state import FEW, Rows, Stored, noise_of, quantised, state_update, widened
from cairn.ops.triton.tables import MOST_TAPS, fitting, scan_problem


class MixerWeights(NamedTuple):
    """Parameters of a mixer but for its two matrices."""

    conv: Tensor
    """[C, 1, W + 1]."""
    conv_bias: Tensor | None
    """[C]."""
    A_log: Tensor
    """[H]: log of the decay rates."""
    D: Tensor
    """[H]."""
    dt_bias: Tensor
    """[H]."""
    norm: Tensor
    """[I]."""


@dataclass(frozen=True)
class MixerForm:
    """What is fixed about a mixer but for its parameters."""

    groups: int
    """G: heads of a group share B and C."""
    norm_groups: int
    """Slices of [I] that are normed by themselves."""
    eps: float
    """Added to the mean square."""
    dt_limits: tuple[float, float] | None = None
    """Time steps are clamped to these after softplus; None where they are not."""
    norm_ranks: ProcessGroup | None = None
    """The ranks that have parts of the one slice here; None where slices are whole."""


class Pool(Protocol):
    """A layer's memory; `window` and `state` are replaced in place."""

    @property
    def window(self) -> Tensor:
        """[slots, W, C]: the last inputs of the convolution."""
        ...

    @property
    def state(self) -> Tensor:
        """[slots, H, P, N]: fp32 at least, or fp16 or int8."""
        ...

    @property
    def scales(self) -> Tensor | None:
        """fp32 [slots, H, P], what int8 states are multiplied with; None for other dtypes."""
        ...


ROUNDING_SEED = 0  # of narrow states: equal requests get equal answers, on any run
_NOISE = 2**28  # bytes of random words at a time


def mamba_inner(
    z: Tensor,
    xbc: Tensor,
    dt: Tensor,
    weights: MixerWeights,
    form: MixerForm,
    chunks: Chunks,
    pool: Pool | None = None,
    slots: Slots | None = None,
    context: Context | None = None,
) -> Tensor:
    """From the parts of in_proj's output to out_proj's input (arXiv 2405.21060, section 7).

    z [T, I] is the gate; xbc [T, C] holds x, B and C before the convolution; dt [T, H] comes
    before bias and softplus. With `pool`, every span continues its slot and updates it in place.
    The scan is in fp32 at least. Narrow states are rounded at random once a call. With `context`,
    the first span goes on from what earlier ranks have of it, and there is no pool.
    Returns [T, I] in z's dtype; differentiable once.
    """
    if order_is_fixed() and z.device.type == "cpu" and chunks.spans > 1 and context is None:
        return _each(z, xbc, dt, weights, form, chunks, pool, slots)
    narrow = pool is not None and pool.state.dtype in (torch.float16, torch.int8)
    if pool is not None and slots is not None and _few(z, chunks):
        seed = ROUNDING_SEED if narrow else None
        rows = Rows(chunks.bounds, slots.index, chunks.longest, slots.positions, seed=seed)
        stored = Stored(pool.window, pool.state, pool.scales)
        return state_update(z, xbc, dt, weights, form, stored, rows)
    if narrow:
        assert pool is not None
        assert slots is not None
        return _widely(z, xbc, dt, weights, form, chunks, pool, slots)
    if context is not None:
        y, _ = _plain_scan(z.shape[1], xbc, dt, weights, form, chunks, None, None, context)
        return _normed(y, z, weights, form)
    path = _path(z, xbc, dt, weights, form, pool)
    if path == "native":
        return native.mixer(z, xbc, dt, weights, form, chunks, pool, slots)
    window = state = None
    if pool is not None:
        assert slots is not None
        window, state = pool.window[slots.rows], pool.state[slots.rows]
    scan = _kernel_scan if path == "triton" else _plain_scan
    y, last = scan(z.shape[1], xbc, dt, weights, form, chunks, window, state)
    if pool is not None and slots is not None and window is not None:
        pool.window[slots.rows] = next_window(xbc, chunks, window)
        assert last is not None
        pool.state[slots.rows] = last.detach()
    return _normed(y, z, weights, form)


def _each(
    z: Tensor,
    xbc: Tensor,
    dt: Tensor,
    weights: MixerWeights,
    form: MixerForm,
    chunks: Chunks,
    pool: Pool | None,
    slots: Slots | None,
) -> Tensor:
    """Every span by itself: where chunks are padded to the longest, sums depend on the others."""
    found, lengths = [], list(chunks.lengths)
    parts = zip(z.split(lengths), xbc.split(lengths), dt.split(lengths), strict=True)
    for number, (length, (gate, mixed, steps)) in enumerate(zip(lengths, parts, strict=True)):
        if not length:
            continue
        own = None
        if slots is not None:
            past = None if slots.past is None else slots.past[number : number + 1]
            own = Slots.of(slots.numbers[number : number + 1], slots.device, past)
        alone = Chunks.of([length], chunks.size, chunks.window, chunks.device)
        found.append(mamba_inner(gate, mixed, steps, weights, form, alone, pool, own))
    return torch.cat(found)


def _normed(y: Tensor, z: Tensor, weights: MixerWeights, form: MixerForm) -> Tensor:
    """The gated norm, over what other ranks have of a slice too."""
    if form.norm_ranks is None:
        return gated_rms_norm(y, z, weights.norm, form.norm_groups, form.eps)
    return shared_gated_rms_norm(y, z, weights.norm, form.eps, form.norm_ranks)


def _widely(
    z: Tensor,
    xbc: Tensor,
    dt: Tensor,
    weights: MixerWeights,
    form: MixerForm,
    chunks: Chunks,
    pool: Pool,
    slots: Slots,
) -> Tensor:
    """With a pool of narrow states: in fp32 on copies of the slots' rows, which go back rounded."""
    assert slots.positions is not None, "rounding at random asks for positions"
    rows, scales = slots.rows, pool.scales
    held = None if scales is None else scales[rows]
    wide = Stored(pool.window[rows].clone(), widened(pool.state[rows], held))
    own = Slots.of(range(len(slots.numbers)), slots.device)
    y = mamba_inner(z, xbc, dt, weights, form, chunks, wide, own)
    values, found = _rounded(wide.state, pool.state.dtype, slots.positions + chunks.bounds.diff())
    pool.window[rows], pool.state[rows] = wide.window, values
    if scales is not None and found is not None:
        scales[rows] = found
    return y


def _rounded(states: Tensor, dtype: torch.dtype, ends: Tensor) -> tuple[Tensor, Tensor | None]:
    """`quantised` at random for states [S, H, P, N] after `ends` int [S] tokens.

    Some at a time, for their random words take several times their memory.
    """
    at_a_time = max(1, _NOISE // (8 * states[0].numel()))
    parts = zip(states.split(at_a_time), ends.split(at_a_time), strict=True)
    found = [quantised(x, dtype, noise_of(ROUNDING_SEED, n, x.shape[1:])) for x, n in parts]
    values, scales = zip(*found, strict=True)
    whole = [scale for scale in scales if scale is not None]
    return torch.cat(values), torch.cat(whole) if whole else None


def _path(
    z: Tensor,
    xbc: Tensor,
    dt: Tensor,
    weights: MixerWeights,
    form: MixerForm,
    pool: Pool | None,
) -> paths.Path:
    """Who serves the mixer; "torch" lets its operations choose their own paths."""
    P, N = z.shape[1] // dt.shape[1], (xbc.shape[1] - z.shape[1]) // 2 // form.groups
    whole, problem = _kernels(z.dtype, xbc.dtype, P, N, weights.conv.shape[2])
    unfit = native.mixer_unfit(z, xbc, dt, weights, pool)
    path = paths.choose("mamba_inner", z.device, native=unfit, triton=problem)
    return "torch" if path == "triton" and not whole else path


@cache
def _kernels(
    kind: torch.dtype, dtype: torch.dtype, P: int, N: int, taps: int
) -> tuple[bool, str | None]:
    """Whether kernels take a mixer of these sizes whole, and what `choose` takes as `triton`."""
    whole = fitting(P, N) == (P, N) and taps <= MOST_TAPS
    if not whole or kind == torch.float64:
        return whole, None
    return whole, scan_problem(dtype, P, N)


def _kernel_scan(
    inner: int,
    xbc: Tensor,
    dt: Tensor,
    weights: MixerWeights,
    form: MixerForm,
    chunks: Chunks,
    window: Tensor | None,
    state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The scan's outputs [T, I] and the last states, by Triton kernels."""
    from cairn.ops.triton.mamba import conv_scan

    A = -torch.exp(weights.A_log.float())
    return conv_scan(
        xbc, dt, weights.conv, weights.conv_bias, weights.dt_bias, A, weights.D, inner,
        form.groups, form.dt_limits, chunks.tables, window, state,
    )  # fmt: skip


def _plain_scan(
    inner: int,
    xbc: Tensor,
    dt: Tensor,
    weights: MixerWeights,
    form: MixerForm,
    chunks: Chunks,
    window: Tensor | None,
    state: Tensor | None,
    context: Context | None = None,
) -> tuple[Tensor, Tensor | None]:
    """The same, operation by operation; with `context` the last states are not known here."""
    H = dt.shape[1]
    if context is None:
        mixed = causal_conv(xbc, weights.conv, weights.conv_bias, chunks, window)
    else:
        mixed = context_conv(xbc, weights.conv, weights.conv_bias, chunks, context)
    wide = torch.promote_types(mixed.dtype, torch.float32)
    per_group = (mixed.shape[1] - inner) // 2
    u, B, C = mixed.to(wide).split([inner, per_group, per_group], dim=-1)
    scanned = (
        u.unflatten(-1, (H, -1)),
        time_steps(dt, weights.dt_bias, form.dt_limits),
        -torch.exp(weights.A_log.to(wide)),
        B.unflatten(-1, (form.groups, -1)),
        C.unflatten(-1, (form.groups, -1)),
        weights.D.to(wide),
        chunks,
    )
    if context is not None:
        return context_scan(*scanned, context).flatten(1), None
    y, last = ssd_scan(*scanned, state)
    return y.flatten(1), last


def _few(z: Tensor, chunks: Chunks) -> bool:
    """Whether the state update takes these spans: one or a few tokens each, on a GPU."""
    fits = z.is_cuda and z.dtype != torch.float64 and not torch.is_grad_enabled()
    return fits and chunks.longest <= FEW


def time_steps(dt: Tensor, bias: Tensor, limits: tuple[float, float] | None) -> Tensor:
    """softplus(dt + bias) in fp32 at least, clamped to `limits`; dt [T, H], bias [H]."""
    steps = functional.softplus(dt.to(torch.promote_types(dt.dtype, torch.float32)) + bias)
    return steps if limits is None else steps.clamp(*limits)
