"""Losses in slices: Triton kernels against their twins, and the memory that slices take."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from cairn.ops import paths
from cairn.ops.loss import linear_cross_entropy, linear_kl

pytestmark = pytest.mark.kernels


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def cross_entropy(hidden: Tensor, weight: Tensor, size: int | None) -> Tensor:
    targets = (torch.arange(len(hidden)) * 5 % len(weight)).to(hidden.device)
    weights = torch.arange(len(hidden), device=hidden.device) % 3 / 2
    return linear_cross_entropy(hidden, weight, targets, weights, size)


def kl(hidden: Tensor, weight: Tensor, size: int | None) -> Tensor:
    T, V = len(hidden), len(weight)
    teacher = [draw(T, 5, seed=8).to(hidden), draw(V, 5, seed=9).to(hidden)]
    weights = torch.arange(T, device=hidden.device) % 3 / 2
    return linear_kl(hidden, weight, *teacher, weights, 2.5, size)


def with_gradients(loss, hidden: Tensor, weight: Tensor, device, size: int | None) -> list[Tensor]:
    leaves = [x.to(device, copy=True).requires_grad_() for x in (hidden, weight)]
    found = loss(*leaves, size)
    return [x.detach().cpu() for x in (found, *torch.autograd.grad(found * 3, leaves))]


@pytest.mark.parametrize("loss", [cross_entropy, kl])
@pytest.mark.parametrize("size", [3, None])
@pytest.mark.parametrize("V", [11, 5000])
def test_kernels_and_gradients_are_their_twins(triton_device, loss, size, V):
    hidden, weight = draw(7, 6), draw(V, 6)
    with paths.only("torch"):
        wanted = with_gradients(loss, hidden, weight, "cpu", size)
    with paths.only("triton"):
        got = with_gradients(loss, hidden, weight, triton_device, size)
        with torch.no_grad():
            plain = loss(hidden.to(triton_device), weight.to(triton_device), size)
    for one, other in zip((*got, plain.cpu()), (*wanted, wanted[0]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


PROGRAM = """
import resource, sys, torch
from cairn.ops.loss import linear_cross_entropy
T, V, D = 2048, 131072, 16
hidden, weight = torch.randn(T, D).requires_grad_(), torch.randn(V, D).requires_grad_()
def step(rows):
    loss = linear_cross_entropy(hidden[:rows], weight, torch.arange(rows), torch.ones(rows))
    torch.autograd.grad(loss, (hidden, weight))
step(64)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
step(T)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / (T * V * 4))
"""


def test_full_logits_never_stand_in_memory():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 0.1  # of the 1 GiB that they would take


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("loss", [cross_entropy, kl])
def test_full_logits_never_stand_in_a_gpus_memory(loss):
    T, V, D = 8192, 131_072, 256
    hidden = torch.randn(T, D, device="cuda", dtype=torch.bfloat16).requires_grad_()
    weight = torch.randn(V, D, device="cuda", dtype=torch.bfloat16).requires_grad_()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    torch.autograd.grad(loss(hidden, weight, None), (hidden, weight))
    # Logits in bf16 would be 2 GiB, and their gradient as much.
    assert torch.cuda.max_memory_allocated() - before < 1.4 * 2**30


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("loss", [cross_entropy, kl])
def test_bf16_on_a_gpu_errs_no_more_than_twice_the_twin(loss):
    hidden, weight = draw(70, 256).bfloat16(), draw(50_000, 256).bfloat16() * 0.1
    with paths.only("torch"):
        exact = with_gradients(loss, hidden.double(), weight.double(), "cuda", 32)
        twin = with_gradients(loss, hidden, weight, "cuda", 32)
    got = with_gradients(loss, hidden, weight, "cuda", 32)
    for one, other, truth in zip(got, twin, exact, strict=True):
        error, allowed = ((x.double() - truth).norm() for x in (one, other))
        assert error <= 2 * allowed + 1e-6 * truth.norm()
