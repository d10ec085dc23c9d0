"""One or a few tokens of a Mamba-2 mixer, in place on the slots of a pool.

The usual form reads and writes a slot's state at every call. The replayed form keeps the last
inputs in a ring and writes the state once in many tokens: about half the traffic. States are
stored in fp32, in fp16, or in int8 with one scale a row; the narrow ones are rounded at random
(Gupta et al., arXiv 1502.02551), for what is rounded to nearest stops moving when an update is
smaller than half a step.
Legend: T tokens, S spans, H heads, P head width, I = H * P, G groups, N state size,
C = I + 2 * G * N channels, W taps before the current one, L rows of a ring.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from cairn.base.errors import UserError
from cairn.ops import paths
from cairn.ops.norm import gated_rms_norm

if TYPE_CHECKING:
    from cairn.ops.mamba import MixerForm, MixerWeights

STATE_DTYPES = (torch.float64, torch.float32, torch.float16, torch.int8)
FEW = 8  # tokens of a span that one call of a kernel takes one after another
_NARROW = (torch.float16, torch.int8)
_WORD = 0xFFFFFFFF


@dataclass
class Stored:
    """What a layer's slots remember; updated in place."""

    window: Tensor
    """[slots, W, C]: the last inputs of the convolution."""
    state: Tensor
    """[slots, H, P, N]: fp32, fp16 or int8 (fp64 for tests)."""
    scales: Tensor | None = None
    """fp32 [slots, H, P], what int8 states are multiplied with; None for other dtypes."""

    def __post_init__(self) -> None:
        _check_state(self.state, self.scales)


@dataclass
class Ring:
    """What a layer's slots remember in the replayed form; updated in place."""

    window: Tensor
    """[slots, W, C]: the last inputs of the convolution."""
    mixed: Tensor
    """[slots, L, I + G * N]: x and B after the convolution, rounded to this dtype; those of
    position p are in row p mod L."""
    steps: Tensor
    """fp32 [slots, L, H]: time steps after softplus, in the same rows."""
    state: Tensor
    """[slots, H, P, N]: the state before the tokens that are replayed."""
    scales: Tensor | None
    """fp32 [slots, H, P] for int8 states."""
    every: int
    """A call that would leave more tokens than this to replay writes the state."""

    def __post_init__(self) -> None:
        _check_state(self.state, self.scales)


@dataclass(frozen=True)
class Rows:
    """The spans of one call, on the device: what a captured graph can be replayed with."""

    bounds: Tensor
    """int32 or int64 [S + 1]: span s is tokens bounds[s] to bounds[s + 1]."""
    slots: Tensor
    """int32 or int64 [S], all different; below 0 is the null slot: nothing is read or written, and
    y is 0."""
    longest: int
    """Tokens of the longest span, at most FEW in a kernel."""
    positions: Tensor | None = None
    """int32 [S]: tokens that each sequence has before this call. For rounding and for rings."""
    fresh: Tensor | None = None
    """int32 [S]: how many of them are not in the stored state. For rings."""
    seed: int | None = None
    """Of the rounding of narrow states; None rounds to nearest. The draw is a function of seed,
    position, head, row and column: neither of the slot nor of other sequences."""

    @classmethod
    def of(cls, lengths: list[int], slots: list[int], device: Any = "cpu", **more: Any) -> "Rows":
        """From numbers on the host; `more` may hold positions and fresh as lists, and seed."""

        def put(values: list[int]) -> Tensor:
            return torch.tensor(values, dtype=torch.int32, device=device)

        bounds = [0]
        for length in lengths:
            bounds.append(bounds[-1] + length)
        more = {k: put(v) if isinstance(v, list) else v for k, v in more.items()}
        return cls(put(bounds), put(slots), max(lengths), **more)


def state_update(
    z: Tensor,
    xbc: Tensor,
    dt: Tensor,
    weights: "MixerWeights",
    form: "MixerForm",
    stored: Stored,
    rows: Rows,
) -> Tensor:
    """From the parts of in_proj's output to out_proj's input, updating `stored`.

    z [T, I] is the gate; xbc [T, C] holds x, B and C before the convolution; dt [T, H] comes
    before bias and softplus. Everything between is in fp32 at least. Returns [T, I] in z's dtype.
    Not differentiable. Mamba-2, arXiv 2405.21060, section 7.
    """
    triton = _no_kernel(z, rows)
    if paths.choose("state_update", z.device, triton=triton) == "triton":
        from cairn.ops.triton.state import update

        return update(z, xbc, dt, weights, form, stored, rows)
    return _update(z, xbc, dt, weights, form, stored, rows)


def replayed_update(
    z: Tensor,
    xbc: Tensor,
    dt: Tensor,
    weights: "MixerWeights",
    form: "MixerForm",
    ring: Ring,
    rows: Rows,
) -> Tensor:
    """`state_update` in the replayed form; `rows` must hold positions and fresh.

    The caller counts: after a call of n tokens a span's `fresh` is 0 if fresh + n > every, for
    then the state was written, and fresh + n if not. A sequence begins with its window and state
    in the slot, as after a prefill. Raises UserError for a ring of less than every + longest rows.
    """
    need = ring.every + rows.longest
    if ring.mixed.shape[1] < need:
        raise UserError("ring", ring.mixed.shape[1], f"needs {need} rows", "make it longer")
    if rows.positions is None or rows.fresh is None:
        raise UserError("rows", "", "a ring needs positions and fresh", "give both")
    triton = _no_kernel(z, rows)
    if not triton and ring.every + rows.longest > 32:
        triton = f"replays {ring.every + rows.longest} tokens, and the kernel at most 32"
    if paths.choose("replayed_update", z.device, triton=triton) == "triton":
        from cairn.ops.triton.replay import replay

        return replay(z, xbc, dt, weights, form, ring, rows)
    return _replay(z, xbc, dt, weights, form, ring, rows)


def quantised(
    state: Tensor, dtype: torch.dtype, noise: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """States [..., P, N] in a storage dtype, and the scales [..., P] that int8 has.

    noise, int64 in [0, 2**32) of the same shape, rounds at random; None rounds to nearest.
    """
    if dtype == torch.int8:
        top = state.abs().amax(-1)
        inverse = torch.where(top > 0, 127 / top, torch.zeros_like(top))
        up = 0.5 if noise is None else (noise >> 8).to(torch.float32) * 2.0**-24
        steps = (state * inverse[..., None] + up).floor_().clamp_(-127, 127)
        return steps.to(torch.int8), (top / 127).to(torch.float32)
    if dtype == torch.float16 and noise is not None:
        return _rounded_to_half(state.to(torch.float32), noise), None
    return state.to(dtype), None


def widened(values: Tensor, scales: Tensor | None) -> Tensor:
    """Stored states [..., P, N] in fp32 (fp64 stays)."""
    wide = values.to(torch.promote_types(values.dtype, torch.float32))
    return wide if scales is None else wide * scales[..., None]


def noise_of(seed: int, positions: Tensor, shape: torch.Size) -> Tensor:
    """Random words, a function of seed, position and place.

    positions int [...], a state's shape [H, P, N]: int64 [..., H, P, N] in [0, 2**32).
    """
    H, P, N = shape
    key = _hash(positions.to(torch.int64) ^ _hash(torch.tensor(seed))).unsqueeze(-1)
    row = _hash(torch.arange(H * P, device=key.device) ^ key)
    column = _hash((torch.arange(N, device=key.device) + 0x51ED270B) ^ key)
    words = row.unsqueeze(-1) ^ column.unsqueeze(-2)
    return words.mul_(0x9E3779B1).bitwise_and_(_WORD).view(*positions.shape, H, P, N)


def _hash(word: Tensor) -> Tensor:
    """A mixing of 32 bits (two rounds of multiply and shift), in int64."""
    word = word & _WORD
    word = ((word ^ (word >> 16)) * 0x7FEB352D) & _WORD
    word = ((word ^ (word >> 15)) * 0x846CA68B) & _WORD
    return word ^ (word >> 16)


def _rounded_to_half(state: Tensor, noise: Tensor) -> Tensor:
    """fp32 to fp16, up or down at random: thirteen bits of noise below the last one kept.

    Magnitudes that fp16 holds with fewer bits are moved up by 2**-14 meanwhile, where the last
    bit kept has their step.
    """
    magnitude = state.abs().clamp_(max=65504.0)
    lift = torch.where(magnitude < 2.0**-14, 2.0**-14, 0.0)
    bits = (magnitude + lift).view(torch.int32) + (noise >> 19).to(torch.int32)
    down = (bits & ~0x1FFF).view(torch.float32) - lift
    return torch.copysign(down.clamp_(max=65504.0), state).to(torch.float16)


def _no_kernel(z: Tensor, rows: Rows) -> str:
    if z.dtype == torch.float64:
        return "float64"
    if rows.longest > FEW:
        return f"a span has {rows.longest} tokens, and the kernel takes at most {FEW}"
    return ""


def _check_state(state: Tensor, scales: Tensor | None) -> None:
    if state.dtype not in STATE_DTYPES:
        names = ", ".join(str(dtype) for dtype in STATE_DTYPES)
        raise UserError("state", state.dtype, "is no dtype of states", f"use one of {names}")
    if (scales is not None) != (state.dtype == torch.int8):
        raise UserError("scales", scales, f"do not fit {state.dtype}", "int8 states have them")
    if not state.is_contiguous():
        raise UserError("state", list(state.stride()), "has gaps", "give whole rows of slots")


@dataclass
class _Tokens:
    """Some tokens of one sequence after the convolution."""

    x: Tensor
    """[n, H, P]."""
    B: Tensor
    """[n, H, N]: of each head's group."""
    C: Tensor
    """[n, H, N]."""
    steps: Tensor
    """[n, H]."""
    A: Tensor = field(repr=False)
    """[H], below 0."""
    D: Tensor = field(repr=False)

    @classmethod
    def of(
        cls,
        mixed: Tensor,
        steps: Tensor,
        inner: int,
        weights: "MixerWeights",
        form: "MixerForm",
    ) -> "_Tokens":
        """From convolved inputs [n, C] and time steps [n, H]."""
        H, per_group = steps.shape[1], (mixed.shape[1] - inner) // 2
        x, B, C = mixed.split([inner, per_group, per_group], -1)
        B, C = (
            m.unflatten(-1, (form.groups, -1)).repeat_interleave(H // form.groups, 1)
            for m in (B, C)
        )
        A = -torch.exp(weights.A_log.to(mixed.dtype))
        return cls(x.unflatten(-1, (H, -1)), B, C, steps, A, weights.D.to(mixed.dtype))

    def advance(self, state: Tensor, i: int) -> tuple[Tensor, Tensor]:
        """The state [H, P, N] after token i, and its y [H, P]."""
        decay = torch.exp(self.steps[i] * self.A)[:, None, None]
        added = (self.steps[i, :, None] * self.x[i])[..., None] * self.B[i, :, None]
        state = decay * state + added
        return state, (state * self.C[i, :, None]).sum(-1) + self.D[:, None] * self.x[i]


def _mixed(
    seen: Tensor, dt: Tensor, weights: "MixerWeights", form: "MixerForm"
) -> tuple[Tensor, Tensor]:
    """Convolved inputs [n, C] and time steps [n, H] of seen [W + n, C] and dt [n, H]."""
    wide = seen.dtype
    taps = weights.conv[:, 0].t().to(wide)  # [W + 1, C]
    n = len(seen) - len(taps) + 1
    mixed = torch.stack([(seen[i : i + len(taps)] * taps).sum(0) for i in range(n)])
    if weights.conv_bias is not None:
        mixed = mixed + weights.conv_bias.to(wide)
    steps = functional.softplus(dt.to(wide) + weights.dt_bias.to(wide))
    if form.dt_limits is not None:
        steps = steps.clamp(*form.dt_limits)
    return functional.silu(mixed), steps


def _live(rows: Rows) -> list[tuple[int, int, int, int]]:
    """Number, slot and bounds of the spans that have any."""
    bounds, slots = rows.bounds.tolist(), rows.slots.tolist()
    found = [(s, slot, *bounds[s : s + 2]) for s, slot in enumerate(slots)]
    return [span for span in found if span[1] >= 0 and span[2] < span[3]]


def _update(
    z: Tensor,
    xbc: Tensor,
    dt: Tensor,
    weights: "MixerWeights",
    form: "MixerForm",
    stored: Stored,
    rows: Rows,
) -> Tensor:
    wide = torch.promote_types(z.dtype, torch.float32)
    y = torch.zeros(z.shape, dtype=wide, device=z.device)
    for span, slot, start, stop in _live(rows):
        seen = torch.cat([stored.window[slot].to(wide), xbc[start:stop].to(wide)])
        mixed, steps = _mixed(seen, dt[start:stop], weights, form)
        tokens = _Tokens.of(mixed, steps, z.shape[1], weights, form)
        state = _load(stored, slot)
        for i in range(stop - start):
            state, row = tokens.advance(state, i)
            y[start + i] = row.flatten()
        stored.window[slot] = seen[stop - start :].to(stored.window.dtype)
        _store(stored, slot, state, rows, span, stop - start)
    return gated_rms_norm(y, z, weights.norm, form.norm_groups, form.eps)


def _replay(
    z: Tensor,
    xbc: Tensor,
    dt: Tensor,
    weights: "MixerWeights",
    form: "MixerForm",
    ring: Ring,
    rows: Rows,
) -> Tensor:
    assert rows.positions is not None
    assert rows.fresh is not None
    wide = torch.promote_types(z.dtype, torch.float32)
    y = torch.zeros(z.shape, dtype=wide, device=z.device)
    L, inner = ring.mixed.shape[1], z.shape[1]
    for span, slot, start, stop in _live(rows):
        position, fresh = int(rows.positions[span]), int(rows.fresh[span])
        seen = torch.cat([ring.window[slot].to(wide), xbc[start:stop].to(wide)])
        mixed, steps = _mixed(seen, dt[start:stop], weights, form)
        new = [p % L for p in range(position, position + stop - start)]
        ring.mixed[slot, new] = mixed[:, : ring.mixed.shape[2]].to(ring.mixed.dtype)
        ring.steps[slot, new] = steps.to(ring.steps.dtype)
        ring.window[slot] = seen[stop - start :].to(ring.window.dtype)
        held = [p % L for p in range(position - fresh, position)] + new
        all_of_it = torch.zeros(len(held), xbc.shape[1], dtype=wide, device=z.device)
        all_of_it[:, : ring.mixed.shape[2]] = ring.mixed[slot, held].to(wide)
        all_of_it[fresh:, ring.mixed.shape[2] :] = mixed[:, ring.mixed.shape[2] :]
        tokens = _Tokens.of(all_of_it, ring.steps[slot, held].to(wide), inner, weights, form)
        state = _load(ring, slot)
        for i in range(len(held)):
            state, row = tokens.advance(state, i)
            if i >= fresh:
                y[start + i - fresh] = row.flatten()
        if len(held) > ring.every:
            _store(ring, slot, state, rows, span, stop - start)
    return gated_rms_norm(y, z, weights.norm, form.norm_groups, form.eps)


def _load(memory: Stored | Ring, slot: int) -> Tensor:
    return widened(memory.state[slot], None if memory.scales is None else memory.scales[slot])


def _store(
    memory: Stored | Ring, slot: int, state: Tensor, rows: Rows, span: int, new: int
) -> None:
    noise, dtype = None, memory.state.dtype
    if rows.seed is not None and dtype in _NARROW:
        assert rows.positions is not None
        noise = noise_of(rows.seed, rows.positions[span] + new, state.shape)
    values, scales = quantised(state, dtype, noise)
    memory.state[slot] = values
    if scales is not None and memory.scales is not None:
        memory.scales[slot] = scales
