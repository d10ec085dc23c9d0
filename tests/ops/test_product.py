"""The product with squared ReLU at its end, against the two operations."""

import pytest
import torch
from torch import Tensor

from cairn.ops import paths
from cairn.ops.linear import linear_squared_relu

pytestmark = pytest.mark.kernels


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def exact(x: Tensor, weight: Tensor) -> Tensor:
    return torch.relu(x.double() @ weight.double().T).square()


@pytest.mark.parametrize(("T", "D", "F"), [(200, 72, 304), (1, 8, 8), (130, 64, 256)])
def test_the_kernel_is_the_product_and_its_activation(triton_device, T, D, F):
    from cairn.ops.triton.product import linear_squared_relu as product

    x, weight = draw(T, D).half(), draw(F, D, seed=1).half() * 0.1
    wanted = exact(x, weight)
    got = product(x.to(triton_device), weight.to(triton_device)).cpu().double()
    assert (got - wanted).norm() < 1e-3 * wanted.norm()


def test_elsewhere_it_is_both_operations():
    x, weight = draw(5, 6), draw(7, 6)
    with paths.recorded() as taken:
        got = linear_squared_relu(x, weight)
    torch.testing.assert_close(got.double(), exact(x, weight), rtol=1e-5, atol=1e-5)
    assert [choice.op for choice in taken] == ["linear", "squared_relu"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("T", [2048, 5003])
def test_many_rows_on_a_gpu_err_no_more_than_twice_the_twin(T):
    x = draw(T, 1024).bfloat16().cuda()
    weight = draw(2056, 1024, seed=1).bfloat16().cuda() * 0.03
    with torch.no_grad(), paths.recorded() as taken:
        got = linear_squared_relu(x, weight)
    with torch.no_grad(), paths.only("torch"):
        twin = linear_squared_relu(x, weight)
    errors = [(y.double() - exact(x, weight)).norm() for y in (got, twin)]
    assert errors[0] <= 2 * errors[1]
    if torch.cuda.get_device_capability()[0] == 9:
        assert taken[0].path == "triton"
