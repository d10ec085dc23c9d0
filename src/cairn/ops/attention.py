"""Ragged causal attention with grouped queries: spans of like lengths share a padded batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cairn.ops.ragged import Places

# Given the numbers of some spans, the keys and values at positions `start` to `stop` of each,
# [B, heads, stop - start, width] both.
ReadMemory = Callable[[tuple[int, ...], int, int], tuple[Tensor, Tensor]]

LEAST_BLOCK = 128  # queries that share a slice of the keys, where a window makes slices


@dataclass(frozen=True)
class Block:
    """Queries `rows` of a batch against the keys at positions `start` to `stop`."""

    rows: slice
    start: int
    stop: int
    mask: Tensor | None
    """bool [B or 1, 1, rows, stop - start], or None where `causal` says all."""
    causal: bool
    """Whether row i sees keys 0 to i of the block; else, without a mask, it sees all."""


@dataclass(frozen=True)
class Attends:
    """Spans that are computed together: padded queries [B, L] in blocks."""

    spans: tuple[int, ...]
    queries: int
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class AttentionPlan:
    """How T queries in spans, each after a past in memory, are grouped and padded."""

    places: Places
    batches: tuple[Attends, ...]
    window: int | None
    """Keys that a query sees at most, its own included; None is all before it."""
    lengths: tuple[int, ...]
    """New tokens of each span."""
    past: tuple[int, ...] | None
    """Tokens of each span that are in memory already; None where there is no memory."""

    @classmethod
    def of(
        cls,
        lengths: Sequence[int],
        past: Sequence[int] | None,
        device: torch.device | str,
        window: int | None = None,
    ) -> "AttentionPlan":
        """For spans of these lengths; `past` tokens of each are in memory (None: no memory)."""
        device = torch.device(device)
        length = np.asarray(lengths, np.int64)
        before = np.zeros_like(length) if past is None else np.asarray(past, np.int64)
        start = np.concatenate([[0], np.cumsum(length)[:-1]])
        batches, index, valid = [], [], []
        for spans in _alike(length, before):
            batch = _batch(spans, length, before, window, device)
            position = np.arange(batch.queries)
            here = length[spans][:, None]
            index.append((start[spans][:, None] + np.minimum(position, here - 1)).ravel())
            valid.append((position < here).ravel())
            batches.append(batch)
        return cls(
            places=Places.of(
                np.concatenate(index), np.concatenate(valid), int(length.sum()), device
            ),
            batches=tuple(batches),
            window=window,
            lengths=tuple(lengths),
            past=None if past is None else tuple(past),
        )


def _alike(length: np.ndarray, before: np.ndarray) -> list[np.ndarray]:
    """Numbers of the spans that are not empty, grouped so that padding stays below half."""
    found: dict[tuple[int, int, bool], list[int]] = {}
    for span, (new, old) in enumerate(zip(length.tolist(), before.tolist(), strict=True)):
        if new:
            key = ((new - 1).bit_length(), (new + old - 1).bit_length(), old > 0)
            found.setdefault(key, []).append(span)
    return [np.asarray(spans, np.int64) for spans in found.values()]


def _batch(
    spans: np.ndarray,
    length: np.ndarray,
    before: np.ndarray,
    window: int | None,
    device: torch.device,
) -> Attends:
    new, old = length[spans], before[spans]
    queries, keys = int(new.max()), int((new + old).max())
    size = queries if window is None else max(window, LEAST_BLOCK)
    rows = [slice(at, min(at + size, queries)) for at in range(0, queries, size)]
    blocks = tuple(_block(part, old, keys, window, device) for part in rows)
    return Attends(tuple(spans.tolist()), queries, blocks)


def _block(
    rows: slice, old: np.ndarray, keys: int, window: int | None, device: torch.device
) -> Block:
    """`rows` of queries after `old` [B] tokens each, where `keys` keys are there at most."""
    least, most = int(old.min()), int(old.max())
    start = 0 if window is None else max(0, least + rows.start - window + 1)
    stop = min(most + rows.stop, keys)
    if most == 0 and rows.start == 0 and (window is None or rows.stop <= window):
        return Block(rows, start, stop, None, causal=rows.stop > 1)
    if rows.stop - rows.start == 1 and least == most:
        return Block(rows, start, stop, None, causal=False)
    if least == most:
        old = old[:1]
    # Rows that are padding lie beyond the last key; they see it, so that no softmax is empty.
    seen = np.minimum(old[:, None, None] + np.arange(rows.start, rows.stop)[:, None], stop - 1)
    key = np.arange(start, stop)
    mask = key <= seen
    if window is not None:
        mask &= key > seen - window
    return Block(rows, start, stop, torch.from_numpy(mask).unsqueeze(1).to(device), causal=False)


def attention(
    q: Tensor, k: Tensor, v: Tensor, plan: AttentionPlan, read: ReadMemory | None = None
) -> Tensor:
    """Softmax attention of every token to its span's past and to itself, scale 1/sqrt(width).

    q [T, heads, width]; k, v [T, key_value_heads, width], each shared by consecutive query heads.
    With a window in `plan`, a token sees itself and the `window - 1` tokens before it.
    With `read`, keys and values (those of this call included) come from memory. Returns q's shape.
    """
    padded = [plan.places.pad(x) for x in ((q,) if read else (q, k, v))]
    out, at = [], 0
    for batch in plan.batches:
        count, shape = len(batch.spans), (len(batch.spans), batch.queries)
        parts = [x[at : at + count * batch.queries].unflatten(0, shape) for x in padded]
        heads = [x.transpose(1, 2) for x in parts]
        blocks = []
        for block in batch.blocks:
            if read:
                keys, values = read(batch.spans, block.start, block.stop)
            else:
                keys, values = (x[:, :, block.start : block.stop] for x in heads[1:])
            y = functional.scaled_dot_product_attention(
                heads[0][:, :, block.rows],
                keys,
                values,
                attn_mask=block.mask,
                is_causal=block.causal,
                enable_gqa=q.shape[1] != keys.shape[1],
            )
            blocks.append(y.transpose(1, 2))
        whole = torch.cat(blocks, 1) if len(blocks) > 1 else blocks[0]
        out.append(whole.flatten(0, 1))
        at += count * batch.queries
    return plan.places.unpad(torch.cat(out) if len(out) > 1 else out[0])
