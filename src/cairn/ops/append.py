"""New keys and values into the places of a pool."""

import torch
from torch import Tensor

from cairn.ops import paths


def append(pools: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor], places: Tensor) -> None:
    """Put keys and values `new` [T, heads, width] into the rows `places` of `pools`, in place.

    pools [places, heads, width], of any dtype; places int64 [T], all different. On a GPU a place
    below 0 is nowhere, so that a captured graph may have rows that are nobody's.
    """
    device = pools[0].device
    if paths.choose("append", device, triton=paths.for_kernel(new[0])) == "triton":
        from cairn.ops.triton.append import append as kernel

        kernel(pools, new, places)
        return
    for pool, rows in zip(pools, new, strict=True):
        pool.index_copy_(0, places, rows.detach().to(pool.dtype))


def append_defined(
    pools: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor], places: Tensor
) -> None:
    """What `append` does on a GPU, row by row."""
    for row, place in enumerate(places.tolist()):
        if place >= 0:
            for pool, rows in zip(pools, new, strict=True):
                pool[place] = rows[row].to(torch.float64).to(pool.dtype)
