"""Keys and values of new tokens into their places: one launch for both."""

# pyright: reportAttributeAccessIssue=false, reportMissingImports=false, reportIndexIssue=false

import triton
import triton.language as tl
from torch import Tensor


def append(pools: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor], places: Tensor) -> None:
    """`cairn.ops.append.append`; rows of `new` lie at any stride, their channels together."""
    keys, values = [x.flatten(1) if x.is_contiguous() else x.reshape(len(x), -1) for x in new]
    size, count = keys.shape[1], places.shape[0]
    if not count:
        return
    _append[count, 2](
        pools[0], pools[1], keys, values, places, keys.stride(0), values.stride(0),
        SIZE=size, BLOCK=1 << (size - 1).bit_length(), num_warps=4,
    )  # fmt: skip


@triton.jit
def _append(
    key_pool,
    value_pool,
    keys,
    values,
    places,
    key_row,
    value_row,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    place = tl.load(places + token)
    channel = tl.arange(0, BLOCK)
    inside = (channel < SIZE) & (place >= 0)
    if tl.program_id(1) == 0:
        x = tl.load(keys + token * key_row + channel, mask=inside, other=0)
        tl.store(key_pool + place * SIZE + channel, x.to(key_pool.dtype.element_ty), mask=inside)
    else:
        x = tl.load(values + token * value_row + channel, mask=inside, other=0)
        at = value_pool + place * SIZE + channel
        tl.store(at, x.to(value_pool.dtype.element_ty), mask=inside)
