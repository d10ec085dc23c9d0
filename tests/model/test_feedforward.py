"""Feed-forward layers over long texts: by blocks on a CPU, where nobody needs all at once."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from cairn.model.feedforward import BLOCK, MLP
from cairn.model.layout import Layout


@pytest.mark.parametrize("family", ["nemotron_h", "starcoder2", "qwen2"])
@torch.no_grad()
def test_blocks_give_what_the_whole_gives(family, tinies):
    mixer, nowhere = MLP(tinies[family]), Layout.__new__(Layout)
    mixer.initialise(torch.Generator().manual_seed(0))
    width = tinies[family].hidden_size
    x = torch.randn(2 * BLOCK + 5, width, generator=torch.Generator().manual_seed(1))
    calls: list[int] = []

    def count(module, given):
        calls.append(len(given[0]))

    blocks = mixer(x, nowhere, None)
    with mixer.down_proj.register_forward_pre_hook(count):
        whole = mixer(x, nowhere, None)
    assert calls == [len(x)]  # who listens hears of all tokens in one call
    torch.testing.assert_close(blocks, whole, atol=1e-6, rtol=1e-5)
    with torch.enable_grad():
        torch.testing.assert_close(mixer(x, nowhere, None), whole, atol=1e-6, rtol=1e-5)


class Counted(nn.Module):
    """A weight that is computed at every look, as `spectral_norm` steps at every one."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = 0

    def forward(self, weight):
        self.looks += 1
        return weight.clone()


@pytest.mark.parametrize("family", ["nemotron_h", "starcoder2", "qwen2"])
def test_a_call_looks_at_each_weight_once(family, tinies):
    mixer, nowhere = MLP(tinies[family]), Layout.__new__(Layout)
    mixer.initialise(torch.Generator().manual_seed(0))
    given = [one for one in (mixer.up_proj, mixer.gate_proj, mixer.down_proj) if one is not None]
    counts = [Counted() for _ in given]
    for one, count in zip(given, counts, strict=True):
        parametrize.register_parametrization(one, "weight", count)
        count.looks = 0
    mixer(torch.randn(3, tinies[family].hidden_size), nowhere, None)
    assert [count.looks for count in counts] == [1] * len(counts)
