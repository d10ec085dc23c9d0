"""Between host and device without waiting: what is sent is pinned, what is fetched has an event."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def on_device(values: Sequence[Any], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor of the values; work that was queued on a GPU before is not waited for."""
    if device.type != "cuda":
        return torch.tensor(values, dtype=dtype, device=device)
    return sent(torch.tensor(values, dtype=dtype), device)


def sent(x: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device.

    A copy from memory that is not pinned would wait for all that was queued on the GPU before.
    """
    if x.device == device:
        return x
    if device.type != "cuda" or x.device.type != "cpu":
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True) if x.numel() else x.to(device)


class Fetched:
    """Tensors on their way to the host."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._event = None
        self._here = list(tensors)
        if tensors and tensors[0].device.type == "cuda":
            self._here = [
                torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True)
                for x in tensors
            ]
            self._event = torch.cuda.Event()
            self._event.record()

    def read(self) -> list[Tensor]:
        """The tensors in the host's memory; waits for them, and for nothing queued later."""
        if self._event is not None:
            self._event.synchronize()
        return self._here
