"""Inside an autocast region: matrix products in bf16, everything that sums or divides in fp32."""

import pytest
import torch

from cairn.ops import gated_rms_norm, linear_cross_entropy, linear_kl, rms_norm


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def bf16() -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16)


def test_norms_do_not_lose_bits(random):
    x, gate = torch.randn(2, 40, 64, generator=random)
    weight = torch.randn(64, generator=random)
    with bf16():
        plain, gated = rms_norm(x, weight, 1e-5), gated_rms_norm(x, gate, weight, 4, 1e-5)
    assert torch.equal(plain, rms_norm(x, weight, 1e-5))
    assert torch.equal(gated, gated_rms_norm(x, gate, weight, 4, 1e-5))


def test_losses_and_their_gradients_are_near_those_in_fp32(random):
    hidden = torch.randn(70, 32, generator=random).requires_grad_()
    weight = (torch.randn(50, 32, generator=random) / 5).requires_grad_()
    teacher = torch.randn(70, 24, generator=random), torch.randn(50, 24, generator=random) / 5
    targets = torch.randint(50, (70,), generator=random)
    weights = torch.rand(70, generator=random)

    def both() -> tuple[list[float], list[torch.Tensor]]:
        values, gradients = [], []
        for loss in (
            linear_cross_entropy(hidden, weight, targets, weights),
            linear_kl(hidden, weight, *teacher, weights),
        ):
            values.append(loss.item())
            gradients += torch.autograd.grad(loss, [hidden, weight])
        return values, gradients

    exact, exact_gradients = both()
    with bf16():
        near, near_gradients = both()
    assert near == pytest.approx(exact, rel=1e-2)
    for a, b in zip(exact_gradients, near_gradients, strict=True):
        assert (a - b).norm() < 0.03 * a.norm()
