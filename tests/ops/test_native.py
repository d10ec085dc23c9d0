"""The compiled operations against their definitions and against the plain path."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from cairn.ops import paths, reference
from cairn.ops.linear import linear
from cairn.ops.mamba import MixerForm, MixerWeights, mamba_inner
from cairn.ops.native import library, operations
from cairn.ops.native.library import native
from cairn.ops.native.operations import few_rows
from cairn.ops.norm import gated_rms_norm, rms_norm
from cairn.ops.ragged import Chunks
from cairn.ops.slots import Slots

from ..fixtures.units import UNITS, only

pytestmark = [
    pytest.mark.kernels,
    pytest.mark.skipif(bool(native().missing), reason=native().missing or "compiled"),
]

LENGTHS = st.lists(st.sampled_from([0, 1, 2, 5, 17, 63, 64, 65, 129]), min_size=1, max_size=4)


@dataclass
class Memory:
    window: Tensor
    state: Tensor


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator)


def mixer(H: int, P: int, G: int, N: int, W: int = 3) -> MixerWeights:
    C = H * P + 2 * G * N
    taps, bias = draw(C, 1, W + 1), draw(C)
    return MixerWeights(taps, bias, draw(H), draw(H, seed=1), draw(H, seed=2), draw(H * P))


def inputs(T: int, H: int, P: int, G: int, N: int) -> tuple[Tensor, ...]:
    """z, xbc and dt as parts of in_proj's rows: none is in one piece."""
    widths = [H * P, H * P + 2 * G * N, H]
    return draw(T, sum(widths)).split(widths, -1)


def near(got: Tensor, wanted: Tensor, atol: float = 1e-5) -> None:
    scale = wanted.abs().max().clamp(min=1)
    torch.testing.assert_close(got.double() / scale, wanted.double() / scale, rtol=0, atol=atol)


@settings(max_examples=30, deadline=None)
@example([5, 129], (4, 3, 4, 2), [0, 1, 2, 3, 4], 2, None, 1)
@given(
    lengths=LENGTHS.filter(any),
    sizes=st.sampled_from(
        [(4, 64, 2, 128), (2, 80, 1, 128), (4, 3, 4, 2), (6, 17, 2, 5), (4, 16, 1, 33)]
    ),
    slots=st.permutations(range(5)),
    norm_groups=st.sampled_from([1, 2]),
    limits=st.sampled_from([None, (0.2, 1.0)]),
    threads=st.sampled_from([1, 2, 3]),
)
def test_a_mixer_is_its_definition(lengths, sizes, slots, norm_groups, limits, threads):
    H, P, G, N = sizes
    weights, parts = mixer(*sizes), inputs(sum(lengths), *sizes)
    memory = Memory(draw(5, 3, H * P + 2 * G * N, seed=7), draw(5, H, P, N, seed=8))
    used = list(slots[: len(lengths)])
    window, state = memory.window.double(), memory.state.double()
    expected, window[used], state[used] = reference.mamba_inner(
        *(t.double() for t in parts), [t.double() for t in weights], G, norm_groups, 1e-5,
        limits or (0, torch.inf), lengths, window[used], state[used],
    )  # fmt: skip
    form, chunks = MixerForm(G, norm_groups, 1e-5, limits), Chunks.of(lengths, 128, 3, "cpu")
    plain = Memory(memory.window.clone(), memory.state.clone())
    with paths.only("torch"):
        otherwise = mamba_inner(*parts, weights, form, chunks, plain, Slots.of(used, "cpu"))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    with paths.recorded() as taken:
        got = mamba_inner(*parts, weights, form, chunks, memory, Slots.of(used, "cpu"))
    torch.set_num_threads(before)
    assert taken == [paths.Choice("mamba_inner", "native")]
    # The norm divides by what may almost cancel in a group of six: both forms err there.
    error = (otherwise.double() - expected).abs().max() / expected.abs().max().clamp(min=1)
    near(got, expected, max(1e-5, float(error)))
    near(memory.state, state)
    torch.testing.assert_close(memory.window.double(), window, rtol=0, atol=0)


@pytest.mark.parametrize("taps", [2, 4, 5])
def test_a_mixer_without_memory_or_bias_and_with_other_windows(taps):
    sizes, lengths = (4, 8, 2, 16), [3, 70, 0, 1]
    weights = mixer(*sizes, W=taps - 1)
    parts, form = inputs(74, *sizes), MixerForm(2, 2, 1e-5)
    plain = [t.double() for t in weights]
    plain[1] = torch.zeros_like(plain[1])
    expected, _, _ = reference.mamba_inner(
        *(t.double() for t in parts), plain, 2, 2, 1e-5, (0, torch.inf), lengths
    )
    chunks = Chunks.of(lengths, 128, taps - 1, "cpu")
    near(mamba_inner(*parts, weights._replace(conv_bias=None), form, chunks), expected)


def test_neighbours_late_in_a_chunk_are_as_exact_as_its_first():
    """Of large sums of time steps a pair of tokens has a small difference."""
    sizes = (4, 16, 2, 16)
    parts, form = inputs(256, *sizes), MixerForm(2, 1, 1e-5)
    weights = mixer(*sizes)._replace(A_log=torch.full((4,), 2.0), dt_bias=torch.full((4,), 1.0))
    chunks = Chunks.of([256], 128, 3, "cpu")
    got = mamba_inner(*parts, weights, form, chunks).double()
    with paths.only("torch"):
        truth = mamba_inner(*(t.double() for t in parts), weights, form, chunks)
    assert (got - truth).norm() < 3e-7 * truth.norm()


@pytest.mark.parametrize("scale", [50.0, 1e4])
def test_large_decays_stay_finite(scale):
    sizes = (4, 64, 2, 128)
    z, xbc, dt = inputs(200, *sizes)
    weights, form = mixer(*sizes), MixerForm(2, 2, 1e-5)
    chunks = Chunks.of([200], 128, 3, "cpu")
    got = mamba_inner(z, xbc, dt * scale, weights, form, chunks)
    with paths.only("torch"):  # sums of decays round alike: the plain path has the same error
        truth = mamba_inner(z.double(), xbc.double(), dt.double() * scale, weights, form, chunks)
        plain = mamba_inner(z, xbc, dt * scale, weights, form, chunks)
    assert got.isfinite().all()
    assert (got - truth).norm() <= 2 * (plain - truth).norm() + 1e-5 * truth.norm()


def test_nan_stays_in_its_span():
    sizes = (4, 64, 2, 128)
    z, xbc, dt = (part.clone() for part in inputs(140, *sizes))
    xbc[75] = torch.nan
    chunks = Chunks.of([70, 70], 128, 3, "cpu")
    got = mamba_inner(z, xbc, dt, mixer(*sizes), MixerForm(2, 2, 1e-5), chunks)
    assert got[:70].isfinite().all()
    assert got[75:].isnan().any(1).all()


def test_bf16_is_as_near_as_the_plain_path():
    sizes, lengths = (4, 64, 2, 128), [1, 100, 3]
    parts, weights = inputs(104, *sizes), mixer(*sizes)
    narrow = [part.bfloat16() for part in parts]
    rounded = weights._replace(
        conv=weights.conv.bfloat16(), conv_bias=draw(768).bfloat16(), norm=weights.norm.bfloat16()
    )
    form, chunks = MixerForm(2, 2, 1e-5), Chunks.of(lengths, 128, 3, "cpu")
    truth, _, _ = reference.mamba_inner(
        *(t.double() for t in narrow), [t.double() for t in rounded], 2, 2, 1e-5, (0, torch.inf),
        lengths,
    )  # fmt: skip
    got = mamba_inner(*narrow, rounded, form, chunks)
    with paths.only("torch"):
        plain = mamba_inner(*narrow, rounded, form, chunks)
    assert got.dtype == torch.bfloat16
    assert (got - truth).norm() <= 1.1 * (plain - truth).norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(4112, 512), (7, 13), (33, 100), (1, 16)])
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 16, 32])
def test_products_of_few_rows(dtype, shape, rows):
    x, weight = draw(rows, shape[1]).to(dtype), draw(*shape).to(dtype)
    with paths.recorded() as taken:
        got = linear(x, weight)
    served = "native" if rows <= few_rows(dtype) else "torch"
    assert [choice.path for choice in taken] == [served]
    assert got.dtype == dtype
    near(got, x.double() @ weight.double().t(), 2e-6 if dtype == torch.float32 else 4e-3)


@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("rows", [1, 3, 8, 9, 16, 23, 32])
@pytest.mark.parametrize("shape", [(200, 96), (433, 512), (240, 1024), (80, 2080), (39, 40)])
def test_weights_in_bf16_see_fp32_to_17_bits(rows, shape, units):
    """Vectors of pairs see bf16, of more than 4 rows, whole vectors and four outputs at a time."""
    x, weight = draw(rows, shape[1]), draw(*shape).bfloat16()
    with only(units):
        got = operations.linear(x, weight)
    rounded = units == "pairs" and rows > 4 and shape[1] % 32 == 0
    truth = x.double() @ weight.double().t()
    if rounded:
        four = shape[0] // 4 * 4
        truth[:, :four] = x.bfloat16().double() @ weight[:four].double().t()
    near(got, truth, 2**-17)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("groups", [1, 4])
def test_norms(dtype, groups):
    x, gate, weight = draw(33, 96).to(dtype), draw(33, 200).to(dtype)[:, 3:99], draw(96).to(dtype)
    wide = [t.double() for t in (x, gate, weight)]
    atol = 1e-6 if dtype == torch.float32 else 4e-3
    near(rms_norm(x, weight, 1e-5), reference.rms_norm(wide[0], wide[2], 1e-5), atol)
    got = gated_rms_norm(x, gate, weight, groups, 1e-5)
    near(got, reference.gated_rms_norm(*wide, groups, 1e-5), atol)
    assert got.dtype == dtype


def test_what_is_not_compiled_is_served_by_torch_and_told():
    weight = draw(5, 8)
    for x, why in (
        (draw(3, 8).double(), "torch.float64 is not compiled"),
        (draw(3, 8).requires_grad_(), "gradients are wanted"),
    ):
        with paths.recorded() as taken:
            rms_norm(x, draw(8).to(x.dtype), 1e-5)
        assert taken == [paths.Choice("rms_norm", "torch", why)]
    with paths.recorded() as taken, torch.autocast("cpu", torch.bfloat16):
        assert linear(draw(3, 8), weight).dtype == torch.bfloat16
    assert taken == [paths.Choice("linear", "torch", "autocast is on")]


def test_a_library_of_other_sources_is_left_alone_and_that_is_said(monkeypatch):
    monkeypatch.setattr(library, "_digest", lambda: "another")
    with pytest.warns(RuntimeWarning, match="slow paths serve this CPU.* install again"):
        assert native.__wrapped__().library is None
