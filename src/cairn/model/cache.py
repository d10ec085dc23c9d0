"""What a sequence remembers: keys and values of attention layers, states of Mamba-2 layers.

There are two pools, each with its own unit: keys and values in small pages, that a table maps to
the tokens of every slot, and one recurrent state a slot. Nothing is padded to the other's size.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from operator import add
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from cairn.model.config import ModelConfig
from cairn.model.paging import PAGE, PagePlan, Run
from cairn.ops.attention import Pages
from cairn.ops.memory import fresh
from cairn.ops.prelude import Norms, prelude

if TYPE_CHECKING:
    from cairn.model.steps import StepPages


@dataclass(frozen=True, eq=False)
class KeyValues:
    """Keys and values of one attention layer, [places, heads, width] each."""

    keys: Tensor
    values: Tensor
    group: int
    """Which of the cache's tables says where tokens are."""

    def enter(
        self,
        plan: "PagePlan | StepPages",
        new: tuple[Tensor, Tensor, Tensor],
        norms: Norms | None,
        turns: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, Tensor]:
        """Put keys and values of new tokens into their places: `cairn.ops.prelude.prelude`."""
        return prelude(new, (self.keys, self.values), plan.places(self.group), norms, turns)

    def read(
        self, plan: PagePlan, spans: tuple[int, ...], start: int, stop: int
    ) -> tuple[Tensor, Tensor]:
        """Tokens `start` to `stop` of some spans, [B, heads, stop - start, width] both."""
        where = plan.reads(self.group, spans, start, stop)
        end = 0 if not isinstance(where, Run) else where.first + where.apart * (where.count - 1)
        if isinstance(where, Run) and end + where.length <= len(self.keys):
            return self._view(self.keys, where), self._view(self.values, where)
        if isinstance(where, Run):  # a shorter sequence at the pool's end has nothing behind it
            where = plan.gathered(self.group, spans, start, stop)
        pages = (x.view(-1, PAGE, *x.shape[1:]) for x in (self.keys, self.values))
        found = [
            x.index_select(0, where.pages)
            .view(where.count, -1, *x.shape[2:])[:, where.start : where.start + where.length]
            .transpose(1, 2)
            for x in pages
        ]
        return found[0], found[1]

    def paged(self, plan: "PagePlan | StepPages") -> Pages:
        """The same for kernels that read pages in place."""
        keys, values, kept = self._in_pages
        return Pages(keys, values, plan.table(self.group), kept)

    @cached_property
    def _in_pages(self) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """[pages, heads, PAGE, width] both, and what is made of them: the same at every call."""
        keys, values = (
            x.view(-1, PAGE, *x.shape[1:]).transpose(1, 2) for x in (self.keys, self.values)
        )
        return keys, values, {}

    @staticmethod
    def _view(x: Tensor, run: Run) -> Tensor:
        _, heads, width = x.shape
        size = (run.count, heads, run.length, width)
        stride = (run.apart * heads * width, width, heads * width, 1)
        return x.as_strided(size, stride, x.storage_offset() + run.first * heads * width)


@dataclass(frozen=True, eq=False)
class Recurrence:
    """One Mamba-2 layer: inputs of the convolution [slots, W, C], states [slots, H, P, N]."""

    window: Tensor
    state: Tensor
    scales: Tensor | None = None
    """fp32 [slots, H, P], what int8 states are multiplied with; None for other dtypes."""


class Cache:
    """Memory for `slots` sequences of at most `capacity` tokens each; forward updates it.

    `pages` is how many pages each group of attention layers has, apart from page 0, which is
    nobody's and holds zeros; then `tables` are the caller's to fill. Without it every slot has
    pages of its own for all its capacity. `states` is the dtype of recurrent states: fp32 (None),
    or fp16 or int8, which are rounded at random.
    """

    def __init__(
        self,
        config: ModelConfig,
        slots: int,
        capacity: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        pages: Sequence[int] | None = None,
        states: torch.dtype | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.capacity = capacity
        self._config = config
        self.lengths = torch.zeros(slots, dtype=torch.int64)
        """int64 [slots], on the host: tokens that each slot holds."""
        self._counts = self.lengths.numpy().data  # the same, far sooner read than by torch
        self._known: Sequence[int] = ()  # slots that were found to be slots
        windows = config.windows
        self.windows = tuple(dict.fromkeys(windows))
        """How far the attention layers of each group look back; None is to the beginning."""
        each = -(-capacity // PAGE)
        if pages is None:
            own = np.arange(slots * each, dtype=np.int64).reshape(slots, each)
            self.tables = [own for _ in self.windows]
            pages = [slots * each] * len(self.windows)
        else:
            self.tables = [np.zeros((slots, each), np.int64) for _ in self.windows]
            pages = [count + 1 for count in pages]
        width = (config.key_value_heads, config.head_dim)
        self.keys, self.values = (
            [
                zeros((windows.count(window), count * PAGE, *width), dtype, self.device)
                for window, count in zip(self.windows, pages, strict=True)
            ]
            for _ in range(2)
        )
        """For each group, [layers, places, heads, width]."""
        layers = config.count("M")
        shape = (layers, slots, config.conv_kernel - 1, config.conv_channels)
        self.window = zeros(shape, dtype, self.device)
        """[layers, slots, W, C]."""
        shape = (layers, slots, config.mamba_heads, config.mamba_head_dim, config.state_size)
        self.state = zeros(shape, states or state_dtype(dtype), self.device)
        """[layers, slots, H, P, N]."""
        self.narrow = self.state.dtype in (torch.float16, torch.int8)
        self.scales = None
        if states == torch.int8:
            self.scales = zeros(shape[:-1], torch.float32, self.device)
        self.layers = self._layers(config, windows)

    def _layers(
        self, config: ModelConfig, windows: Sequence[int | None]
    ) -> list[KeyValues | Recurrence | None]:
        """What each layer of the pattern gets: views of the pools."""
        found: list[KeyValues | Recurrence | None] = []
        scales = [None] * len(self.state) if self.scales is None else self.scales
        states = zip(self.window, self.state, scales, strict=True)
        rest = [iter(zip(*pool, strict=True)) for pool in zip(self.keys, self.values, strict=True)]
        attention = iter(windows)
        for letter in config.pattern:
            if letter == "M":
                found.append(Recurrence(*next(states)))
            elif letter == "*":
                group = self.windows.index(next(attention))
                found.append(KeyValues(*next(rest[group]), group))
            else:
                found.append(None)
        return found

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
        where = rows if isinstance(rows, slice) else rows.to(self.device)
        self.window[:, where] = 0
        self.state[:, where] = 0
        if self.scales is not None:
            self.scales[:, where] = 0  # one that is no number makes none of a state of zeros

    def fits(self, config: ModelConfig) -> None:
        """ValueError where a model of `config` remembers in other shapes than these.

        Compiled code would write past their ends.
        """
        if self._config is not config and _form(self._config) != _form(config):
            raise ValueError("the cache is of a model with other layers or widths: make its own")

    def begin(self, slots: Sequence[int], lengths: Sequence[int]) -> list[int]:
        """Tokens that each slot holds; ValueError where a slot repeats or would overflow."""
        if slots != self._known:
            self._check(slots)
            self._known = tuple(slots)
        past = [self._counts[slot] for slot in slots]
        if max(map(add, past, lengths), default=0) > self.capacity:
            slot, old, new = next(
                one
                for one in zip(slots, past, lengths, strict=True)
                if sum(one[1:]) > self.capacity
            )
            raise ValueError(
                f"slot {slot} holds {old} tokens and {new} more come: "
                f"over its capacity of {self.capacity}"
            )
        return past

    def _check(self, slots: Sequence[int]) -> None:
        if len(set(slots)) != len(slots):
            raise ValueError(f"slots={list(slots)}: a slot is used twice in one call")
        if min(slots, default=0) < 0 or max(slots, default=0) >= self.slots:
            raise ValueError(f"slots={list(slots)}: the cache has {self.slots}")

    def hold(self, slots: Sequence[int], lengths: Sequence[int]) -> None:
        """Say how many tokens slots hold, where whoever fills them knows."""
        for slot, length in zip(slots, lengths, strict=True):
            self._counts[slot] = length

    def plan(self, slots: Sequence[int], past: Sequence[int], lengths: Sequence[int]) -> PagePlan:
        """Where a forward over these spans finds and leaves keys and values."""
        return PagePlan(self.tables, slots, past, lengths, self.device)

    def end(self, slots: Sequence[int], lengths: Sequence[int]) -> None:
        """Count the tokens that a forward added."""
        for slot, new in zip(slots, lengths, strict=True):
            self._counts[slot] += new


def _form(config: ModelConfig) -> tuple[object, ...]:
    """All that decides of what shape memories are."""
    attention = (*config.windows, config.key_value_heads, config.head_dim)
    states = (config.mamba_heads, config.mamba_head_dim, config.state_size)
    return config.pattern, attention, states, config.conv_kernel, config.conv_channels


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of recurrent states where none is asked for: fp32 at least.

    States accumulate: rounded to nearest in fewer bits, they stop moving.
    """
    return torch.promote_types(dtype, torch.float32)


def zeros(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros; on a CPU memory is only taken when it is first written, so that room costs nothing."""
    if device.type != "cpu" or not prod(shape):
        return torch.zeros(tuple(shape), dtype=dtype, device=device)
    return fresh(prod(shape) * dtype.itemsize).view(dtype).view(tuple(shape))
