"""What a Mamba-2 mixer does between its matrices, against its definition."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cairn.ops import reference
from cairn.ops.mamba import MixerForm, MixerWeights, mamba_inner
from cairn.ops.ragged import Chunks
from cairn.ops.slots import Slots

pytestmark = pytest.mark.kernels


@dataclass
class Memory:
    window: Tensor
    state: Tensor


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def mixer(H: int, P: int, G: int, N: int, W: int) -> MixerWeights:
    C = H * P + 2 * G * N
    return MixerWeights(
        draw(C, 1, W + 1), draw(C), draw(H), draw(H, seed=1), draw(H, seed=2), draw(H * P)
    )


@settings(max_examples=20, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=4).filter(any),
    slots=st.permutations(range(6)),
    norm_groups=st.sampled_from([1, 2]),
    limits=st.sampled_from([None, (0.2, 1.0)]),
)
def test_mamba_inner_is_its_definition(lengths, slots, norm_groups, limits):
    H, P, G, N, W, T = 4, 3, 2, 2, 3, sum(lengths)
    weights = mixer(H, P, G, N, W)
    memory = Memory(draw(6, W, H * P + 2 * G * N, seed=7), draw(6, H, P, N, seed=8))
    used = list(slots[: len(lengths)])
    z, xbc, dt = draw(T, H * P), draw(T, H * P + 2 * G * N), draw(T, H)
    windows = memory.window.clone()
    expected, windows[used], state = reference.mamba_inner(
        z, xbc, dt, weights, G, norm_groups, 1e-5, limits or (0, torch.inf), lengths,
        memory.window[used], memory.state[used],
    )  # fmt: skip
    form = MixerForm(G, norm_groups, 1e-5, limits)
    chunks = Chunks.of(lengths, 4, W, "cpu")
    got = mamba_inner(z, xbc, dt, weights, form, chunks, memory, Slots.of(used, "cpu"))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(memory.state[used], state, rtol=0, atol=1e-12)
    torch.testing.assert_close(memory.window, windows, rtol=0, atol=0)


def test_a_mixer_without_memory_or_bias_starts_from_nothing():
    H, P, G, N, W, lengths = 4, 3, 2, 2, 3, [5, 0, 2]
    weights = mixer(H, P, G, N, W)
    z, xbc, dt = draw(7, H * P), draw(7, H * P + 2 * G * N), draw(7, H)
    plain = weights._replace(conv_bias=torch.zeros_like(weights.conv[:, 0, 0]))
    expected, _, _ = reference.mamba_inner(z, xbc, dt, plain, G, G, 1e-5, (0, torch.inf), lengths)
    bare = weights._replace(conv_bias=None)
    got = mamba_inner(z, xbc, dt, bare, MixerForm(G, G, 1e-5), Chunks.of(lengths, 4, W, "cpu"))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
