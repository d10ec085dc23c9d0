"""What new tokens go through between attention's projections and attention.

Legend: T tokens, R rotated pairs of a head.
"""

from torch import Tensor

from cairn.ops import paths
from cairn.ops.append import append
from cairn.ops.gradient import recorded
from cairn.ops.norm import rms_norm
from cairn.ops.rotary import rotate

Norms = tuple[Tensor, Tensor, float]
"""Weights [width] of query and of key heads, and epsilon."""


def prelude(
    new: tuple[Tensor, Tensor, Tensor],
    pools: tuple[Tensor, Tensor],
    places: Tensor,
    norms: Norms | None = None,
    turns: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Queries and keys normed and turned; keys and values go into their places.

    `new` holds q [T, heads, width], k and v [T, key_value_heads, width], at any strides. `norms`
    are the weights [width] of the RMSNorm of every query head and of every key head, and its
    epsilon; `turns` cosines and sines fp32 [T, R] (`rotate`). Pools and places are those of
    `append`. Returns q and k, each rounded to its dtype after the norm and after the turn.

    It is `rms_norm`, `rotate` and `append`, which also serve what has a gradient; on a GPU one
    kernel takes their place. They round alike; only the order of the sum in a norm is the kernel's.
    """
    q, k, v = new
    if norms is None and turns is None:
        append(pools, (k, v), places)
        return q, k
    trained = recorded(q, k, v, *(norms[:2] if norms is not None else ()))
    whole = _in_halves(q, turns) and not trained
    triton = paths.for_kernel(q) if whole else None
    if paths.choose("prelude", q.device, native="in parts", triton=triton) == "triton":
        from cairn.ops.triton.prelude import prelude as kernel

        return kernel(new, pools, places, norms, turns)
    return prelude_in_parts(new, pools, places, norms, turns)


def prelude_in_parts(
    new: tuple[Tensor, Tensor, Tensor],
    pools: tuple[Tensor, Tensor],
    places: Tensor,
    norms: Norms | None = None,
    turns: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """`prelude`, operation by operation."""
    q, k, v = new
    if norms is not None:
        q, k = rms_norm(q, norms[0], norms[2]), rms_norm(k, norms[1], norms[2])
    if turns is not None:
        q, k = rotate(q, k, *turns)
    append(pools, (k, v), places)
    return q, k


def _in_halves(q: Tensor, turns: tuple[Tensor, Tensor] | None) -> bool:
    """Whether every channel has a partner half a head away, as the kernel reads them."""
    width = q.shape[-1]
    return width % 2 == 0 and (turns is None or 2 * turns[0].shape[-1] == width)
