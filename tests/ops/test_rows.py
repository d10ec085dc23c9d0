"""Norms, activations and rotary positions: Triton kernels and their gradients against twins."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from cairn.ops import paths
from cairn.ops.activation import gelu_tanh, swiglu
from cairn.ops.layernorm import add_layer_norm, layer_norm
from cairn.ops.norm import add_rms_norm, gated_rms_norm, rms_norm, squared_relu
from cairn.ops.rotary import rotate

pytestmark = pytest.mark.kernels


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def angles(T: int, R: int) -> tuple[Tensor, Tensor]:
    turned = draw(T, R).abs() * 10
    return turned.cos(), turned.sin()


def table(x: Tensor, like: Tensor) -> Tensor:
    """Angles' cosines or sines: in fp32 at least."""
    return x.to(like.device, torch.promote_types(like.dtype, torch.float32))


def cases(T: int, D: int) -> dict[str, tuple[Callable[..., object], list[Tensor]]]:
    x, other, weight, bias = draw(T, D), draw(T, D, seed=1), draw(D), draw(D, seed=1)
    wide = draw(T, 2 * D, seed=2)
    heads = draw(T, 3, 10), draw(T, 1, 10, seed=3)
    cos, sin = angles(T, 5)
    part_cos, part_sin = angles(T, 2)
    return {
        "rms_norm": (lambda x, w: rms_norm(x, w, 1e-5), [x, weight]),
        "add_rms_norm": (lambda x, r, w: add_rms_norm(x, r, w, 1e-5), [x, other, weight]),
        "gated_rms_norm": (
            lambda x, z, w: gated_rms_norm(x, z[:, D:], w, 3, 1e-5),
            [x, wide, weight],
        ),
        "layer_norm": (lambda x, w, b: layer_norm(x, w, b, 1e-5), [x, weight, bias]),
        "add_layer_norm": (
            lambda x, r, w, b: add_layer_norm(x, r, w, b, 1e-5),
            [x, other, weight, bias],
        ),
        "squared_relu": (squared_relu, [x]),
        "gelu_tanh": (gelu_tanh, [x * 3]),
        "swiglu": (lambda both: swiglu(both[:, :D], both[:, D:]), [wide]),
        "rotate": (lambda q, k: rotate(q, k, table(cos, q), table(sin, q)), list(heads)),
        "rotate a part": (
            lambda q, k: rotate(q, k, table(part_cos, q), table(part_sin, q)),
            list(heads),
        ),
    }


def with_gradients(
    call: Callable[..., object], inputs: list[Tensor], device: torch.device | str
) -> list[Tensor]:
    leaves = [x.to(device, copy=True).requires_grad_() for x in inputs]
    found = call(*leaves)
    outs = list(found) if isinstance(found, tuple) else [found]
    loss = sum((out * draw(*out.shape, seed=9).to(out)).sum() for out in outs)
    return [out.detach().cpu() for out in [*outs, *torch.autograd.grad(loss, leaves)]]


@pytest.mark.parametrize("name", cases(1, 6))
@pytest.mark.parametrize("size", [(1, 6), (7, 48)])
def test_kernels_and_gradients_are_their_twins(name, size, triton_device):
    call, inputs = cases(*size)[name]
    with paths.only("torch"):
        wanted = with_gradients(call, inputs, "cpu")
    with paths.only("triton"):
        got = with_gradients(call, inputs, triton_device)
    for one, other in zip(got, wanted, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", cases(1, 6))
def test_gradients_of_twins(name):
    call, inputs = cases(4, 6)[name]
    assert gradcheck(call, [x.double().requires_grad_() for x in inputs])


@pytest.mark.gpu  # the interpreter cuts off what bf16 does not hold instead of rounding
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("name", cases(1, 6))
def test_kernels_take_bf16_and_err_no_more_than_twice_the_twin(name, triton_device):
    call, inputs = cases(16, 48)[name]
    narrow = [x.bfloat16() for x in inputs]
    with paths.only("torch"):
        exact = with_gradients(call, [x.float() for x in narrow], "cpu")
        twin = with_gradients(call, narrow, "cpu")
    with paths.only("triton"):
        got = with_gradients(call, narrow, triton_device)
    for one, other, truth in zip(got, twin, exact, strict=True):
        assert one.dtype == torch.bfloat16
        assert (one - truth).norm() <= 2 * (other - truth).norm() + 1e-6 * truth.norm()


def test_a_sum_is_kept_in_the_residuals_dtype(triton_device):
    x, residual, weight = draw(3, 12).bfloat16(), draw(3, 12, seed=1), draw(12)
    for path, device in (("torch", "cpu"), ("triton", triton_device)):
        with paths.only(path):
            y, total = add_rms_norm(*(t.to(device) for t in (x, residual, weight)), 1e-5)
        assert (y.dtype, total.dtype) == (torch.bfloat16, torch.float32)
        torch.testing.assert_close(total.cpu(), residual + x, rtol=0, atol=0)
