"""Pools of several ranks, driven as one: what is done to the first rank's is told to the others.

Copies of memory stay where they were made: the first rank has its own part of a copy and a number
that stands for those of the others.
"""

import itertools
import weakref
from collections import deque
from dataclasses import dataclass
from typing import Any

import torch

from cairn.engine.pool import Pool, Sizes
from cairn.engine.team import Team
from cairn.model import ModelConfig


@dataclass(frozen=True)
class Ref:
    """A copy by its number, as it is told to others."""

    number: int


@dataclass(frozen=True, eq=False)
class Copy:
    """A copy of memory on all ranks; when it is forgotten here, the others forget it too."""

    number: int
    own: Any


class MirroredPool(Pool):
    """The first rank's pool; see `Pool`. What others do is told before they compute next."""

    def __init__(
        self,
        config: ModelConfig,
        sizes: Sizes,
        device: torch.device,
        dtype: torch.dtype,
        team: Team,
    ) -> None:
        super().__init__(config, sizes, device, dtype)
        self._team = team
        self._numbers = itertools.count()
        self._gone: deque[int] = deque()  # filled wherever garbage is collected

    def assign(self, slot: int, group: int, first: int, pages: list[int]) -> None:
        """See `Pool`."""
        self._tell("assign", slot, group, first, list(pages))
        super().assign(slot, group, first, pages)

    def copy(self, group: int, sources: list[int], targets: list[int]) -> None:
        """See `Pool`."""
        self._tell("copy", group, sources, targets)
        super().copy(group, sources, targets)

    def scrub(self, group: int, pages: list[int]) -> None:
        """See `Pool`."""
        if pages:
            self._tell("scrub", group, pages)
            super().scrub(group, pages)

    def clear(self, slot: int) -> None:
        """See `Pool`."""
        self._tell("clear", slot)
        super().clear(slot)

    def save(self, slot: int) -> Any:
        """A copy of the slot's recurrent state on every rank."""
        return self._copied(super().save(slot), "save", slot)

    def restore(self, slot: int, copy: Any) -> None:
        """See `Pool`."""
        self._tell("restore", slot, Ref(copy.number))
        super().restore(slot, copy.own)

    def hold(self, slots: list[int]) -> Any:
        """Copies of the states of some slots, on every rank's device."""
        return self._copied(super().hold(slots), "hold", slots)

    def put_back(self, held: Any, numbers: list[int], slots: list[int]) -> None:
        """See `Pool`."""
        self._tell("put_back", Ref(held.number), numbers, slots)
        super().put_back(held.own, numbers, slots)

    def fetch(self, pages: list[list[int]]) -> Any:
        """A copy of keys and values on every rank, of its heads."""
        return self._copied(super().fetch(pages), "fetch", pages)

    def store(self, block: Any, pages: list[list[int]]) -> bool:
        """See `Pool`."""
        self._tell("store", Ref(block.number), pages)
        return super().store(block.own, pages)

    def _copied(self, own: Any, method: str, *args: Any) -> Copy:
        copy = Copy(next(self._numbers), own)
        self._team.tell("pool", method, args, copy.number)
        weakref.finalize(copy, self._gone.append, copy.number)
        return copy

    def _tell(self, method: str, *args: Any) -> None:
        if self._gone:
            self._team.tell("forget", [self._gone.popleft() for _ in range(len(self._gone))])
        self._team.tell("pool", method, args, None)
