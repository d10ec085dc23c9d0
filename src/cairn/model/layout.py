"""How the tokens of one forward are laid out for the mixers; made once, used by every layer."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from cairn.model.cache import Cache
from cairn.model.config import ModelConfig
from cairn.model.paging import PagePlan
from cairn.model.positions import tables
from cairn.model.spans import Spans
from cairn.ops.attention import AttentionPlan
from cairn.ops.context import Context
from cairn.ops.ragged import Chunks
from cairn.ops.slots import Slots
from cairn.ops.transfer import sent

if TYPE_CHECKING:
    from cairn.model.steps import StepPages

Core = Callable[[tuple[Tensor, ...], "Layout", Any], Tensor]
"""What a mixer does between its matrices, where tokens of a span meet: from the parts [T, _] of
what the first gives, and the layer's memory, to [T, W], W as wide as the first part."""
Seam = Callable[[Core, tuple[Tensor, ...], Any], Tensor]
"""Takes a core, its parts and its memory, and gives where its [T, W] will be."""


@dataclass(frozen=True)
class Layout:
    """Chunks for the scans, padded batches for attention, places in the cache."""

    chunks: Chunks | None
    """None where no layer scans, or no spans are known."""
    attention: dict[int | None, AttentionPlan]
    """By the window of the layers that use it."""
    turns: tuple[Tensor, Tensor] | None
    """Cosines and sines fp32 [T, R] of rotary positions; None where there are none."""
    slots: tuple[int, ...]
    """The cache slot of every span."""
    memory_slots: Slots
    """The same, as rows of a layer's memory."""
    pages: "PagePlan | StepPages | None"
    """Where keys and values are; None without a cache."""
    context: Context | None = None
    """Where the tokens are a part of a list that lies on several ranks."""
    seam: Seam | None = None
    """Called in place of cores, by whoever computes these apart from the rest."""

    def through(self, core: Core, parts: tuple[Tensor, ...], memory: Any) -> Tensor:
        """[T, W]: what `core` makes of its parts, here or elsewhere."""
        if self.seam is not None:
            return self.seam(core, parts, memory)
        return core(parts, self, memory)

    @classmethod
    def of_no_spans(cls, device: torch.device, seam: Seam) -> "Layout":
        """For tokens of spans that nobody knows yet: `seam` gets the cores."""
        return cls(
            chunks=None,
            attention={},
            turns=None,
            slots=(),
            memory_slots=Slots.of((), device),
            pages=None,
            seam=seam,
        )

    @classmethod
    def of(
        cls, config: ModelConfig, spans: Spans, cache: Cache | None, device: torch.device
    ) -> "Layout":
        """For one forward over `spans`, continuing what `cache` holds."""
        lengths, slots = spans.lengths, spans.slot_numbers
        past = cache.begin(slots, lengths) if cache else None
        context = spans.context
        if context is not None:
            past = (context.before,) + (0,) * (len(lengths) - 1)
        length = np.asarray(lengths, np.int64)
        before = np.zeros_like(length) if past is None else np.asarray(past, np.int64)
        start = np.cumsum(length) - length
        positions = torch.from_numpy(np.arange(spans.tokens) - np.repeat(start - before, length))
        positions = sent(positions, device)
        pages = None
        if past is not None and cache is not None:
            pages = cache.plan(slots, past, lengths)
        chunks = None
        if "M" in config.pattern:
            chunks = Chunks.of(lengths, config.chunk_size, config.conv_kernel - 1, device)
        return cls(
            chunks=chunks,
            attention={
                window: AttentionPlan.of(
                    lengths, past, device, window, pages and partial(pages.split, group)
                )
                for group, window in enumerate(dict.fromkeys(config.windows))
            },
            turns=tables(config, positions),
            slots=slots,
            memory_slots=Slots.of(slots, device, past if cache and cache.narrow else None),
            pages=pages,
            context=context,
        )
