"""Where the keys and values of one forward lie in pages: made once, used by every layer.

Legend: T tokens, B sequences that are read together, P pages of one of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from cairn.ops.transfer import sent

PAGE = 16  # tokens


@dataclass(frozen=True)
class Run:
    """Tokens of B sequences that lie evenly in memory: they can be read through a view."""

    first: int
    """Place of the first token of the first sequence."""
    apart: int
    """Places from one sequence to the next."""
    count: int
    """B."""
    length: int
    """Tokens of each."""


@dataclass(frozen=True)
class Gather:
    """Tokens of B sequences that lie in scattered pages."""

    pages: Tensor
    """int64 [B * P]."""
    count: int
    """B."""
    start: int
    """Tokens of the first page that are not wanted."""
    length: int
    """Tokens of each that are."""


class PagePlan:
    """For one forward over spans that continue `slots` after `past` tokens each.

    `tables` are int64 [slots, pages] arrays, one a group of layers: the page of every PAGE tokens.
    """

    def __init__(
        self,
        tables: Sequence[np.ndarray],
        slots: Sequence[int],
        past: Sequence[int],
        lengths: Sequence[int],
        device: torch.device,
    ) -> None:
        self._tables, self._device = tables, device
        self._slots = np.asarray(slots, np.int64)
        self._past = np.asarray(past, np.int64)
        self._lengths = np.asarray(lengths, np.int64)
        self._places: dict[int, Tensor] = {}
        self._rows: dict[int, Tensor] = {}
        self._reads: dict[tuple[int, tuple[int, ...], int, int], Run | Gather] = {}

    def places(self, group: int) -> Tensor:
        """int64 [T]: where the new tokens go."""
        found = self._places.get(group)
        if found is None:
            slots = np.repeat(self._slots, self._lengths)
            start = np.cumsum(self._lengths) - self._lengths
            place = np.arange(len(slots)) - np.repeat(start - self._past, self._lengths)
            pages = self._tables[group][slots, place // PAGE]
            found = sent(torch.from_numpy(pages * PAGE + place % PAGE), self._device)
            self._places[group] = found
        return found

    def raw(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, Sequence[np.ndarray]]:
        """int64 arrays: bounds [S + 1], slots and pasts [S] of the spans; pages [slots, n] each."""
        return self._bounds, self._slots, self._past, self._tables

    @cached_property
    def _bounds(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self._lengths)]).astype(np.int64)

    def table(self, group: int) -> Tensor:
        """int32 [S, n]: the pages of every span, the new tokens' included."""
        found = self._rows.get(group)
        if found is None:
            longest = int((self._past + self._lengths).max(initial=1))
            rows = self._tables[group][self._slots, : -(-longest // PAGE)]
            found = sent(torch.from_numpy(rows.astype(np.int32)), self._device)
            self._rows[group] = found
        return found

    def reads(self, group: int, spans: tuple[int, ...], start: int, stop: int) -> Run | Gather:
        """Where tokens `start` to `stop` of some spans are; what a shorter span lacks is finite."""
        key = (group, spans, start, stop)
        found = self._reads.get(key)
        if found is None:
            found = self._reads[key] = self._find(group, np.asarray(spans), start, stop)
        return found

    def gathered(self, group: int, spans: tuple[int, ...], start: int, stop: int) -> Gather:
        """The same tokens page by page, for where a view does not reach."""
        pages, _ = self._pages(group, np.asarray(spans), start, stop)
        return self._gather(pages, start, stop)

    def split(self, group: int, spans: np.ndarray, stop: int) -> list[np.ndarray]:
        """Spans of one batch as batches that are best read together.

        On a CPU sequences whose pages are consecutive are read one by one through views, where
        that saves copying all that they remember; elsewhere one call is worth the copy.
        """
        if self._device.type != "cpu" or len(spans) == 1:
            return [spans]
        pages, whole = self._pages(group, spans, 0, stop)
        if whole.all() and _even(pages[:, 0]):
            return [spans]
        alone = [spans[i : i + 1] for i in np.flatnonzero(whole)]
        rest = spans[~whole]
        return [*alone, rest] if len(rest) else alone

    def _find(self, group: int, spans: np.ndarray, start: int, stop: int) -> Run | Gather:
        pages, whole = self._pages(group, spans, start, stop)
        count, skip = len(spans), start % PAGE
        if whole.all() and _even(pages[:, 0]):
            apart = int(pages[1, 0] - pages[0, 0]) * PAGE if count > 1 else 0
            return Run(int(pages[0, 0]) * PAGE + skip, apart, count, stop - start)
        return self._gather(pages, start, stop)

    def _gather(self, pages: np.ndarray, start: int, stop: int) -> Gather:
        index = torch.from_numpy(np.ascontiguousarray(pages).ravel()).to(self._device)
        return Gather(index, len(pages), start % PAGE, stop - start)

    def _pages(
        self, group: int, spans: np.ndarray, start: int, stop: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pages [B, P] of tokens `start` to `stop`, and whether each one's own are consecutive."""
        table, first = self._tables[group], start // PAGE
        pages = table[self._slots[spans], first : -(-stop // PAGE)]
        ends = -(-(self._past[spans] + self._lengths[spans]) // PAGE) - first
        column = np.arange(pages.shape[1])
        follows = (pages == pages[:, :1] + column) | (column >= ends[:, None])
        return pages, follows.all(1)


def _even(firsts: np.ndarray) -> bool:
    """Whether first pages rise in equal steps, in which a view can go."""
    if len(firsts) == 1:
        return True
    steps = np.diff(firsts)
    return bool(steps[0] >= 0 and (steps == steps[0]).all())
