"""Causal depthwise convolution over spans, with a carried window, then SiLU.

Legend: T tokens, C channels, W taps before the current one, K chunks, Q chunk size, S spans.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from cairn.ops import paths
from cairn.ops.gradient import once, run
from cairn.ops.ragged import Chunks
from cairn.ops.triton.tables import MOST_TAPS


def causal_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, chunks: Chunks, window: Tensor | None = None
) -> Tensor:
    """SiLU(conv(x)) over flat tokens; `chunks` tells where spans begin.

    x [T, C]; weight [C, 1, W + 1]; bias [C] (zeros where None); window [S, W, C] holds the inputs
    before each span (zeros where None; it has no gradient). Returns [T, C] in x's dtype;
    differentiable once.
    """
    if _path(x, weight.shape[2]) == "triton":
        from cairn.ops.triton import conv

        return conv.causal_conv(x, weight, bias, chunks.tables, window)
    with torch.autocast(x.device.type, enabled=False):
        weight = weight.to(x.dtype)
        bias = weight.new_zeros(len(weight)) if bias is None else bias.to(x.dtype)
        return chunks.places.unpad(run(_Conv, x, weight, bias, window, chunks).flatten(0, 1))


def _path(x: Tensor, taps: int) -> paths.Path:
    problem = f"a convolution of {taps} taps" if taps > MOST_TAPS else ""
    return paths.choose("causal_conv", x.device, triton=paths.for_kernel(x, problem))


def next_window(x: Tensor, chunks: Chunks, window: Tensor) -> Tensor:
    """The last W inputs of every span [S, W, C], to be carried on; x [T, C], window [S, W, C]."""
    if paths.choose("next_window", x.device, triton=paths.for_kernel(x)) == "triton":
        from cairn.ops.triton import conv

        return conv.next_window(x, chunks.tables, window)
    halo = chunks.halo
    tail = x.detach().index_select(0, halo.tail).to(window.dtype)
    old = window.flatten(0, 1).index_select(0, halo.tail_source)
    return tail.index_copy_(0, halo.tail_before, old).view_as(window)


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, window: Tensor | None, chunks: Chunks
    ) -> Tensor:
        halo = chunks.halo
        K, L = chunks.chunks, len(halo.index) // max(chunks.chunks, 1)  # L = W + Q
        rows = x.new_empty(_few(K) * L, x.shape[1])
        torch.index_select(x, 0, halo.index, out=rows[: K * L])
        rows[K * L :] = 0
        if window is None:
            rows.index_fill_(0, halo.before, 0)
        else:
            old = window.detach().to(x.dtype).flatten(0, 1).index_select(0, halo.before_source)
            rows.index_copy_(0, halo.before, old)
        rows = rows.view(-1, L, x.shape[1])
        before = _weighted(rows, weight, bias)[:K]
        ctx.chunks = chunks
        ctx.save_for_backward(rows, weight, before)
        return functional.silu(before)

    @staticmethod
    @once
    def backward(ctx: Any, *grads: Tensor) -> Any:
        rows, weight, before = ctx.saved_tensors
        halo, (K, Q, C) = ctx.chunks.halo, before.shape
        grad = before.new_empty(len(rows), Q, C)
        torch.ops.aten.silu_backward(grads[0], before, grad_input=grad[:K])
        grad[K:] = 0
        g_rows = torch.ops.aten.convolution_backward(
            _image(grad),
            _image(rows),
            weight.unsqueeze(2),
            None,
            [1, 1],
            [0, 0],
            [1, 1],
            False,
            [0, 0],
            C,
            [True, False, False],  # the weight's is below: for depthwise it is slow there
        )[0]
        g_rows = g_rows.squeeze(2).transpose(1, 2).reshape(-1, C)
        gx = g_rows.index_select(0, halo.token_row)
        gx.index_add_(0, halo.inside_token, g_rows.index_select(0, halo.inside))
        ones = grad.new_ones(1, len(rows) * Q)
        taps = [ones @ (grad * rows[:, k : k + Q]).view(-1, C) for k in range(weight.shape[2])]
        return gx, torch.stack(taps, 2).view_as(weight), grad.sum((0, 1)), None, None


def _few(K: int) -> int:
    """K or a little more, of 16 numbers between powers of two.

    The library compiles, and keeps, a convolution and a product for each number that it meets.
    """
    step = 1 << max(0, K.bit_length() - 5)
    return -(-K // step) * step


def _weighted(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The convolution [K, Q, C] of rows [K, W + Q, C]."""
    if rows.shape[1] == weight.shape[2]:  # one token a chunk: spare the convolution's set-up
        return ((rows * weight[:, 0].t()).sum(1) + bias).unsqueeze(1)
    image = functional.conv2d(_image(rows), weight.unsqueeze(2), bias, groups=len(bias))
    return image.squeeze(2).transpose(1, 2)


def _image(rows: Tensor) -> Tensor:
    """[K, L, C] as an image [K, C, 1, L] whose channels lie together: the fast depthwise case."""
    return rows.transpose(1, 2).unsqueeze(2)
