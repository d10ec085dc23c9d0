"""Rows times a weight matrix."""

from torch import Tensor
from torch.nn import functional

from cairn.ops import paths
from cairn.ops.native import operations as native


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., I] times the transpose of weight [O, I], plus bias [O]: [..., O].

    torch's product, but on the CPU for few rows, where it does not reach the memory's speed.
    """
    if paths.choose("linear", x.device, native=native.linear_unfit(x, weight)) == "native":
        y = native.linear(x, weight)
        return y if bias is None else y.add_(bias)
    return functional.linear(x, weight, bias)
