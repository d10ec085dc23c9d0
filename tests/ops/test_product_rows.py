"""Rows times a weight in a fixed order: near the plain product, and the same whatever T is."""

import pytest
import torch
from torch import Tensor

from cairn.ops.narrow import cast_rows

pytestmark = pytest.mark.kernels


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("outputs", "inner"), [(70, 96), (64, 1100), (16, 2080)])
@pytest.mark.parametrize("rows", [1, 5, 70])
def test_near_the_plain_product(triton_device, rows, outputs, inner):
    from cairn.ops.triton.rows import product

    x, weight = draw(rows, inner), draw(outputs, inner, seed=1)
    scales, inverse = draw(rows, seed=2), draw(outputs, seed=3)
    wanted = (x @ weight.t()) * scales[:, None] * inverse
    given = (y.to(triton_device) for y in (x, weight, scales, inverse))
    torch.testing.assert_close(product(*given).cpu(), wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("rows", [1, 5, 70])
def test_narrow_near_the_definition_and_the_same_in_any_company(triton_device, rows):
    """E4M3 both, in several parts."""
    from cairn.ops.triton.rows import product

    (x, scales), (weight, inverse) = cast_rows(draw(rows, 2080)), cast_rows(draw(48, 2080, seed=1))
    wanted = (x.float() @ weight.float().t()) * scales[:, None] * inverse
    x, weight, scales, inverse = (y.to(triton_device) for y in (x, weight, scales, inverse))
    whole = product(x, weight, scales, inverse, torch.float32)
    torch.testing.assert_close(whole.cpu(), wanted, rtol=1e-4, atol=1e-3)
    last = product(x[rows - 1 :], weight, scales[rows - 1 :], inverse, torch.float32)
    assert torch.equal(last, whole[rows - 1 :])


def test_a_row_is_the_same_in_any_company(triton_device):
    from cairn.ops.triton.rows import product

    x, weight = draw(80, 1100).to(triton_device), draw(70, 1100, seed=1).to(triton_device)
    whole = product(x, weight)
    for rows in (slice(0, 1), slice(3, 8), slice(60, 80)):
        assert torch.equal(product(x[rows], weight), whole[rows])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("narrow", [False, True])
def test_a_row_is_the_same_in_any_company_on_a_gpu(narrow):
    from cairn.ops.triton.rows import product

    for outputs, inner in ((4480, 15680), (22656, 4480), (1024, 4480)):
        x = draw(3000, inner).bfloat16().cuda()
        weight = draw(outputs, inner, seed=1).bfloat16().cuda()
        scales = inverse = None
        wanted = x.float() @ weight.float().t()
        if narrow:
            (x, scales), (weight, inverse) = cast_rows(x), cast_rows(weight)
            wanted = x.float() @ weight.float().t() * (scales[:, None] * inverse)

        def of(rows: slice, x=x, weight=weight, scales=scales, inverse=inverse) -> Tensor:
            own = None if scales is None else scales[rows]
            return product(x[rows], weight, own, inverse, torch.bfloat16)

        whole = of(slice(0, 3000))
        assert ((whole.float() - wanted).norm() / wanted.norm()).item() < 3e-3
        for rows in (slice(0, 1), slice(3, 8), slice(64, 100), slice(2000, 2256)):
            assert torch.equal(of(rows), whole[rows])
