"""The memory of running sequences: slots over the model's Cache, fitted to the machine."""

from pathlib import Path

import torch
from torch import Tensor

from cairn.base import UserError
from cairn.model import Cache, KeyValues, ModelConfig

MOST_SLOTS = {"cpu": 16, "cuda": 256}
LEAST_CAPACITY = 256  # tokens; below this an automatic size is of no use to anybody
FIRST_CAPACITY = 512  # tokens; what the slots hold before a longer sequence comes
MEMORY_SHARE = {"cpu": 0.5, "cuda": 0.9}  # of what is free when the engine starts


class Pool:
    """A number of slots, each with room for one sequence of up to `capacity` tokens.

    The cache begins small and doubles when a longer sequence comes, up to `capacity`, so that
    a long context costs nothing before it is used.
    """

    def __init__(
        self,
        config: ModelConfig,
        slots: int,
        capacity: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.slots, self.capacity = slots, capacity
        self.cache = Cache(config, slots, min(capacity, FIRST_CAPACITY), device, dtype)

    def open(self, slots: list[int]) -> None:
        """Forget what the slots remember: they begin a new sequence."""
        if slots:
            self.cache.reset(slots)

    def reserve(self, length: int) -> None:
        """See that every slot holds `length` tokens, at most `capacity`."""
        assert length <= self.capacity
        room = self.cache.capacity
        if length <= room:
            return
        while room < length:
            room *= 2
        self.cache.capacity = min(room, self.capacity)
        for layer in self.cache.layers:
            if isinstance(layer, KeyValues):
                layer.keys = _longer(layer.keys, self.cache.capacity)
                layer.values = _longer(layer.values, self.cache.capacity)


def _longer(memory: Tensor, capacity: int) -> Tensor:
    """[slots, heads, room, width] to [slots, heads, capacity, width]; what is there stays."""
    return torch.nn.functional.pad(memory, (0, 0, 0, capacity - memory.shape[2]))


def fit(
    config: ModelConfig,
    device: torch.device,
    dtype: torch.dtype,
    slots: int | None,
    capacity: int | None,
    memory: int | None = None,
) -> tuple[int, int]:
    """Slots and capacity (tokens) that fit into `memory` bytes (None: a share of what is free).

    What is None is chosen: the model's longest context and as many slots as are useful, then
    fewer slots, then a shorter context, until it fits. Raises UserError for sizes that were
    asked for and do not fit, with the largest that do.
    """
    for field, value in (("slots", slots), ("capacity", capacity)):
        if value is not None and (isinstance(value, bool) or value < 1):
            raise UserError(field, value, "is less than 1", "leave it out to have it chosen")
    if memory is None:
        memory = int(free_memory(device) * MEMORY_SHARE[device.type])
    chosen = capacity or config.max_positions
    while True:
        most = memory // slot_bytes(config, chosen, dtype)
        if most >= (slots or 1):
            return slots or min(most, MOST_SLOTS[device.type]), chosen
        if capacity is not None or chosen // 2 < LEAST_CAPACITY:
            needed = slot_bytes(config, chosen, dtype) * (slots or 1)
            raise UserError(
                f"{slots or 1} slots of {chosen} tokens need {needed / 2**20:.0f} MiB and "
                f"{memory / 2**20:.0f} MiB are free for them: give fewer slots or less capacity"
            )
        chosen //= 2


def slot_bytes(config: ModelConfig, capacity: int, dtype: torch.dtype) -> int:
    """Bytes that one slot of `capacity` tokens takes, at least 1."""
    per_token = config.kv_bytes_per_token(dtype.itemsize)
    return max(1, capacity * per_token + config.state_bytes_per_sequence(dtype.itemsize))


def free_memory(device: torch.device) -> int:
    """Bytes that could be allocated on the device now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/meminfo has no MemAvailable: give slots and capacity")
