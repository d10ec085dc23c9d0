"""Decoding laid out on the device alone: what a captured graph is replayed with.

One token in each of S rows, of which several may be of one sequence, in turn. Slots and positions
are tensors at fixed addresses, and all else (places in pages, tables, ends of keys, angles) is
computed from them on the device, once a step.
Legend: S rows, n pages.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from cairn.model.cache import Cache
from cairn.model.config import ModelConfig
from cairn.model.layout import Layout
from cairn.model.paging import PAGE
from cairn.model.positions import tables
from cairn.ops.attention import AttentionPlan
from cairn.ops.ragged import Chunks
from cairn.ops.slots import Slots


@dataclass(frozen=True)
class StepPages:
    """`PagePlan` for kernels: where new keys and values go, and where those before them are."""

    _places: tuple[Tensor, ...]
    _tables: tuple[Tensor, ...]

    def places(self, group: int) -> Tensor:
        """int64 [S]: where the new tokens go; -1 for rows that are nobody's."""
        return self._places[group]

    def table(self, group: int) -> Tensor:
        """int32 [S, n]: the pages of every sequence."""
        return self._tables[group]


class Step:
    """The inputs of one step: set them, then compute `layout` with what is on the device."""

    def __init__(self, rows: int, device: torch.device) -> None:
        self.tokens = torch.zeros(rows, dtype=torch.int64, device=device)
        self.given = torch.zeros(2, rows, dtype=torch.int64, device=device)
        """int64 [2, S]: slots, below 0 for a row that is nobody's, and tokens before this one."""
        self._first = torch.arange(rows + 1, dtype=torch.int32, device=device)
        self._tiles = torch.zeros(rows, 2, dtype=torch.int32, device=device)
        self._tiles[:, 0] = self._first[:-1]

    @property
    def rows(self) -> int:
        """S."""
        return len(self.tokens)

    def layout(
        self, config: ModelConfig, cache: Cache, pages: tuple[Tensor, ...], pieces: int
    ) -> Layout:
        """For sequences of at most `pieces` times PIECE tokens, the new one included.

        `pages` holds int32 [slots, n] for each group of layers: the page of every PAGE tokens.
        Nothing is read from the host, so the result may be computed inside a graph.
        """
        from cairn.ops.triton.attention import PIECE, Tables

        slots, positions = self.given
        ours, device = slots >= 0, slots.device
        rows = slots.clamp(min=0)
        shown = tuple(table[:, : pieces * PIECE // PAGE].index_select(0, rows) for table in pages)
        page, rest = positions // PAGE, positions % PAGE
        places = tuple(
            torch.where(
                ours,
                torch.add(rest, table.gather(1, page[:, None])[:, 0], alpha=PAGE),
                -1,
            )
            for table in shown
        )
        ends = (positions + 1).to(torch.int32)
        few = Tables(self._first, ends, self._tiles, self._tiles[:0], pieces, alone=True)
        kinds = dict.fromkeys(config.windows)
        chunks = None
        if "M" in config.pattern:
            chunks = Chunks.of((1,) * self.rows, config.chunk_size, config.conv_kernel - 1, device)
        past = positions.to(torch.int32) if cache.narrow else None
        return Layout(
            chunks=chunks,
            attention={w: AttentionPlan.of_tables(few, self.rows, device, w) for w in kinds},
            turns=tables(config, positions),
            slots=(),
            memory_slots=Slots.on_device(slots, past),
            pages=StepPages(places, shown),
        )
