"""State-space duality scan in chunks: quadratic inside a chunk, a recurrence over chunks.

Mamba-2 (arXiv 2405.21060), section 6. One function for training, prefill and decode: carried
states go in, last states come out, and chunks shrink to the longest span.
Legend: K chunks, Q chunk size, G groups, R heads a group, H = G * R, P head width, N state size.
"""

import torch
from torch import Tensor

from cairn.ops.ragged import Chunks


def ssd_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    chunks: Chunks,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The scan y_t = C_t S_t + D x_t, S_t = exp(dt_t A) S_(t-1) + dt_t x_t B_t, in chunks.

    x [K, Q, H, P]; dt [K, Q, H] >= 0, and 0 in padding; A [H] < 0; B, C [K, Q, G, N]; D [H];
    state [S, H, P, N] (zeros where None), all fp32 or all fp64.
    Returns y [K, Q, H, P] and the last states [S, H, P, N].
    """
    K, Q, H, P = x.shape
    G, N = B.shape[2:]
    R = H // G
    decay = torch.cumsum(dt * A, dim=1).transpose(1, 2)  # [K, H, Q]
    xdt = (x * dt[..., None]).transpose(1, 2)  # [K, H, Q, P]
    b, c = B.transpose(1, 2), C.transpose(1, 2)  # [K, G, Q, N]
    # Rounding can leave later minus earlier above 0, and above the diagonal it is: clamp.
    difference = (decay[..., :, None] - decay[..., None, :]).clamp(max=0)
    lower = torch.ones(Q, Q, dtype=torch.bool, device=x.device).tril()
    within = torch.exp(difference).masked_fill(~lower, 0)
    scores = (c @ b.transpose(2, 3)).unsqueeze(2) * within.view(K, G, R, Q, Q)
    y = scores.view(K, H, Q, Q) @ xdt
    to_end = torch.exp((decay[..., -1:] - decay).clamp(max=0))  # [K, H, Q]
    weighted = (xdt * to_end[..., None]).view(K, G, R, Q, P).transpose(3, 4)
    added = weighted.reshape(K, G, R * P, Q) @ b  # [K, G, R * P, N]
    before, last = _recur(added.view(K, H, P, N), torch.exp(decay[..., -1]), chunks, state)
    carried = c @ before.view(K, G, R * P, N).transpose(2, 3)  # [K, G, Q, R * P]
    carried = carried.view(K, G, Q, R, P).transpose(2, 3).reshape(K, H, Q, P)
    y = y + carried * torch.exp(decay)[..., None]
    return y.transpose(1, 2) + D[:, None] * x, last


def _recur(
    added: Tensor, decay: Tensor, chunks: Chunks, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """States before each chunk [K, H, P, N] and after the last one of each span [S, H, P, N]."""
    if state is None:
        carry = added.new_zeros(chunks.spans, *added.shape[1:])
    else:
        carry = state if chunks.order is None else state.index_select(0, chunks.order)
    before, at = [], 0
    for active in chunks.steps:
        part = slice(at, at + active)
        before.append(carry[:active])
        moved = carry[:active] * decay[part, :, None, None] + added[part]
        carry = torch.cat([moved, carry[active:]]) if active < len(carry) else moved
        at += active
    last = carry if chunks.rank is None else carry.index_select(0, chunks.rank)
    return torch.cat(before), last
