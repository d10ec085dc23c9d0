"""What a sequence remembers: keys and values of attention layers, states of Mamba-2 layers.

The decoder only calls the methods below, so that a paged pool can take the cache's place.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from cairn.model.config import ModelConfig


class KeyValues:
    """Keys and values of one attention layer, [slots, heads, capacity, width] each."""

    def __init__(self, config: ModelConfig, slots: int, capacity: int, **kind: object) -> None:
        shape = (slots, config.key_value_heads, capacity, config.head_dim)
        self.keys = torch.zeros(shape, **kind)  # type: ignore[arg-type]
        self.values = torch.zeros(shape, **kind)  # type: ignore[arg-type]

    def append(self, slots: Tensor, positions: Tensor, keys: Tensor, values: Tensor) -> None:
        """Put the keys and values [T, heads, width] of tokens at (slot [T], position [T])."""
        self.keys[slots, :, positions] = keys.detach().to(self.keys.dtype)
        self.values[slots, :, positions] = values.detach().to(self.values.dtype)

    def read(self, slots: Sequence[int], stop: int, start: int = 0) -> tuple[Tensor, Tensor]:
        """Keys and values at positions `start` to `stop`, [B, heads, stop - start, width] each."""
        rows = rows_of(slots, self.keys.device)
        keys, values = (x[:, :, start:stop] for x in (self.keys, self.values))
        if isinstance(rows, slice):
            return keys[rows], values[rows]
        return keys.index_select(0, rows), values.index_select(0, rows)


class Recurrence:
    """One Mamba-2 layer: inputs of the convolution [slots, W, C], states [slots, H, P, N]."""

    def __init__(self, config: ModelConfig, slots: int, **kind: object) -> None:
        window = (slots, config.conv_kernel - 1, config.conv_channels)
        state = (slots, config.mamba_heads, config.mamba_head_dim, config.state_size)
        self.window = torch.zeros(window, **kind)  # type: ignore[arg-type]
        kind = kind | {"dtype": state_dtype(self.window.dtype)}
        self.state = torch.zeros(state, **kind)  # type: ignore[arg-type]


class Cache:
    """Memory for `slots` sequences of at most `capacity` tokens each; forward updates it."""

    def __init__(
        self,
        config: ModelConfig,
        slots: int,
        capacity: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        kind = {"device": torch.device(device), "dtype": dtype}
        self.capacity = capacity
        self.lengths = torch.zeros(slots, dtype=torch.int64)
        """int64 [slots], on the host: tokens that each slot holds."""
        self.layers: list[KeyValues | Recurrence | None] = []
        for letter in config.pattern:
            if letter == "M":
                self.layers.append(Recurrence(config, slots, **kind))
            elif letter == "*":
                self.layers.append(KeyValues(config, slots, capacity, **kind))
            else:
                self.layers.append(None)

    @property
    def slots(self) -> int:
        """How many sequences fit."""
        return len(self.lengths)

    def reset(self, slots: Iterable[int] | Tensor | None = None) -> None:
        """Empty some slots, or all; what a slot held cannot be seen by the next sequence."""
        if slots is None:
            rows: Tensor | slice = slice(None)
        else:
            numbers = slots.tolist() if isinstance(slots, Tensor) else list(slots)
            rows = torch.tensor(numbers, dtype=torch.int64)
        self.lengths[rows] = 0
        for layer in self.layers:
            if isinstance(layer, Recurrence):
                where = rows if isinstance(rows, slice) else rows.to(layer.state.device)
                layer.window[where] = 0
                layer.state[where] = 0

    def begin(self, slots: Sequence[int], lengths: Sequence[int]) -> list[int]:
        """Tokens that each slot holds; ValueError where a slot repeats or would overflow."""
        if len(set(slots)) != len(slots):
            raise ValueError(f"slots={list(slots)}: a slot is used twice in one call")
        if min(slots, default=0) < 0 or max(slots, default=0) >= self.slots:
            raise ValueError(f"slots={list(slots)}: the cache has {self.slots}")
        past = self.lengths[list(slots)].tolist()
        for slot, old, new in zip(slots, past, lengths, strict=True):
            if old + new > self.capacity:
                raise ValueError(
                    f"slot {slot} holds {old} tokens and {new} more come: "
                    f"over its capacity of {self.capacity}"
                )
        return past

    def end(self, slots: Sequence[int], lengths: Sequence[int]) -> None:
        """Count the tokens that a forward added."""
        self.lengths[list(slots)] += torch.tensor(list(lengths), dtype=torch.int64)


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of recurrent states: fp32 at least, for bf16 states spoil long generations."""
    return torch.promote_types(dtype, torch.float32)


def rows_of(slots: Sequence[int], device: torch.device) -> Tensor | slice:
    """Consecutive slots as a slice (a view, no copy), others as an index."""
    first = slots[0]
    if all(slot == first + i for i, slot in enumerate(slots)):
        return slice(first, first + len(slots))
    return torch.tensor(list(slots), dtype=torch.int64, device=device)
