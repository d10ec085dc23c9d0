"""The memory of running sequences: two pools over the model's Cache, fitted to the machine."""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cairn.base import UserError
from cairn.engine.pages import PAGE
from cairn.model import Cache, ModelConfig
from cairn.model.cache import state_dtype
from cairn.ops.transfer import on_device, sent

log = logging.getLogger(__name__)

MOST_SLOTS = {"cpu": 16, "cuda": 256}
LEAST_CAPACITY = 256  # tokens; below this an automatic size is of no use to anybody
MEMORY_SHARE = {"cpu": 0.5, "cuda": 0.9}  # of what is free when the engine starts
KEPT_SHARE = 0.25  # of that, for states that are kept for later requests
MOST_KEPT = 4096  # states; more would make every look into the cache longer for little
SPARE = 2  # times the pages that full slots need: what lies fallow holds cached prefixes

HOST = torch.device("cpu")

Block = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Sizes:
    """What fits."""

    slots: int
    """Sequences that run at a time."""
    capacity: int
    """Tokens of a sequence, prompt and completion together."""
    pages: tuple[int, ...]
    """Pages of each group of attention layers."""
    states: int
    """Recurrent states that are kept for later requests."""
    state_dtype: torch.dtype = torch.float32


Kind = tuple[torch.dtype, tuple[int, ...]]


@dataclass(frozen=True)
class Form:
    """Dtypes and shapes of copies of a pool's memory."""

    pages: tuple[tuple[Kind, ...], ...]
    """For each group, those of the keys and of the values of one page [layers, PAGE, heads, width].
    """
    states: tuple[Kind, ...]
    """Those of each part of a recurrent state; empty where there is none."""


class Pool:
    """Pages of keys and values, and a recurrent state a slot (`cairn.engine.memory.Memory`)."""

    def __init__(
        self, config: ModelConfig, sizes: Sizes, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.sizes = sizes
        self.cache = Cache(
            config, sizes.slots, sizes.capacity, device, dtype, sizes.pages, sizes.state_dtype
        )
        self.recurrent = config.count("M") > 0
        self.tables: tuple[Tensor, ...] = ()
        """int32 [slots, n] for each group, on the device: `cache.tables` when last sent."""
        self._changed: list[dict[int, int]] = [{} for _ in self.cache.tables]

    @property
    def page_bytes(self) -> int:
        """Bytes of a page, of all groups together."""
        pools = (*self.cache.keys, *self.cache.values)
        return sum(x.nbytes // (x.shape[1] // PAGE) for x in pools if x.numel())

    @property
    def form(self) -> Form:
        """What copies of this memory look like."""
        pages = [
            tuple((x.dtype, (x.shape[0], *x.shape[2:])) for x in self._paged(group))
            for group in range(len(self.cache.keys))
        ]
        states = [(x.dtype, (x.shape[0], *x.shape[2:])) for x in self._states()]
        return Form(tuple(pages), tuple(states) if self.recurrent else ())

    def assign(self, slot: int, group: int, first: int, pages: list[int]) -> None:
        """The slot's pages `first` on are now `pages`."""
        table = self.cache.tables[group]
        table[slot, first : first + len(pages)] = pages
        if self.tables:
            at = slot * table.shape[1] + first
            self._changed[group].update(zip(range(at, at + len(pages)), pages, strict=True))

    def send_tables(self) -> None:
        """Bring `tables` up to date: all of them once, and then what was assigned since."""
        device = self.cache.device
        if not self.tables:
            own = [torch.from_numpy(table.astype("int32")) for table in self.cache.tables]
            self.tables = tuple(sent(table, device) for table in own)
            return
        for table, changed in zip(self.tables, self._changed, strict=True):
            if changed:
                where = on_device(list(changed), torch.int64, device)
                pages = on_device(list(changed.values()), torch.int32, device)
                table.view(-1).index_copy_(0, where, pages)
                changed.clear()

    def copy(self, group: int, sources: list[int], targets: list[int]) -> None:
        """Copy keys and values page by page."""
        source, target = self._index(sources), self._index(targets)
        for paged in self._paged(group):
            paged.index_copy_(1, target, paged.index_select(1, source))

    def scrub(self, group: int, pages: list[int]) -> None:
        """Fill pages with zeros."""
        if pages:
            for paged in self._paged(group):
                paged.index_fill_(1, self._index(pages), 0)

    def clear(self, slot: int) -> None:
        """The slot begins a new sequence."""
        for part in self._states():  # scales too: one that is no number makes none of zeros
            part[:, slot] = 0

    def save(self, slot: int) -> tuple[Tensor, ...]:
        """A copy of the slot's recurrent state, in the host's memory."""
        return tuple(pool[:, slot].to("cpu", copy=True) for pool in self._states())

    def restore(self, slot: int, copy: tuple[Tensor, ...]) -> None:
        """Put a copy back."""
        for pool, kept in zip(self._states(), copy, strict=True):
            pool[:, slot] = kept.to(pool.device)

    def hold(self, slots: list[int]) -> tuple[Tensor, ...]:
        """Copies of the states of some slots, on the device."""
        index = self._index(slots)
        return tuple(pool.index_select(1, index) for pool in self._states())

    def put_back(self, held: tuple[Tensor, ...], numbers: list[int], slots: list[int]) -> None:
        """Of what `hold` gave, the copies `numbers` go back into `slots`."""
        source, target = self._index(numbers), self._index(slots)
        for pool, kept in zip(self._states(), held, strict=True):
            pool.index_copy_(1, target, kept.index_select(1, source))

    def fetch(self, pages: list[list[int]]) -> Block:
        """A copy of keys and values [layers, n, PAGE, heads, width] of n pages of every group."""
        found = []
        for group, own in enumerate(pages):
            index = self._index(own)
            keys, values = (paged.index_select(1, index).cpu() for paged in self._paged(group))
            found.append((keys, values))
        return found

    def store(self, block: Block, pages: list[list[int]]) -> bool:
        """Put a copy back, into any pages."""
        for group, (own, copies) in enumerate(zip(pages, block, strict=True)):
            for paged, copy in zip(self._paged(group), copies, strict=True):
                paged.index_copy_(1, self._index(own), copy.to(paged.device))
        return True

    def _states(self) -> tuple[Tensor, ...]:
        pools = self.cache.window, self.cache.state
        return pools if self.cache.scales is None else (*pools, self.cache.scales)

    def _paged(self, group: int) -> tuple[Tensor, Tensor]:
        """Keys and values [layers, pages, PAGE, heads, width]."""
        keys, values = self.cache.keys[group], self.cache.values[group]
        return keys.unflatten(1, (-1, PAGE)), values.unflatten(1, (-1, PAGE))

    def _index(self, numbers: list[int]) -> Tensor:
        return on_device(numbers, torch.int64, self.cache.device)


def fit(
    config: ModelConfig,
    device: torch.device,
    dtype: torch.dtype,
    slots: int | None,
    capacity: int | None,
    memory: int | None = None,
    budget: int = 512,
    states: torch.dtype | None = None,
    keeps: bool = True,
    sharers: int = 1,
) -> Sizes:
    """What fits into `memory` bytes (None: a share of what is free), each pool by itself.

    A capacity that is None is the model's longest context, or less where not even one sequence of
    that fits; one that was asked for and does not fit is refused with the largest that does. Slots
    are as many as are asked for or useful and fit: fewer run at a time, and the rest waits, but
    nothing is refused. A forward adds at most `budget` tokens to a sequence. States that are kept
    for later requests (with `keeps`) lie in the host's memory, which is the device's on a CPU, and
    which `sharers` processes have together.
    """
    for field, value in (("slots", slots), ("capacity", capacity)):
        if value is not None and (isinstance(value, bool) or value < 1):
            raise UserError(field, value, "is less than 1", "leave it out to have it chosen")
    if memory is None:
        memory = int(free_memory(device) * MEMORY_SHARE[device.type])
    states = states or state_dtype(dtype)
    state = state_bytes(config, dtype, states)
    kept, room = 0, memory
    if state and keeps:
        host = memory if device.type == "cpu" else _host_memory() // sharers
        kept = min(MOST_KEPT, int(host * KEPT_SHARE) // state)
        room -= kept * state if device.type == "cpu" else 0
    page = _page_bytes(config, dtype)
    chosen = capacity or config.max_positions
    while state + sum(each := _least(config, chosen, budget, page)) > room:
        if capacity is not None or chosen // 2 < LEAST_CAPACITY:
            need = state + sum(each)
            raise UserError(
                "capacity",
                chosen,
                f"needs {need / 2**20:.1f} MiB for a sequence, and {room / 2**20:.1f} are free",
                "give less capacity",
            )
        chosen //= 2
    wanted = slots or MOST_SLOTS[device.type]
    fitting = wanted if state == 0 else min(wanted, _most(state, sum(each), room))
    if slots is not None and fitting < slots:
        log.warning("slots=%d: %d fit into the memory and run at a time", slots, fitting)
    room -= fitting * state
    pages = _share(config, chosen, budget, page, fitting, room)
    return Sizes(fitting, chosen, pages, kept, states)


def _most(state: int, pages: int, room: int) -> int:
    """Sequences whose states take half the room, or more where each has pages for all its capacity.

    `state` and `pages` are the bytes of one.
    """
    return max(1, (room - pages) // state // 2, room // (state + pages))


def state_bytes(config: ModelConfig, dtype: torch.dtype, states: torch.dtype) -> int:
    """Bytes that a sequence costs at any length, with recurrent states of a dtype."""
    rows = config.mamba_heads * config.mamba_head_dim
    state = rows * (config.state_size * states.itemsize + 4 * (states == torch.int8))
    window = config.conv_channels * (config.conv_kernel - 1) * dtype.itemsize
    return config.count("M") * (state + window)


def _page_bytes(config: ModelConfig, dtype: torch.dtype) -> list[int]:
    """Bytes of a page of each group, over all its layers."""
    windows = config.windows
    one = 2 * PAGE * config.key_value_width * dtype.itemsize
    return [windows.count(window) * one for window in dict.fromkeys(windows)]


def _pages_of(config: ModelConfig, capacity: int, budget: int) -> list[int]:
    """Pages that one sequence of `capacity` tokens needs in each group."""
    found = []
    for window in dict.fromkeys(config.windows):
        tokens = capacity if window is None else min(capacity, 2 * (window + budget))
        found.append(-(-tokens // PAGE) + 3)
    return found


def _least(config: ModelConfig, capacity: int, budget: int, page: list[int]) -> list[int]:
    return [n * size for n, size in zip(_pages_of(config, capacity, budget), page, strict=True)]


def _share(
    config: ModelConfig, capacity: int, budget: int, page: list[int], slots: int, room: int
) -> tuple[int, ...]:
    """Pages of each group: what full slots need and as much again, or their share of the room."""
    wanted = [SPARE * slots * n for n in _pages_of(config, capacity, budget)]
    total = sum(n * size for n, size in zip(wanted, page, strict=True))
    share = min(1.0, room / total) if total else 1.0
    least = _pages_of(config, capacity, budget)
    return tuple(max(few, int(n * share)) for n, few in zip(wanted, least, strict=True))


def _host_memory() -> int:
    return int(free_memory(HOST) * MEMORY_SHARE["cpu"])


def free_memory(device: torch.device) -> int:
    """Bytes that could be allocated on the device now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/meminfo has no MemAvailable: give slots and capacity")
