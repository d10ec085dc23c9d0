"""Rows times a weight matrix."""

from torch import Tensor
from torch.nn import functional

from cairn.ops import paths
from cairn.ops.native import operations as native
from cairn.ops.order import order_is_fixed, ordered_product


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., I] times the transpose of weight [O, I], plus bias [O]: [..., O].

    torch's product, but on the CPU for few rows, where it does not reach the memory's speed, and
    inside `order.fixed_order`.
    """
    if order_is_fixed():
        y = ordered_product(x.reshape(-1, x.shape[-1]), weight).view(*x.shape[:-1], -1)
        return y if bias is None else y + bias
    if paths.choose("linear", x.device, native=native.linear_unfit(x, weight)) == "native":
        y = native.linear(x, weight)
        return y if bias is None else y.add_(bias)
    return functional.linear(x, weight, bias)
