"""Spans: where documents or sequences begin and end in the flat list of tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from cairn.ops.context import Context


@dataclass(frozen=True)
class Spans:
    """S consecutive runs of the T tokens; nothing looks across a boundary. Runs may be empty.

    Raises ValueError for bounds that do not rise from 0, or slots that do not match.
    """

    bounds: Tensor
    """int [S + 1]: span s is tokens bounds[s] to bounds[s + 1]; begins with 0, ends with T."""
    slots: Tensor | None = None
    """int [S]: the cache slot that each span continues; None means slots 0 to S - 1."""
    context: "Context | None" = None
    """Where the tokens are a part of a list that lies on several ranks; None: they are all."""

    def __post_init__(self) -> None:
        bounds = self._host_bounds
        if len(bounds) < 2 or bounds[0] != 0 or any(n < 0 for n in self.lengths):
            raise ValueError(f"bounds={bounds}: must rise from 0, with one span or more")
        if self.slots is not None and len(self.slots) != len(bounds) - 1:
            raise ValueError(f"{len(self.slots)} slots for {len(bounds) - 1} spans: give one each")

    @classmethod
    def of(cls, lengths: Sequence[int], slots: Sequence[int] | None = None) -> "Spans":
        """Spans of these lengths, in order; kept on the host, where layouts are planned."""
        bounds = torch.zeros(len(lengths) + 1, dtype=torch.int64)
        torch.cumsum(torch.as_tensor(lengths, dtype=torch.int64), 0, out=bounds[1:])
        return cls(bounds, None if slots is None else torch.as_tensor(slots, dtype=torch.int64))

    @classmethod
    def part(cls, context: "Context") -> "Spans":
        """The spans of one rank's tokens of a list."""
        return replace(cls.of(context.lengths), context=context)

    @cached_property
    def _host_bounds(self) -> list[int]:
        return self.bounds.tolist()

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Tokens in each span."""
        bounds = self._host_bounds
        return tuple(b - a for a, b in pairwise(bounds))

    @cached_property
    def slot_numbers(self) -> tuple[int, ...]:
        """The slot of each span."""
        if self.slots is None:
            return tuple(range(len(self.lengths)))
        return tuple(self.slots.tolist())

    @property
    def tokens(self) -> int:
        """T."""
        return self._host_bounds[-1]
