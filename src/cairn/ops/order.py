"""Sums in an order that does not depend on what else is in a call: slower, and the same in bits.

A library picks its product by how many rows there are, so that the last bits of a row depend on
its company. Inside `fixed_order`, every operation computes a row (a span, where a mixer looks along
one) as it would alone: products sum in one order for any number of rows, attention takes every
span by itself, and no layer goes through a call that is for few tokens only.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.nn import functional

ROWS = 16  # of one product on a CPU; what is missing is filled up

_fixed: ContextVar[bool] = ContextVar("fixed", default=False)


def order_is_fixed() -> bool:
    """Whether what runs now is inside `fixed_order`."""
    return _fixed.get()


@contextmanager
def fixed_order(on: bool = True) -> Iterator[None]:
    """Inside, a row's result does not depend on other rows."""
    token = _fixed.set(on)
    try:
        yield
    finally:
        _fixed.reset(token)


def ordered_product(
    x: Tensor, weight: Tensor, scales: Tensor | None = None, inverse: Tensor | None = None
) -> Tensor:
    """x [T, K] times the transpose of weight [O, K], times scales [T] and inverse [O]: [T, O].

    In x's dtype; on a GPU E4M3 gives bf16. A row is the same in bits in any company.
    """
    if x.device.type == "cuda" and x.dtype != torch.float64:
        from cairn.ops.triton.rows import product

        dtype = torch.bfloat16 if x.dtype == torch.float8_e4m3fn else x.dtype
        return product(x, weight, scales, inverse, dtype)
    if x.dtype == torch.float8_e4m3fn:
        x, weight = x.float(), weight.float()
    more = -len(x) % ROWS
    whole = functional.pad(x, (0, 0, 0, more)) if more else x
    parts = [functional.linear(part, weight) for part in whole.split(ROWS)]
    y = torch.cat(parts)[: len(x)] if parts else x.new_empty(0, len(weight))
    if scales is not None:
        y = y * scales[:, None]
    return y if inverse is None else y * inverse
