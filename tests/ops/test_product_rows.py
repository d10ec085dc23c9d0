"""Rows times a weight in a fixed order: near the plain product, and the same whatever T is."""

import pytest
import torch
from torch import Tensor

from cairn.ops import paths
from cairn.ops.activation import swiglu
from cairn.ops.linear import linear
from cairn.ops.narrow import cast_rows
from cairn.ops.norm import add_rms_norm, rms_norm

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


@pytest.mark.parametrize("rows", [1, 2, 3, 16])
@pytest.mark.parametrize(("outputs", "inner"), [(70, 96), (5, 1100), (33, 5200), (3, 25000)])
@pytest.mark.parametrize("biased", [False, True])
def test_a_few_rows_near_the_plain_product(triton_device, rows, outputs, inner, biased):
    """Rows and weights that lie apart, too."""
    from cairn.ops.triton.few_rows import product

    x, weight = draw(rows, inner + 8)[:, :inner], draw(outputs, inner + 16, seed=1)[:, 8:-8]
    bias = draw(outputs, seed=2) if biased else None
    wanted = torch.nn.functional.linear(x, weight, bias)
    x, weight = x.to(triton_device), weight.to(triton_device)
    bias = None if bias is None else bias.to(triton_device)
    torch.testing.assert_close(product(x, weight, bias).cpu(), wanted, rtol=1e-4, atol=2e-3)


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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("biased", [False, True])
@torch.no_grad()
def test_few_rows_on_a_gpu_err_no_more_than_the_library_and_never_change(dtype, biased):
    hopper = torch.cuda.get_device_capability()[0] == 9
    for outputs, inner in ((4096, 4096), (6144, 4096), (1024, 4480), (4480, 15680), (9000, 1000)):
        weight = (draw(outputs, inner, seed=1) / inner**0.5).to(dtype).cuda()
        bias = draw(outputs, seed=2).to(dtype).cuda() if biased else None
        for rows in (1, 2, 3, 8, 16, 17):
            x = draw(rows, inner).to(dtype).cuda()
            exact = x.double() @ weight.double().t() + (0 if bias is None else bias.double())
            with paths.only("torch"):
                library = linear(x, weight, bias)
            with paths.recorded() as taken:
                ours = linear(x, weight, bias)
                wide = linear(x, weight, bias, torch.float32)
            few = hopper and rows <= (16 if inner <= outputs else 1)
            assert {choice.path for choice in taken} == {"triton" if few else "torch"}
            assert ours.dtype == dtype
            assert (ours - exact).norm() <= 1.1 * (library - exact).norm()
            assert torch.equal(wide.to(dtype), ours)
            assert all(torch.equal(linear(x, weight, bias), ours) for _ in range(3))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@torch.no_grad()
def test_kernels_that_begin_early_see_what_was_written_before_them():
    """A chain of small kernels, in which each reads all that the one before wrote."""
    width = 2048
    weights = [(draw(width, width, seed=n) / width**0.5).bfloat16().cuda() for n in range(6)]
    norm = torch.ones(width, device="cuda", dtype=torch.bfloat16)

    def chain(x: Tensor) -> Tensor:
        y = rms_norm(x, norm, 1e-6)
        for weight in weights * 3:
            y, x = add_rms_norm(swiglu(linear(y, weight), y), x, norm, 1e-6)
        return x

    for rows in (1, 2, 8):
        x = draw(rows, width).bfloat16().cuda()
        wanted = chain(x)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = chain(x)
        for _ in range(20):
            found.zero_()
            graph.replay()
            assert torch.equal(found, wanted)
        with paths.only("torch"):
            plain = chain(x)
        assert ((wanted - plain).norm() / plain.norm()).item() < 0.05
        weights[0].neg_()  # what is written right before is seen
        changed = linear(x, weights[0])
        weights[0].neg_()
        assert torch.equal(changed, -linear(x, weights[0]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("learned", ["input", "weight", "bias"])
def test_a_few_rows_have_gradients(learned):
    """Biases alone are learned, too, behind a frozen weight."""
    given = {"input": draw(2, 64), "weight": draw(128, 64, seed=1), "bias": draw(128, seed=2)}
    given = {name: x.bfloat16().cuda() for name, x in given.items()}
    given[learned].requires_grad_()
    linear(given["input"], given["weight"], given["bias"]).float().square().sum().backward()
    assert given[learned].grad is not None
