"""The kinds of mixers by their letter in a pattern."""

from cairn.model.attention import Attention
from cairn.model.feedforward import MLP
from cairn.model.mamba import Mamba2

MIXERS: dict[str, type[Mamba2] | type[Attention] | type[MLP]] = {
    "M": Mamba2,
    "*": Attention,
    "-": MLP,
}
