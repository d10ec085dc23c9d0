"""Which rows of a memory pool the spans of one call use."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from cairn.ops.transfer import on_device


@dataclass(frozen=True)
class Slots:
    """The slot of every span, all different."""

    numbers: tuple[int, ...]
    """One a span."""
    device: torch.device
    """Where the pool is."""
    past: tuple[int, ...] | None = None
    """Tokens that each sequence has before this call; for narrow states, which are rounded at
    random: the draw is a function of the position."""

    @classmethod
    def of(
        cls,
        numbers: Sequence[int],
        device: torch.device | str,
        past: Sequence[int] | None = None,
    ) -> "Slots":
        """Slots of a pool on `device`."""
        own = None if past is None else tuple(past)
        return cls(tuple(numbers), torch.device(device), own)

    @classmethod
    def on_device(cls, index: Tensor, positions: Tensor | None) -> "Slots":
        """Slots that are known on the device alone: for operations that take `index`."""
        found = cls((), index.device)
        found.__dict__.update(index=index, positions=positions)  # where cached_property keeps them
        return found

    @cached_property
    def positions(self) -> Tensor | None:
        """int32 [S]: `past` on the device."""
        if self.past is None:
            return None
        return on_device(self.past, torch.int32, self.device)

    @cached_property
    def index(self) -> Tensor:
        """int64 [S]."""
        return on_device(self.numbers, torch.int64, self.device)

    @cached_property
    def rows(self) -> Tensor | slice:
        """Consecutive slots as a slice (a view, no copy), others as `index`."""
        first = self.numbers[0]
        if all(slot == first + i for i, slot in enumerate(self.numbers)):
            return slice(first, first + len(self.numbers))
        return self.index
