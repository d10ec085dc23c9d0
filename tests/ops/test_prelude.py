"""One launch between attention's projections and attention, against what it stands for."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cairn.model.positions import rotations
from cairn.model.rope import RopeScaling
from cairn.ops import paths
from cairn.ops.prelude import prelude, prelude_in_parts

pytestmark = pytest.mark.kernels

PLACES = 40
STRETCHED = RopeScaling(kind="llama3", factor=8.0, original_positions=64)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def projected(tokens: int, heads: int, shared: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Views of one joined product, whose rows are longer than what is looked at."""
    sizes = [heads, shared, shared, 1]
    whole = draw(tokens, sum(sizes) * width).unflatten(1, (-1, width))
    q, k, v, _ = whole.split(sizes, 1)
    return q, k, v


def memory(shared: int, width: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    keys, values = torch.zeros(2, PLACES, shared, width, device=device)
    return keys, values


def mapped(
    call: Callable[[Tensor], Tensor], new: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = map(call, new)
    return q, k, v


def angles(tokens: int, width: int, scaling: RopeScaling | None) -> tuple[Tensor, Tensor]:
    frequencies, scale = rotations(10_000.0, width, scaling)
    turned = torch.arange(tokens).add(1000).float()[:, None] * frequencies
    return turned.cos() * scale, turned.sin() * scale


Weights = tuple[Tensor, Tensor, float] | None
Tables = tuple[Tensor, Tensor] | None


def by(
    call: Callable[..., tuple[Tensor, Tensor]],
    path: paths.Path,
    device: torch.device,
    new: tuple[Tensor, ...],
    norms: Weights,
    turns: Tables,
    stored: torch.dtype,
) -> list[Tensor]:
    """q, k and both pools; one token is nobody's (plain PyTorch has a row for it at the end)."""
    tokens, shared, width = new[1].shape
    places = torch.randperm(PLACES, generator=torch.Generator().manual_seed(tokens))[:tokens]
    places[tokens // 2] = PLACES if path == "torch" else -1
    pools = [torch.full((PLACES + 1, shared, width), 7.0, dtype=stored).to(device) for _ in "kv"]
    if norms is not None:
        norms = norms[0].to(device), norms[1].to(device), norms[2]
    if turns is not None:
        turns = turns[0].to(device), turns[1].to(device)
    rows = tuple(x.to(device) for x in new)
    with paths.only(path):
        q, k = call(rows, tuple(pools), places.to(device), norms, turns)
    return [x.cpu() for x in (q, k, *(pool[:PLACES] for pool in pools))]


@pytest.mark.parametrize("scaling", [None, STRETCHED])
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("heads", "shared", "width"), [(8, 2, 64), (10, 2, 80), (9, 9, 128)])
def test_it_is_norms_turns_and_append(triton_device, heads, shared, width, turned, normed, scaling):
    if scaling is not None and not turned:
        pytest.skip("nothing is turned")
    new = projected(5, heads, shared, width)
    norms = (1 + 0.1 * draw(width), 1 + 0.1 * draw(width, seed=1), 1e-6) if normed else None
    turns = angles(5, width, scaling) if turned else None
    given = triton_device, new, norms, turns, torch.float32
    got = by(prelude, "triton", *given)
    kernels, plain = (by(prelude_in_parts, path, *given) for path in ("triton", "torch"))
    for a, b, c in zip(got, kernels, plain, strict=True):
        torch.testing.assert_close(a, c, rtol=4e-6, atol=4e-6)
        torch.testing.assert_close(a, b, rtol=4e-6, atol=4e-6)
        assert normed or torch.equal(a, b)
    assert torch.equal(got[3], plain[3])


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("normed", [False, True])
def test_narrow_rows_round_where_the_plain_operations_do(triton_device, normed, stored):
    new = mapped(Tensor.bfloat16, projected(7, 6, 3, 64))
    norms = (1 + 0.1 * draw(64), 1 + 0.1 * draw(64, seed=1), 1e-5) if normed else None
    given = triton_device, new, norms, angles(7, 64, None), stored
    got, wanted = by(prelude, "triton", *given), by(prelude_in_parts, "triton", *given)
    for a, b in zip(got, wanted, strict=True):  # a sum's last bit may tip a rounding
        assert normed or torch.equal(a, b)
        assert (a != b).float().mean() < 0.01
        torch.testing.assert_close(a.float(), b.float(), rtol=2**-7, atol=1e-3)


def test_what_has_a_gradient_goes_through_the_parts():
    new = mapped(lambda x: x.detach().requires_grad_(), projected(3, 2, 1, 8))
    q, _ = prelude(new, memory(1, 8), torch.arange(3), (torch.ones(8), torch.ones(8), 1e-6))
    q.sum().backward()
    assert new[0].grad is not None


def test_a_part_of_a_head_that_turns_goes_through_the_parts(triton_device):
    new = mapped(lambda x: x.to(triton_device), projected(3, 2, 1, 8))
    cos, sin = (x.to(triton_device) for x in angles(3, 4, None))
    places = torch.arange(3, device=triton_device)
    with paths.recorded() as taken:
        q, _ = prelude(new, memory(1, 8, triton_device), places, None, (cos, sin))
    assert [(one.op, one.path) for one in taken if one.op == "prelude"] == [("prelude", "torch")]
    assert torch.equal(q[..., 4:], new[0][..., 4:])


def test_no_tokens_are_no_launch(triton_device):
    new = mapped(lambda x: x[:0].to(triton_device), projected(1, 2, 1, 8))
    places = torch.zeros(0, dtype=torch.int64, device=triton_device)
    norm = torch.ones(8, device=triton_device)
    with paths.only("triton"):
        q, k = prelude(new, memory(1, 8, triton_device), places, (norm, norm, 1e-6))
    assert q.shape == (0, 2, 8)
    assert k.shape == (0, 1, 8)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_norms_alone_are_learned_too():
    """Behind frozen projections: a kernel without a gradient would keep them as they are."""
    new = mapped(lambda x: x.cuda(), projected(3, 2, 1, 8))
    norm = torch.ones(8, device="cuda", requires_grad=True)
    places = torch.arange(3, device="cuda")
    q, k = prelude(new, memory(1, 8, "cuda"), places, (norm, norm, 1e-6))
    (q.square().sum() + k.square().sum()).backward()
    assert norm.grad is not None
