"""Rotary position embedding (arXiv 2104.09864), in the layout of two halves.

Legend: T tokens, R rotated pairs of a head.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cairn.ops import paths
from cairn.ops.gradient import once, run
from cairn.ops.native import rows


def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys turned by the angles of their tokens' positions.

    q [T, heads, width], k [T, key_value_heads, width]; cos, sin [T, R] in fp32 (fp64 for fp64),
    with 2 R <= width. Of each head, channel i < R makes a pair with channel R + i; channels from
    2 R on stay as they are. Computed in at least fp32, returned in the dtypes of q and k.
    Differentiable once, with respect to q and k.
    """
    why = rows.rotate_unfit(q, cos, sin) or rows.rotate_unfit(k, cos, sin)
    path = paths.choose("rotate", q.device, native=why, triton=paths.for_kernel(q))
    if path == "native":
        return rows.turned(q, cos, sin, 1), rows.turned(k, cos, sin, 1)
    if path == "triton":
        from cairn.ops.triton.activation import turn
    else:
        turn = _turn
    return run(_Rotary, q, cos, sin, turn), run(_Rotary, k, cos, sin, turn)


def _turn(x: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    """x [T, heads, width] turned by `sign` times the angles, in the dtype of x."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    cos, sin = (table.to(wide.dtype).unsqueeze(1) for table in (cos, sin))
    half = cos.shape[-1]
    first, second, rest = wide.split([half, half, x.shape[-1] - 2 * half], dim=-1)
    out = torch.empty_like(wide)
    torch.mul(first, cos, out=out[..., :half]).addcmul_(second, sin, value=-sign)
    torch.mul(second, cos, out=out[..., half : 2 * half]).addcmul_(first, sin, value=sign)
    out[..., 2 * half :] = rest
    return out.to(x.dtype)


class _Rotary(torch.autograd.Function):
    """A turn, and its gradient, which is the turn back; `turn` is the path's."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, turn: Callable[..., Tensor]
    ) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.turn = turn
        return turn(x, cos, sin, 1)

    @staticmethod
    @once
    def backward(ctx: Any, *grads: Tensor) -> Any:
        cos, sin = ctx.saved_tensors
        return ctx.turn(grads[0], cos, sin, -1), None, None, None
