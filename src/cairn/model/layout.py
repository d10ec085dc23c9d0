"""How the tokens of one forward are laid out for the mixers; made once, used by every layer."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cairn.model.cache import Cache
from cairn.model.config import ModelConfig
from cairn.model.spans import Spans
from cairn.ops.attention import AttentionPlan
from cairn.ops.ragged import Chunks
from cairn.ops.slots import Slots


@dataclass(frozen=True)
class Layout:
    """Chunks for the scans, padded batches for attention, places in the cache."""

    chunks: Chunks
    attention: AttentionPlan
    slots: tuple[int, ...]
    """The cache slot of every span."""
    memory_slots: Slots
    """The same, as rows of a layer's memory."""
    token_slots: Tensor
    """int64 [T]: the slot of every token."""
    token_positions: Tensor
    """int64 [T]: how many tokens come before it in its sequence."""

    @classmethod
    def of(
        cls, config: ModelConfig, spans: Spans, cache: Cache | None, device: torch.device
    ) -> "Layout":
        """For one forward over `spans`, continuing what `cache` holds."""
        lengths, slots = spans.lengths, spans.slot_numbers
        past = cache.begin(slots, lengths) if cache else None
        token_slots, positions = np.empty(0, np.int64), np.empty(0, np.int64)
        if past is not None:
            length = np.asarray(lengths)
            token_slots = np.repeat(np.asarray(slots, np.int64), length)
            start = np.cumsum(length) - length
            positions = np.arange(spans.tokens) - np.repeat(start - np.asarray(past), length)
        return cls(
            chunks=Chunks.of(lengths, config.chunk_size, config.conv_kernel - 1, device),
            attention=AttentionPlan.of(lengths, past, device),
            slots=slots,
            memory_slots=Slots.of(slots, device),
            token_slots=torch.from_numpy(token_slots).to(device),
            token_positions=torch.from_numpy(positions).to(device),
        )
