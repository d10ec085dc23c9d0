"""Causal depthwise convolution over spans, with a carried window, then SiLU."""

import torch
from torch import Tensor
from torch.nn import functional

from cairn.ops.ragged import Chunks


def causal_conv(
    x: Tensor, weight: Tensor, bias: Tensor, chunks: Chunks, window: Tensor | None = None
) -> Tensor:
    """SiLU(conv(x)), already laid out in chunks for the scan.

    x [T, C]; weight [C, 1, W + 1]; bias [C]; window [S, W, C] holds the inputs before each span
    (zeros where None). Returns [K, Q, C].
    """
    taps = weight.shape[-1]
    rows = x.index_select(0, chunks.halo.index)
    if window is None:
        rows = rows.index_fill(0, chunks.halo.before, 0)
    else:
        old = window.to(x.dtype).flatten(0, 1).index_select(0, chunks.halo.before_source)
        rows = rows.index_copy(0, chunks.halo.before, old)
    rows = rows.view(chunks.chunks, taps - 1 + chunks.size, -1)
    y = bias + rows[:, : chunks.size] * weight[:, 0, 0]
    for k in range(1, taps):
        y = torch.addcmul(y, rows[:, k : k + chunks.size], weight[:, 0, k])
    return functional.silu(y)


def next_window(x: Tensor, chunks: Chunks, window: Tensor) -> Tensor:
    """The last W inputs of every span [S, W, C], to be carried on; x [T, C], window [S, W, C]."""
    halo = chunks.halo
    tail = x.detach().index_select(0, halo.tail).to(window.dtype)
    old = window.flatten(0, 1).index_select(0, halo.tail_source)
    return tail.index_copy_(0, halo.tail_before, old).view_as(window)
