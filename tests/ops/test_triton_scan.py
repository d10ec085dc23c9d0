"""The scan, convolution and mixer kernels against their definitions, values and gradients."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from cairn.ops import paths, reference
from cairn.ops.conv import causal_conv, next_window
from cairn.ops.mamba import MixerForm, MixerWeights, mamba_inner
from cairn.ops.ragged import Chunks
from cairn.ops.scan import ssd_scan
from cairn.ops.slots import Slots
from cairn.ops.triton.tables import Tables, fitting

pytestmark = pytest.mark.kernels

LIMITS = (0.1, 1.5)
NAMES = ["x", "dt", "A", "B", "C", "D", "bias", "state"]


@dataclass
class Memory:
    window: Tensor
    state: Tensor


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def scan_inputs(
    lengths: list[int], H: int, P: int, G: int, N: int, *, carried: bool, rate: float = 1.0
) -> list[Tensor]:
    T = sum(lengths)
    inputs = [
        draw(T, H, P, seed=1),
        draw(T, H, seed=2),
        -draw(H, seed=3).abs() * rate,
        draw(T, G, N, seed=4),
        draw(T, G, N, seed=5),
        draw(H, seed=6),
        draw(H, seed=7),
    ]
    return inputs + ([draw(len(lengths), H, P, N, seed=8)] if carried else [])


def kernel(lengths: list[int], device: torch.device) -> Callable[..., tuple[Tensor, Tensor]]:
    from cairn.ops.triton import scan

    tables = Tables.of(lengths, device)

    def call(
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor,
        bias: Tensor,
        *state: Tensor,
    ) -> tuple[Tensor, Tensor]:
        return scan.ssd_scan(
            x, dt, A, B, C, D, tables, *state, bias=bias, softplus=True, limits=LIMITS
        )

    return call


@pytest.mark.parametrize("lengths", [[1], [5, 1], [128, 3, 7], [200, 0, 130, 2]])
def test_no_table_begins_where_triton_would_compile_a_kernel_anew(lengths: list[int]) -> None:
    tables = Tables.of(lengths, "cpu")
    for part in (tables.by_chunk, tables.by_span, tables.bounds, tables.by_token):
        assert part.storage_offset() * part.element_size() % 16 == 0
    starts = [sum(lengths[:n]) for n in range(len(lengths) + 1)]
    assert tables.bounds.tolist() == starts
    assert tables.by_token[1].tolist() == [n for n, size in enumerate(lengths) for _ in range(size)]
    assert tables.by_span[1].tolist() == [starts[n] for n in tables.by_span[0].tolist()]
    assert int(tables.by_chunk[1].sum()) == sum(lengths)


def definition(lengths: list[int]) -> Callable[..., tuple[Tensor, Tensor]]:
    def call(
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor,
        bias: Tensor,
        *state: Tensor,
    ) -> tuple[Tensor, Tensor]:
        steps = functional.softplus(dt + bias).clamp(*LIMITS)
        return reference.ssd_scan(x, steps, A, B, C, D, lengths, *state)

    return call


def with_gradients(
    call: Callable[..., tuple[Tensor, ...]],
    inputs: list[Tensor],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float64,
) -> list[Tensor]:
    leaves = [x.to(device, dtype, copy=True).requires_grad_() for x in inputs]
    outs = call(*leaves)
    loss = sum((out * draw(*out.shape, seed=9).to(out)).sum() for out in outs)
    return [out.detach().cpu().double() for out in [*outs, *torch.autograd.grad(loss, leaves)]]


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize(
    ("lengths", "H", "P", "G", "N", "carried"),
    [
        ([5, 0, 40, 1], 4, 16, 2, 16, True),  # ragged, empty, one token
        ([150, 3], 2, 64, 1, 16, True),  # two blocks a chunk, two chunks
        ([140], 2, 16, 1, 16, False),
        ([33, 17], 6, 80, 2, 16, True),  # two tiles, one masked
        ([20, 9], 8, 16, 8, 32, True),  # as many groups as heads
        ([9, 1], 4, 3, 2, 2, True),  # padded
        ([1, 1, 1], 2, 16, 1, 16, True),  # a step of decoding
        ([18], 2, 112, 1, 16, False),  # two tiles, one masked
    ],
)
def test_the_scan_and_its_gradients_are_the_recurrence(lengths, H, P, G, N, carried, triton_device):
    inputs = scan_inputs(lengths, H, P, G, N, carried=carried)
    wanted = with_gradients(definition(lengths), inputs)
    got = with_gradients(kernel(lengths, triton_device), inputs, triton_device, torch.float32)
    for name, one, other in zip(["y", "last", *NAMES], got, wanted, strict=False):
        assert distance(one, other) < 5e-5, name


def test_decays_that_overflow_leave_everything_finite(triton_device):
    inputs = scan_inputs([70], 2, 16, 1, 16, carried=True, rate=1e6)
    found = with_gradients(kernel([70], triton_device), inputs, triton_device, torch.float32)
    assert all(x.isfinite().all() for x in found)


def test_a_span_sees_nothing_of_another(triton_device):
    inputs = scan_inputs([20, 30], 2, 16, 1, 16, carried=False)
    spoilt = [x.clone() for x in inputs]
    for tensor in (spoilt[0], spoilt[3], spoilt[4]):
        tensor[20:] = torch.nan
    y, _ = kernel([20, 30], triton_device)(*(x.to(triton_device) for x in spoilt))
    alone = [x[:20] if len(x) == 50 else x for x in inputs]
    expected, _ = kernel([20], triton_device)(*(x.to(triton_device) for x in alone))
    torch.testing.assert_close(y[:20], expected, rtol=1e-6, atol=1e-6)


def test_the_same_call_gives_the_same_bits(triton_device):
    inputs = scan_inputs([150, 3], 4, 16, 2, 16, carried=True)
    call = kernel([150, 3], triton_device)
    first, second = (with_gradients(call, inputs, triton_device, torch.float32) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("P", "N", "fits"), [(64, 128, (64, 128)), (80, 256, (80, 256)), (100, 100, (112, 128))]
)
def test_released_sizes_are_not_padded(P, N, fits):
    assert fitting(P, N) == fits


@pytest.mark.parametrize("taps", [2, 4])
@pytest.mark.parametrize("carried", [False, True])
def test_the_convolution_and_its_gradients_are_their_definition(taps, carried, triton_device):
    lengths, C = [5, 0, 70, 1, 2], 6
    window = draw(len(lengths), taps - 1, C) if carried else None
    wide = draw(sum(lengths), C + 4)

    def call(path: paths.Path, device: torch.device | str) -> list[Tensor]:
        chunks = Chunks.of(lengths, 8, taps - 1, device)
        dtype = torch.float64 if path == "torch" else torch.float32
        before = None if window is None else window.to(device, dtype)

        def conv(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor]:
            return (causal_conv(x[:, 2 : 2 + C], weight, bias, chunks, before),)

        with paths.only(path):
            return with_gradients(conv, [wide, draw(C, 1, taps), draw(C)], device, dtype)

    for one, other in zip(call("triton", triton_device), call("torch", "cpu"), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_the_next_window_is_the_last_inputs(triton_device):
    lengths, C, W = [5, 0, 1, 2], 6, 3
    x, window = draw(sum(lengths), C), draw(len(lengths), W, C)
    _, expected = reference.causal_conv(x, draw(C, 1, W + 1), draw(C), lengths, window)
    with paths.only("triton"):
        chunks = Chunks.of(lengths, 8, W, triton_device)
        got = next_window(x.to(triton_device), chunks, window.to(triton_device))
    assert torch.equal(got.cpu(), expected)


@pytest.mark.parametrize("P", [16, 6])
def test_the_mixer_and_its_gradients_are_their_twins(P, triton_device):
    H, G, N, W, lengths, used = 4, 2, 16, 3, [70, 0, 5], [4, 0, 2]
    C = H * P + 2 * G * N
    form = MixerForm(G, G, 1e-5, LIMITS)
    window, state = draw(6, W, C, seed=7), draw(6, H, P, N, seed=8)
    parts = [draw(75, H * P), draw(75, C), draw(75, H)]
    learnt = [draw(C, 1, W + 1), draw(C), draw(H), draw(H, seed=1), draw(H, seed=2), draw(H * P)]

    def call(path: paths.Path, device: torch.device | str) -> list[Tensor]:
        dtype = torch.float64 if path == "torch" else torch.float32
        memory = Memory(window.to(device, dtype, copy=True), state.to(device, dtype, copy=True))
        chunks, slots = Chunks.of(lengths, 8, W, device), Slots.of(used, device)

        def mixer(z: Tensor, xbc: Tensor, dt: Tensor, *weights: Tensor) -> tuple[Tensor]:
            return (mamba_inner(z, xbc, dt, MixerWeights(*weights), form, chunks, memory, slots),)

        with paths.only(path):
            found = with_gradients(mixer, [*parts, *learnt], device, dtype)
        return [*found, memory.window.cpu().double(), memory.state.cpu().double()]

    for one, other in zip(call("triton", triton_device), call("torch", "cpu"), strict=True):
        assert distance(one, other) < 1e-4


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize(
    ("P", "N", "dtype"),
    [
        (64, 128, torch.bfloat16),
        (64, 128, torch.float16),
        (80, 128, torch.bfloat16),
        (80, 128, torch.float16),
        (64, 64, torch.bfloat16),
        (128, 128, torch.bfloat16),
        (64, 256, torch.bfloat16),
        (80, 256, torch.bfloat16),
        (128, 256, torch.bfloat16),
    ],
)
def test_narrow_inputs_err_no_more_than_twice_the_narrow_twin(P, N, dtype):
    lengths = [700, 1, 0, 323]
    inputs = [x.to(dtype) for x in scan_inputs(lengths, 16, P, 2, N, carried=False)]
    chunks = Chunks.of(lengths, 128, 3, "cuda")

    def plain(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor):
        with paths.only("torch"):
            steps = functional.softplus(dt + bias).clamp(*LIMITS)
            return ssd_scan(x, steps, A, B, C, D, chunks)

    truth = with_gradients(plain, inputs, "cuda", torch.float64)
    twin = with_gradients(plain, inputs, "cuda", dtype)
    got = with_gradients(kernel(lengths, torch.device("cuda")), inputs, "cuda", dtype)
    for name, one, other, exact in zip(["y", "last", *NAMES], got, twin, truth, strict=False):
        assert distance(one, exact) <= 2 * distance(other, exact), name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("C", [10_240, 100])
def test_the_convolution_in_bf16_errs_no_more_than_twice_the_twin(C):
    lengths = [700, 1, 0, 323]
    inputs = [draw(sum(lengths), C), draw(C, 1, 4), draw(C)]
    narrow = [x.bfloat16() for x in inputs]
    chunks = Chunks.of(lengths, 128, 3, "cuda")

    def conv(*given: Tensor) -> tuple[Tensor]:
        return (causal_conv(*given, chunks),)

    with paths.only("torch"):
        truth = with_gradients(conv, narrow, "cuda", torch.float64)
        twin = with_gradients(conv, narrow, "cuda", torch.bfloat16)
    got = with_gradients(conv, narrow, "cuda", torch.bfloat16)
    for one, other, exact in zip(got, twin, truth, strict=True):
        assert distance(one, exact) <= 2 * distance(other, exact)
