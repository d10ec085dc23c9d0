"""The compiled scan and its gradients against the plain path in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cairn.ops import paths
from cairn.ops.native.library import native
from cairn.ops.ragged import Chunks
from cairn.ops.scan import ssd_scan

pytestmark = [
    pytest.mark.kernels,
    pytest.mark.skipif(bool(native().missing), reason=native().missing or "compiled"),
]

LENGTHS = st.lists(st.sampled_from([0, 1, 2, 17, 63, 64, 65, 129]), min_size=1, max_size=4)
SIZES = [(4, 64, 2, 128), (2, 80, 1, 128), (4, 3, 4, 2), (6, 17, 2, 5), (4, 16, 1, 33)]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def leaves(T: int, spans: int, sizes: tuple[int, ...], carried: bool) -> list[Tensor]:
    H, P, G, N = sizes
    found = [draw(T, H * P + 2 * G * N), draw(T, H, seed=1).abs(), -draw(H).abs(), draw(H, seed=2)]
    return [*found, draw(spans, H, P, N)] if carried else found


def scanned(
    given: list[Tensor], sizes: tuple[int, ...], lengths: list[int], path: paths.Path, last: bool
) -> list[Tensor]:
    """Outputs, last states and gradients; x, B and C are parts of the rows of one tensor."""
    H, P, G, N = sizes
    given = [t.clone().requires_grad_() for t in given]
    x, B, C = given[0].split([H * P, G * N, G * N], -1)
    shaped = x.unflatten(1, (H, P)), B.unflatten(1, (G, N)), C.unflatten(1, (G, N))
    chunks = Chunks.of(lengths, 32, 3, "cpu")
    with paths.only(path):
        y, states = ssd_scan(
            shaped[0], given[1], given[2], *shaped[1:], given[3], chunks, *given[4:]
        )
    loss = (y * draw(*y.shape).to(y)).sum()
    if last:
        loss = loss + (states * draw(*states.shape, seed=3).to(y)).sum()
    return [y.detach(), states.detach(), *torch.autograd.grad(loss, given)]


@settings(max_examples=40, deadline=None)
@given(
    lengths=LENGTHS.filter(any),
    sizes=st.sampled_from(SIZES),
    carried=st.booleans(),
    last=st.booleans(),
    threads=st.sampled_from([1, 2, 3]),
)
def test_the_scan_and_its_gradients_are_their_twins(lengths, sizes, carried, last, threads):
    given = leaves(sum(lengths), len(lengths), sizes, carried)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        got = scanned(given, sizes, lengths, "native", last)
    finally:
        torch.set_num_threads(before)
    plain = scanned(given, sizes, lengths, "torch", last)
    near(got, plain, scanned([t.double() for t in given], sizes, lengths, "torch", last))


def near(got: list[Tensor], plain: list[Tensor], exact: list[Tensor]) -> None:
    """Within 1e-5, or as near as the plain path in the same dtype.

    A's gradient, the fifth, is a sum over tokens of sums over tokens, which cancel: 5e-5.
    """
    for i, (one, other, truth) in enumerate(zip(got, plain, exact, strict=True)):
        assert one.isfinite().all()
        error, bound = (other - truth).abs().max(), 5e-5 if i == 4 else 1e-5
        assert (one - truth).abs().max() <= bound * truth.abs().max().clamp(min=1) + 4 * error


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_large_decays_stay_finite_and_exact(scale):
    sizes, lengths = SIZES[0], [200]
    given = leaves(200, 1, sizes, False)
    given[2] = given[2] * scale
    got = scanned(given, sizes, lengths, "native", True)
    plain = scanned(given, sizes, lengths, "torch", True)
    near(got, plain, scanned([t.double() for t in given], sizes, lengths, "torch", True))


def test_nan_stays_in_its_span():
    sizes, lengths = SIZES[3], [70, 3, 70]
    given = leaves(sum(lengths), 3, sizes, False)
    clean = scanned(given, sizes, lengths, "native", True)
    given[0][71] = torch.nan
    y, states, packed, *_ = scanned(given, sizes, lengths, "native", True)
    for got, was in ((y, clean[0]), (packed, clean[2])):
        assert torch.equal(got[:70], was[:70])
        assert torch.equal(got[73:], was[73:])
    assert states[1].isnan().any()
    assert torch.equal(states[::2], clean[1][::2])


def test_training_is_the_same_twice():
    given, lengths = leaves(300, 2, SIZES[0], False), [100, 200]
    first, second = (scanned(given, SIZES[0], lengths, "native", False) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
