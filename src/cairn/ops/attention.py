"""Ragged causal attention with grouped queries: spans of like lengths share a padded batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cairn.ops.ragged import Places

# Given the numbers of some spans and a length, their keys and values [B, heads, length, width].
ReadMemory = Callable[[tuple[int, ...], int], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Attends:
    """Spans that are computed together: padded queries [B, L] against `keys` keys each."""

    spans: tuple[int, ...]
    queries: int
    keys: int
    past: bool
    mask: Tensor | None
    """bool [B, 1, L, keys], or None where plain causality or nothing has to be masked."""


@dataclass(frozen=True)
class AttentionPlan:
    """How T queries in spans, each after a past in memory, are grouped and padded."""

    places: Places
    batches: tuple[Attends, ...]

    @classmethod
    def of(
        cls, lengths: Sequence[int], past: Sequence[int] | None, device: torch.device | str
    ) -> "AttentionPlan":
        """For spans of these lengths; `past` tokens of each are in memory (None: no memory)."""
        device = torch.device(device)
        length = np.asarray(lengths, np.int64)
        before = np.zeros_like(length) if past is None else np.asarray(past, np.int64)
        start = np.concatenate([[0], np.cumsum(length)[:-1]])
        batches, index, valid = [], [], []
        for spans in _alike(length, before):
            batch = _batch(spans, length, before, device)
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
    spans: np.ndarray, length: np.ndarray, before: np.ndarray, device: torch.device
) -> Attends:
    new, old = length[spans], before[spans]
    queries, keys, past = int(new.max()), int((new + old).max()), bool(old.any())
    mask = None
    if past and not (queries == 1 and (old == old[0]).all()):
        seen = old[:, None, None] + np.arange(queries)[:, None]
        mask = torch.from_numpy(np.arange(keys) <= seen).unsqueeze(1).to(device)
    return Attends(tuple(spans.tolist()), queries, keys, past, mask)


def attention(
    q: Tensor, k: Tensor, v: Tensor, plan: AttentionPlan, read: ReadMemory | None = None
) -> Tensor:
    """Softmax attention of every token to its span's past and to itself, scale 1/sqrt(width).

    q [T, heads, width]; k, v [T, key_value_heads, width], each shared by consecutive query heads.
    With `read`, keys and values (those of this call included) come from memory. Returns q's shape.
    """
    padded = [plan.places.pad(x) for x in ((q,) if read else (q, k, v))]
    out, at = [], 0
    for batch in plan.batches:
        count, shape = len(batch.spans), (len(batch.spans), batch.queries)
        parts = [x[at : at + count * batch.queries].unflatten(0, shape) for x in padded]
        heads = [x.transpose(1, 2) for x in parts]
        if read:
            heads += read(batch.spans, batch.keys)
        y = functional.scaled_dot_product_attention(
            heads[0],
            heads[1],
            heads[2],
            attn_mask=batch.mask,
            is_causal=batch.mask is None and not batch.past and batch.queries > 1,
            enable_gqa=heads[0].shape[1] != heads[1].shape[1],
        )
        out.append(y.transpose(1, 2).flatten(0, 1))
        at += count * batch.queries
    return plan.places.unpad(torch.cat(out) if len(out) > 1 else out[0])
