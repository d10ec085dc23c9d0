"""Weights in 8 bits: the definition's error, the kernel against it, and on a GPU the library."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from cairn.base import UserError
from cairn.ops import paths
from cairn.ops.narrow import cast_rows, narrow_linear, narrowed

pytestmark = pytest.mark.kernels


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_a_row_comes_back_within_half_a_step_of_its_own_scale():
    x = draw(5, 64) * torch.tensor([1e-6, 1e-2, 1.0, 30.0, 1e5])[:, None]
    values, inverse = cast_rows(x)
    back = values.float() * inverse[:, None]
    assert ((back - x).abs() <= x.abs() * 2**-4 + inverse[:, None] * 2**-10).all()
    assert torch.equal(values.float().abs().amax(1), torch.full((5,), 448.0))


def test_zeros_and_what_is_no_number():
    x = torch.zeros(3, 16)
    x[1, 3], x[2, 0] = torch.inf, torch.nan
    values, inverse = cast_rows(x)
    assert torch.equal(inverse, torch.ones(3))
    assert values.float().isnan().nonzero().tolist() == [[1, 3], [2, 0]]


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("size", [48, 8200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernel_casts_as_defined(triton_device, dtype, size, squared):
    x = (draw(3, size + 8)[:, :size] * 5).to(dtype)  # rows that lie apart
    x[1] = 0
    x[2, 1] = torch.nan
    wanted = cast_rows(x, squared_relu=squared)
    with paths.only("triton"):
        values, inverse = cast_rows(x.to(triton_device), squared_relu=squared)
    assert torch.equal(values.cpu().view(torch.uint8) & 0x7F, wanted[0].view(torch.uint8) & 0x7F)
    assert torch.equal(inverse.cpu(), wanted[1])


@pytest.mark.parametrize("squared", [False, True])
def test_a_product_is_near_that_of_whole_weights_and_no_row_changes_another(squared):
    x, weight, bias = draw(2, 7, 64), draw(32, 64, seed=1), draw(32, seed=2)
    values, inverse = narrowed(weight)
    got = narrow_linear(x, values, inverse, bias, squared_relu=squared)
    wanted = functional.linear(functional.relu(x).square() if squared else x, weight, bias)
    assert ((got - wanted).norm() / wanted.norm()).item() < 0.05
    x[1] = 1e4
    again = narrow_linear(x, values, inverse, bias, squared_relu=squared)
    torch.testing.assert_close(again[0], got[0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_shapes_that_the_device_does_not_multiply_are_refused():
    with pytest.raises(UserError, match="multiple of 16"):
        narrowed(draw(32, 40).cuda())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("rows", [1, 3, 8, 64, 600])
def test_the_library_multiplies_as_defined(rows):
    x, weight = draw(rows, 512).bfloat16(), draw(384, 512, seed=1).bfloat16()
    values, inverse = narrowed(weight)
    wanted = narrow_linear(x.float(), values, inverse)
    there = narrowed(weight.cuda())
    assert torch.equal(there[0].cpu().view(torch.uint8), values.view(torch.uint8))
    got = narrow_linear(x.cuda(), *there).float().cpu()
    assert ((got - wanted).norm() / wanted.norm()).item() < 4e-3  # bf16 rounding of the result
