"""Definitions: every operation, one token at a time or by the textbook, in plain PyTorch.

Slow and plain on purpose: tests hold the fast ones against these. Ragged inputs come as flat
tokens and the lengths of their spans.
Legend: T tokens, S spans, H heads, P head width, G groups, N state size, C channels, W window.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def causal_conv(
    x: Tensor, weight: Tensor, bias: Tensor, lengths: Sequence[int], window: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """SiLU of a depthwise convolution over each span and the inputs before it.

    x [T, C]; weight [C, 1, W + 1]; bias [C]; window [S, W, C] (zeros where None).
    Returns [T, C] and the next window [S, W, C].
    """
    taps = weight.shape[-1]
    if window is None:
        window = x.new_zeros(len(lengths), taps - 1, x.shape[1])
    out, windows = [], []
    for span, before in zip(x.split(list(lengths)), window, strict=True):
        seen = torch.cat([before, span])
        for t in range(len(span)):
            y = bias + (seen[t : t + taps] * weight[:, 0].t()).sum(0)
            out.append(y * torch.sigmoid(y))
        windows.append(seen[len(seen) - taps + 1 :])
    return torch.stack(out), torch.stack(windows)


def ssd_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    lengths: Sequence[int],
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The recurrence of Mamba-2 (arXiv 2405.21060, section 2), token by token.

    x [T, H, P]; dt [T, H]; A, D [H]; B, C [T, G, N]; state [S, H, P, N] (zeros where None).
    Returns y [T, H, P] and the last states [S, H, P, N].
    """
    H, P = x.shape[1:]
    share = H // B.shape[1]
    if state is None:
        state = x.new_zeros(len(lengths), H, P, B.shape[2])
    out, last, t = [], [], 0
    for span, length in enumerate(lengths):
        S = state[span]
        for _ in range(length):
            b, c = (m[t].repeat_interleave(share, 0)[:, None] for m in (B, C))  # [H, 1, N]
            S = torch.exp(dt[t] * A)[:, None, None] * S + (dt[t, :, None] * x[t])[..., None] * b
            out.append((S * c).sum(-1) + D[:, None] * x[t])
            t += 1
        last.append(S)
    return torch.stack(out), torch.stack(last)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension."""
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * weight


def gated_rms_norm(x: Tensor, gate: Tensor, weight: Tensor, groups: int, eps: float) -> Tensor:
    """RMSNorm of x * SiLU(gate) in each of `groups` slices of the last dimension."""
    gated = x * gate * torch.sigmoid(gate)
    parts = zip(gated.chunk(groups, -1), weight.chunk(groups), strict=True)
    return torch.cat([rms_norm(part, w, eps) for part, w in parts], -1)


def mamba_inner(
    z: Tensor,
    xbc: Tensor,
    dt: Tensor,
    weights: Sequence[Tensor],
    groups: int,
    norm_groups: int,
    eps: float,
    dt_limits: tuple[float, float],
    lengths: Sequence[int],
    window: Tensor | None = None,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """A Mamba-2 mixer between its two matrices (arXiv 2405.21060, section 7).

    z [T, H * P]; xbc [T, H * P + 2 * G * N]; dt [T, H]; weights as `ops.mamba.MixerWeights` has
    them. Returns [T, H * P], the next window [S, W, C] and the last states [S, H, P, N].
    """
    taps, bias, A_log, D, dt_bias, norm = weights
    mixed, window = causal_conv(xbc, taps, bias, lengths, window)
    inner, heads = z.shape[1], dt.shape[1]
    per_group = (xbc.shape[1] - inner) // 2
    x, B, C = mixed.split([inner, per_group, per_group], -1)
    y, state = ssd_scan(
        x.unflatten(1, (heads, -1)),
        torch.log1p(torch.exp(dt + dt_bias)).clamp(*dt_limits),
        -torch.exp(A_log),
        B.unflatten(1, (groups, -1)),
        C.unflatten(1, (groups, -1)),
        D,
        lengths,
        state,
    )
    return gated_rms_norm(y.flatten(1), z, norm, norm_groups, eps), window, state


def squared_relu(x: Tensor) -> Tensor:
    """max(x, 0) squared."""
    return torch.where(x > 0, x * x, torch.zeros_like(x))


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last dimension."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt((centred * centred).mean(-1, keepdim=True) + eps) * weight + bias


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU by its tanh approximation."""
    return x / 2 * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """SiLU(gate) * up."""
    return gate * torch.sigmoid(gate) * up


def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs (i, R + i) of each head as complex numbers, times exp(i angle).

    q [T, heads, width], k [T, key_value_heads, width]; cos, sin [T, R]; 2 R <= width.
    """
    R = cos.shape[-1]
    turned = []
    for x in (q, k):
        pairs = torch.complex(x[..., :R], x[..., R : 2 * R]) * torch.complex(cos, sin)[:, None]
        turned.append(torch.cat([pairs.real, pairs.imag, x[..., 2 * R :]], -1))
    return turned[0], turned[1]


def attention(
    q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int], window: int | None = None
) -> Tensor:
    """Causal softmax attention inside each span, token by token.

    q [T, heads, width]; k, v [T, key_value_heads, width]. A token sees itself and, of those before
    it in its span, all or the last `window - 1`. Returns q's shape.
    """
    share = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(share, 1), v.repeat_interleave(share, 1)
    out, start = [], 0
    for length in lengths:
        for t in range(start, start + length):
            first = start if window is None else max(start, t + 1 - window)
            scores = (k[first : t + 1] * q[t]).sum(-1) / q.shape[-1] ** 0.5  # [past, heads]
            out.append((scores.softmax(0)[..., None] * v[first : t + 1]).sum(0))
        start += length
    return torch.stack(out)


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor
) -> Tensor:
    """Weighted sum of -log softmax(hidden @ weight.T)[target]."""
    log_p = (hidden @ weight.t()).log_softmax(-1)
    return -(log_p.gather(1, targets[:, None])[:, 0] * weights).sum()


def linear_kl(
    hidden: Tensor,
    weight: Tensor,
    teacher_hidden: Tensor,
    teacher_weight: Tensor,
    weights: Tensor,
    temperature: float = 1.0,
) -> Tensor:
    """Weighted sum of sum_v p (log p - log q), p the teacher's softmax, q the student's."""
    log_q = (hidden @ weight.t() / temperature).log_softmax(-1)
    log_p = (teacher_hidden @ teacher_weight.t() / temperature).log_softmax(-1)
    return ((log_p.exp() * (log_p - log_q)).sum(-1) * weights).sum()
