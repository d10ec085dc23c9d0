"""Where spans and their chunks begin in the flat tokens, on the device; made once per layout.

Needs no triton.

Legend: T tokens, S spans, K chunks, Q chunk size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cairn.ops.kept import kept
from cairn.ops.transfer import sent

MOST_TAPS = 4  # of a convolution, the current token's among them
CHUNK = 128  # tokens at most: a state is stored for every chunk
MOST_WIDTH = 128  # of a head: two tiles of 64
ALIGNED = 4  # int32 in 16 bytes


def fitting(P: int, N: int) -> tuple[int, int]:
    """The least head width from P and state size from N that the scan's kernels take."""
    return -(-P // 16) * 16, max(64, 1 << (N - 1).bit_length())


def scan_problem(dtype: torch.dtype, P: int, N: int) -> str:
    """Why the scan's kernels cannot serve tensors of this kind; empty where they can."""
    narrow = dtype == torch.bfloat16  # whose states before chunks are kept in bf16 too
    if P > MOST_WIDTH:
        return f"heads of {P}"
    most = 256 if narrow else 128
    return f"states of {N} for inputs in {dtype}" if most < N else ""


@dataclass(frozen=True)
class Tables:
    """Spans cut by themselves into chunks of Q tokens, so that nothing is padded between them."""

    chunk_size: int
    """Q, a power of two."""
    tokens: int
    """T."""
    spans: int
    """S."""
    chunks: int
    """K; the chunks of a span follow each other."""
    by_chunk: Tensor
    """int32 [2, K]: first token of each chunk, and how many it holds."""
    by_span: Tensor
    """int32 [4, S]: span, its first token, how many it holds, its first chunk; longest first."""
    bounds: Tensor
    """int32 [S + 1]: span s is tokens bounds[s] to bounds[s + 1]."""
    by_token: Tensor
    """int32 [2, T]: the position of each token in its span, and the span."""

    @classmethod
    def of(
        cls, lengths: Sequence[int], device: torch.device | str, chunk_size: int = CHUNK
    ) -> "Tables":
        """For spans of these lengths, 0 allowed."""
        return _tables(tuple(lengths), chunk_size, torch.device(device))


@kept(8)
def _tables(lengths: tuple[int, ...], Q: int, device: torch.device) -> Tables:
    length = np.asarray(lengths, np.int64)
    spans, tokens = len(length), int(length.sum())
    start = np.cumsum(length) - length
    counts = -(-length // Q)
    first = np.cumsum(counts) - counts
    span = np.repeat(np.arange(spans), counts)
    position = (np.arange(len(span)) - first[span]) * Q
    by_chunk = np.stack([start[span] + position, np.minimum(length[span] - position, Q)])
    order = np.argsort(-length, kind="stable")
    by_span = np.stack([order, start[order], length[order], first[order]])
    token_span = np.repeat(np.arange(spans), length)
    by_token = np.stack([np.arange(tokens) - start[token_span], token_span])
    bounds = np.concatenate([start, [tokens]])
    parts = [by_chunk, by_span, bounds, by_token]
    # Each begins at 16 bytes: Triton compiles a kernel anew for an address that does not.
    sizes = [-(-part.size // ALIGNED) * ALIGNED for part in parts]
    whole = np.zeros(sum(sizes), np.int32)
    for part, end, size in zip(parts, np.cumsum(sizes), sizes, strict=True):
        whole[end - size : end - size + part.size] = part.ravel()
    found = sent(torch.from_numpy(whole), device).split(sizes)
    chunk_rows, span_rows, bounds_row, token_rows = (
        row[: part.size].view(part.shape) for row, part in zip(found, parts, strict=True)
    )
    return Tables(
        chunk_size=Q,
        tokens=tokens,
        spans=spans,
        chunks=len(span),
        by_chunk=chunk_rows,
        by_span=span_rows,
        bounds=bounds_row,
        by_token=token_rows,
    )
