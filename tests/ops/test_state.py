"""The state update: its twin against the definition, its kernels against the twin."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from cairn.base import UserError
from cairn.ops import paths, reference
from cairn.ops.mamba import MixerForm, MixerWeights
from cairn.ops.state import (
    Ring,
    Rows,
    Stored,
    noise_of,
    quantised,
    replayed_update,
    state_update,
    widened,
)

pytestmark = pytest.mark.kernels

FORM = MixerForm(groups=2, norm_groups=2, eps=1e-5)
SHAPES = [(4, 6, 5, 3), (2, 64, 16, 3), (2, 80, 32, 1)]  # H, P, N, W


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def some_weights(H: int, P: int, N: int, W: int, bias: bool = True) -> MixerWeights:
    C = H * P + 2 * FORM.groups * N
    return MixerWeights(
        conv=draw(C, 1, W + 1) * 0.5,
        conv_bias=draw(C) * 0.2 if bias else None,
        A_log=draw(H) * 0.5,
        D=draw(H, seed=1),
        dt_bias=draw(H, seed=2),
        norm=draw(H * P, seed=3),
    )


def some_inputs(T: int, H: int, P: int, N: int, seed: int = 0) -> list[Tensor]:
    C = H * P + 2 * FORM.groups * N
    whole = draw(T, H * P + C + H, seed=seed)
    return list(whole.split([H * P, C, H], -1))  # views of one projection, as in a model


def empty(slots: int, shape: tuple[int, int, int, int], dtype: torch.dtype) -> Stored:
    H, P, N, W = shape
    window = torch.zeros(slots, W, H * P + 2 * FORM.groups * N)
    scales = torch.zeros(slots, H, P) if dtype == torch.int8 else None
    return Stored(window, torch.zeros(slots, H, P, N, dtype=dtype), scales)


def filled(slots: int, shape: tuple[int, int, int, int], dtype: torch.dtype) -> Stored:
    stored = empty(slots, shape, dtype)
    stored.window.copy_(draw(*stored.window.shape))
    values, scales = quantised(draw(*stored.state.shape, seed=5), dtype)
    stored.state.copy_(values)
    if scales is not None and stored.scales is not None:
        stored.scales.copy_(scales)
    return stored


def definition(
    z: Tensor, xbc: Tensor, dt: Tensor, weights: MixerWeights, form: MixerForm, lengths: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """y, window and state of whole sequences by the operations' definitions."""
    H, inner = dt.shape[1], z.shape[1]
    bias = weights.conv_bias if weights.conv_bias is not None else xbc.new_zeros(xbc.shape[1])
    mixed, window = reference.causal_conv(xbc, weights.conv, bias, lengths)
    x, B, C = mixed.split([inner, *[(mixed.shape[1] - inner) // 2] * 2], -1)
    steps = torch.nn.functional.softplus(dt + weights.dt_bias)
    if form.dt_limits is not None:
        steps = steps.clamp(*form.dt_limits)
    y, state = reference.ssd_scan(
        x.unflatten(-1, (H, -1)),
        steps,
        -weights.A_log.exp(),
        B.unflatten(-1, (form.groups, -1)),
        C.unflatten(-1, (form.groups, -1)),
        weights.D,
        lengths,
    )
    y = reference.gated_rms_norm(y.flatten(1), z, weights.norm, form.norm_groups, form.eps)
    return y, window, state


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("limits", [None, (0.2, 0.9)])
@pytest.mark.parametrize("piece", [1, 3])
def test_steps_are_the_definition_over_whole_sequences(shape, limits, piece):
    H, P, N, _ = shape
    weights = some_weights(*shape, bias=limits is None)
    form = MixerForm(2, 2, 1e-5, limits)
    lengths = [6, 3]
    inputs = some_inputs(sum(lengths), H, P, N)
    wanted, window, state = definition(*inputs, weights, form, lengths)
    stored = empty(3, shape, torch.float32)
    got = torch.empty_like(wanted)
    for at in range(0, 6, piece):
        tokens = [list(range(s + at, s + min(at + piece, n))) for s, n in ((0, 6), (6, 3))]
        counts = [len(part) for part in tokens]
        index = torch.tensor([t for part in tokens for t in part])
        rows = Rows.of(counts, [2, 0])
        got[index] = state_update(*(t[index] for t in inputs), weights, form, stored, rows)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(stored.state[[2, 0]], state, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(stored.window[[2, 0]], window, rtol=0, atol=0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int8])
@pytest.mark.parametrize("seed", [None, 7])
def test_the_kernel_is_its_twin(shape, dtype, seed, triton_device):
    H, P, N, _ = shape
    weights, form = some_weights(*shape), MixerForm(2, 2, 1e-5, (1e-3, 5.0))
    lengths, slots = [1, 4, 0, 2, 1], [3, 1, 0, -1, 5]
    rows = Rows.of(lengths, slots, positions=[9, 0, 4, 3, 2**20], seed=seed)
    inputs = some_inputs(sum(lengths), H, P, N)
    twin = filled(6, shape, dtype)
    before = copy.deepcopy(twin)
    wanted = state_update(*inputs, weights, form, twin, rows)
    there = moved(copy.deepcopy(before), triton_device)
    with paths.only("triton"):
        got = state_update(*moved((*inputs, weights, form, there, rows), triton_device))
    torch.testing.assert_close(got.cpu(), wanted, rtol=1e-4, atol=1e-4)
    assert (got[5:7] == 0).all()  # the null slot's
    compare_states(there, twin, before, [1, 3, 5])
    torch.testing.assert_close(there.window.cpu(), twin.window, rtol=0, atol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize(
    "shape", [(16, 64, 128, 3), (16, 80, 128, 3), (8, 128, 256, 3), (8, 64, 64, 3)]
)
def test_bf16_inputs_err_no_more_than_twice_the_twin(shape):
    H, P, N, _ = shape
    form, lengths, slots = MixerForm(2, 2, 1e-5), [1, 4, 2, 1], [3, 1, 0, 5]
    narrow = [x.bfloat16() for x in some_inputs(sum(lengths), H, P, N)]
    weights = MixerWeights(*(t.bfloat16() for t in some_weights(*shape)))
    rows = Rows.of(lengths, slots)
    memory = filled(6, shape, torch.float32)
    memory.window = memory.window.bfloat16()
    exact = Stored(memory.window.double(), memory.state.double())
    wide = [x.double() for x in narrow], MixerWeights(*(t.double() for t in weights))
    truth = state_update(*wide[0], wide[1], form, exact, rows)
    twin, there = copy.deepcopy(memory), moved(copy.deepcopy(memory), torch.device("cuda"))
    other = state_update(*narrow, weights, form, twin, rows)
    with paths.only("triton"):
        one = state_update(*moved((*narrow, weights, form, there, rows), torch.device("cuda")))
    error, allowed = ((y.cpu().double() - truth).norm() for y in (one, other))
    assert error <= 2 * allowed
    error, allowed = ((m.state.cpu() - exact.state).norm() for m in (there, twin))
    assert error <= 2 * allowed + 1e-7 * exact.state.norm()


def compare_states(got: Any, wanted: Any, before: Any, used: list[int]) -> None:
    """Equal but for rounding that falls to the other side, and untouched in other slots."""
    unused = [s for s in range(len(before.state)) if s not in used]
    assert torch.equal(got.state.cpu()[unused], before.state[unused])
    one, other = (widened(m.state.cpu(), m.scales if m.scales is None else m.scales.cpu()) for m in
                  (got, wanted))  # fmt: skip
    if wanted.state.dtype == torch.int8:
        step = wanted.scales[..., None]
    elif wanted.state.dtype == torch.float16:
        step = other.abs() * 2.0**-10 + 2.0**-24
    else:
        step = torch.full_like(other, 1e-4)
    apart = (one - other).abs()
    assert (apart <= step * 1.01).all()
    assert (apart > step * 0.1).float().mean() < 0.02


def moved(x: Any, device: torch.device) -> Any:
    """Tensors inside x on another device; x itself on the same."""
    if isinstance(x, Tensor):
        return x.to(device)
    if isinstance(x, MixerWeights):
        return MixerWeights(*(t if t is None else t.to(device) for t in x))
    if isinstance(x, tuple | list):
        return [moved(part, device) for part in x]
    if isinstance(x, Stored | Ring | Rows):
        return type(x)(**{k: moved(v, device) for k, v in vars(x).items()})
    return x


def some_ring(slots: int, shape: tuple[int, int, int, int], dtype: torch.dtype, every: int) -> Ring:
    stored = empty(slots, shape, dtype)
    H, P, N, _ = shape
    held = H * P + FORM.groups * N
    return Ring(
        stored.window,
        torch.zeros(slots, every + 4, held),
        torch.zeros(slots, every + 4, H),
        stored.state,
        stored.scales,
        every,
    )


def replay_all(
    inputs: list[Tensor], weights: MixerWeights, ring: Ring, call: Callable[..., Tensor]
) -> tuple[list[Tensor], list[int]]:
    """Feed a sequence in pieces of one to three tokens into slot 1, beside a null slot."""
    at, fresh, out, written = 0, 0, [], []
    T, i = len(inputs[0]), 0
    while at < T:
        n = min((1, 1, 3, 2)[i % 4], T - at)
        rows = Rows.of([n, 1], [1, -1], positions=[at, 0], fresh=[fresh, 0])
        part = [torch.cat([t[at : at + n], t[:1]]) for t in inputs]
        out.append(call(part, weights, FORM, ring, rows)[:n].cpu())
        fresh = 0 if fresh + n > ring.every else fresh + n
        at, i = at + n, i + 1
        if fresh == 0:
            written.append(at)
    return out, written


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("every", [1, 7])
def test_replay_is_the_update_and_writes_rarely(shape, every):
    H, P, N, _ = shape
    inputs, weights = some_inputs(30, H, P, N), some_weights(*shape)
    stored, ring = empty(2, shape, torch.float32), some_ring(2, shape, torch.float32, every)
    out, written = replay_all(inputs, weights, ring, lambda p, *a: replayed_update(*p, *a))
    assert len(written) <= 30 / (every + 1) + 1
    wanted = []
    for t in range(30):
        part = [x[t : t + 1] for x in inputs]
        wanted.append(state_update(*part, weights, FORM, stored, Rows.of([1], [1])))
        if t + 1 == written[-1]:
            torch.testing.assert_close(ring.state, stored.state, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.cat(out), torch.cat(wanted), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int8])
def test_the_replay_kernel_is_its_twin(shape, dtype, triton_device):
    H, P, N, _ = shape
    inputs, weights = some_inputs(24, H, P, N), some_weights(*shape)
    ring = some_ring(2, shape, dtype, 7)
    before = filled(2, shape, dtype)
    ring.state, ring.scales, ring.window = before.state, before.scales, before.window
    there = moved(copy.deepcopy(ring), triton_device)

    def call(part: list[Tensor], *rest: Any) -> Tensor:
        weights, form, memory, rows = rest
        with paths.only("triton"):
            return replayed_update(*moved((*part, weights, form), triton_device), memory,
                                   moved(rows, triton_device))  # fmt: skip

    wanted, _ = replay_all(inputs, weights, ring, lambda p, *a: replayed_update(*p, *a))
    got, written = replay_all(inputs, weights, there, call)
    assert written
    rough = {torch.float32: 1e-4, torch.float16: 1e-2, torch.int8: 0.1}[dtype]
    torch.testing.assert_close(torch.cat(got), torch.cat(wanted), rtol=rough, atol=rough)
    torch.testing.assert_close(there.window.cpu(), ring.window, rtol=0, atol=0)
    torch.testing.assert_close(there.mixed.cpu(), ring.mixed, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(there.steps.cpu(), ring.steps, rtol=1e-5, atol=1e-5)


def test_rounding_at_random_is_unbiased_and_repeats():
    state = torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(0))
    state[0, 0] *= 1e-6  # held by fp16 with few bits
    for dtype in (torch.float16, torch.int8):
        total = torch.zeros_like(state)
        for position in range(400):
            noise = noise_of(3, torch.tensor(position), state.shape)
            values, scales = quantised(state, dtype, noise)
            again, _ = quantised(state, dtype, noise_of(3, torch.tensor(position), state.shape))
            assert torch.equal(values, again)
            total += widened(values, scales)
        nearest = widened(*quantised(state, dtype))
        step = (nearest - state).abs().amax(-1, keepdim=True) * 2
        assert ((total / 400 - state).abs() <= step * 0.2).all()  # 4 standard errors are 0.1


def test_rounding_at_random_moves_where_rounding_to_nearest_stands_still():
    steps = 1000
    added = torch.tensor([0.0, 1e-4])  # a tenth of fp16's step at 1, a hundredth of int8's below 2
    for dtype in (torch.float16, torch.int8):
        random = nearest = torch.tensor([2.0, 1.0]).expand(1, 32, 2)
        for position in range(steps):
            noise = noise_of(3, torch.tensor(position), random.shape)
            random = widened(*quantised(random + added, dtype, noise))
            nearest = widened(*quantised(nearest + added, dtype))
        assert abs(float(nearest[..., 1].mean()) - 1) < 0.01
        assert abs(float(random[..., 1].mean()) - 1.1) < 0.03


@pytest.mark.parametrize(
    ("dtype", "most"), [(torch.float16, 2e-3), (torch.int8, 5e-2)], ids=["float16", "int8"]
)
def test_narrow_states_stay_near_over_a_long_run(dtype, most):
    shape, steps = (2, 6, 5, 3), 600
    inputs, weights = some_inputs(steps, *shape[:3]), some_weights(*shape)
    weights = weights._replace(dt_bias=torch.tensor([-6.0, -3.0]))  # one head forgets slowly
    out = []
    for kind in (torch.float32, dtype):
        stored = empty(1, shape, kind)
        rows = [Rows.of([1], [0], positions=[t], seed=5) for t in range(steps)]
        parts = zip(*(x.split(1) for x in inputs), strict=True)
        out.append(
            torch.cat(
                [
                    state_update(*p, weights, FORM, stored, r)
                    for p, r in zip(parts, rows, strict=True)
                ]
            )
        )
    error = (out[1] - out[0]).norm(dim=-1) / out[0].norm(dim=-1)
    assert error[-200:].mean() < most
    assert error[-200:].mean() < 3 * error[200:400].mean()  # and do not drift


def test_noise_depends_on_seed_position_and_place():
    def drawn(seed: int, position: int) -> Tensor:
        return noise_of(seed, torch.tensor(position), torch.Size([2, 8, 16]))

    first = drawn(1, 5)
    assert first.unique().numel() == first.numel()
    assert int(first.min()) >= 0
    assert int(first.max()) < 2**32
    for other in (drawn(2, 5), drawn(1, 6)):
        assert (first == other).float().mean() < 0.01
    together = noise_of(1, torch.tensor([[5, 6]], dtype=torch.int32), first.shape)
    assert torch.equal(together, torch.stack([first, drawn(1, 6)]).unsqueeze(0))
    bits = torch.stack([(first >> b) & 1 for b in range(32)]).float().mean((1, 2, 3))
    assert ((bits - 0.5).abs() < 0.15).all()


def test_mistakes_are_named():
    with pytest.raises(UserError, match="no dtype of states"):
        Stored(torch.zeros(1, 3, 4), torch.zeros(1, 1, 2, 2, dtype=torch.bfloat16))
    with pytest.raises(UserError, match="do not fit"):
        Stored(torch.zeros(1, 3, 4), torch.zeros(1, 1, 2, 2, dtype=torch.int8))
    H, P, N, _ = SHAPES[0]
    ring = some_ring(1, SHAPES[0], torch.float32, 7)
    arguments = some_inputs(1, H, P, N), some_weights(*SHAPES[0])
    with pytest.raises(UserError, match="needs positions and fresh"):
        replayed_update(*arguments[0], arguments[1], FORM, ring, Rows.of([1], [0]))
    ring.mixed = ring.mixed[:, :7]
    with pytest.raises(UserError, match="needs 8 rows"):
        replayed_update(*arguments[0], arguments[1], FORM, ring, Rows.of([1], [0]))
