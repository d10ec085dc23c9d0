"""Compiled operations on many rows: products with what follows, norms of sums, rotations."""

import pytest
import torch
from torch import Tensor

from cairn.ops import paths
from cairn.ops.activation import gelu_tanh
from cairn.ops.layernorm import add_layer_norm, layer_norm
from cairn.ops.linear import linear, linear_gelu_tanh, linear_squared_relu, linear_swiglu
from cairn.ops.native.library import native
from cairn.ops.native.rows import LEAST_ROWS
from cairn.ops.norm import add_rms_norm
from cairn.ops.rotary import rotate

pytestmark = [
    pytest.mark.kernels,
    pytest.mark.skipif(bool(native().missing), reason=native().missing or "compiled"),
]

NARROW = (torch.float32, torch.bfloat16)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def held(call, inputs: list[Tensor], served: str = "native") -> None:
    """The compiled path errs no more than the plain one in the same dtype, within a tenth."""
    with paths.recorded() as taken:
        got = call(*inputs)
    assert {choice.path for choice in taken} == {served}
    with paths.only("torch"):
        plain, exact = call(*inputs), call(*(x.double() for x in inputs))
    for one, other, truth in zip(*(_tuple(x) for x in (got, plain, exact)), strict=True):
        assert one.dtype == other.dtype
        assert one.shape == truth.shape
        error = (other - truth).norm()
        assert (one - truth).norm() <= 1.1 * error + 2e-7 * truth.norm()


def _tuple(x: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return x if isinstance(x, tuple) else (x,)


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("size", [(1, 5), (33, 96), (300, 130)])
def test_norms_of_sums(dtype, size):
    x, residual = draw(*size).to(dtype), draw(*size, seed=1).to(dtype)
    weight, bias = draw(size[1]).to(dtype), draw(size[1], seed=1).to(dtype)
    held(lambda x, r, w: add_rms_norm(x, r, w, 1e-5), [x, residual, weight])
    held(lambda x, w, b: layer_norm(x, w, b, 1e-5), [x, weight, bias])
    held(lambda x, r, w, b: add_layer_norm(x, r, w, b, 1e-5), [x, residual, weight, bias])


def test_a_sum_stays_in_the_residuals_dtype():
    x, residual, weight = draw(3, 12).bfloat16(), draw(3, 12, seed=1), draw(12)
    normed, total = add_rms_norm(x, residual, weight, 1e-5)
    assert (normed.dtype, total.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(total, residual + x, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("pairs", [5, 2])
def test_rotations(dtype, pairs):
    wide = draw(70, 5 * 10).to(dtype)  # queries and keys as parts of one product's rows
    turns = draw(70, pairs).abs() * 10
    cos, sin = turns.cos(), turns.sin()

    def call(wide):
        q, k = wide[:, :30].unflatten(1, (3, 10)), wide[:, 30:40].unflatten(1, (1, 10))
        exact = wide.dtype == torch.float64
        return rotate(q, k, *((cos.double(), sin.double()) if exact else (cos, sin)))

    held(call, [wide])


@pytest.mark.parametrize("dtype", NARROW)
def test_gelu(dtype):
    held(gelu_tanh, [(3 * draw(3, 5000)).to(dtype)])
    far = torch.tensor([-30, -0.0, 0, 30, torch.inf, torch.nan, -torch.inf]).to(dtype)
    got = gelu_tanh(far)
    with paths.only("torch"):
        torch.testing.assert_close(got[:-1], gelu_tanh(far[:-1]), equal_nan=True)
    assert not got[-1].isfinite()


tiles = pytest.mark.skipif(not native().tiles, reason="no matrix units here")
SHAPES = [(96, 32, 1), (100, 96, 50), (129, 64, 33), (600, 768, 128), (257, 2048, 96)]


@tiles
@pytest.mark.parametrize(("rows", "inner", "outputs"), SHAPES)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
def test_products_of_many_rows(rows, inner, outputs, biased, threads):
    x, weight = draw(rows, inner + 7)[:, 3:-4].bfloat16(), draw(outputs, inner).bfloat16()
    weight = weight / inner**0.5
    bias = [draw(outputs).bfloat16()] if biased else []
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        held(linear, [x, weight, *bias])
        held(linear_gelu_tanh, [x, weight, *bias])
        held(linear_squared_relu, [x, weight])
        up = draw(rows, outputs, seed=1).bfloat16()
        held(lambda x, w, up, b=None: linear_swiglu(x, w, b, up), [x, weight, up, *bias])
        whole = linear(x, weight, *bias, dtype=torch.float32)
    finally:
        torch.set_num_threads(before)
    wide = [t.double() for t in (x, weight, *bias)]
    exact = linear(wide[0], wide[1], wide[2] if biased else None)
    torch.testing.assert_close(whole.double(), exact, rtol=1e-5, atol=1e-5)


@tiles
def test_nan_and_infinity_go_through_activations():
    x, weight = torch.zeros(LEAST_ROWS, 32), torch.eye(32)
    x[0, :6] = torch.tensor([torch.nan, torch.inf, -60.0, 60.0, -0.5, 1e38])
    x[1:7] = 1
    for call in (linear_gelu_tanh, linear_squared_relu):
        got = call(x[:, :32].bfloat16(), weight.bfloat16())
        assert got[1:].isfinite().all()
        assert got[0].isnan().all()  # NaN and infinity times 0 are in every sum
    bias = torch.tensor([torch.nan, torch.inf, -60.0, 60.0, 1e38, 0]).bfloat16()
    rows = torch.zeros(LEAST_ROWS, 32).bfloat16()
    got = linear_gelu_tanh(rows, torch.zeros(6, 32).bfloat16(), bias)[0]
    with paths.only("torch"):
        torch.testing.assert_close(got, gelu_tanh(bias), equal_nan=True)


@tiles
def test_few_rows_fp32_and_gradients_stay_with_torch():
    weight = draw(50, 64)
    for x, w in (
        (draw(LEAST_ROWS - 1, 64).bfloat16(), weight.bfloat16()),
        (draw(200, 64), weight),
        (draw(200, 64).bfloat16().requires_grad_(), weight.bfloat16()),
        (draw(200, 40).bfloat16(), draw(50, 40).bfloat16()),
    ):
        with paths.recorded() as taken:
            linear(x, w)
        assert [choice.path for choice in taken] == ["torch"]
