"""Metrics of a run: metrics.jsonl, the same to TensorBoard where it is installed, and rates.

`mfu` is model FLOPs (`counts.training_flops`) by the time of the step and the rate of matrix
products: the maker's dense peak of a GPU that is in the table of devices, else what a product of
1,536 x 1,536 matrices reaches here.
"""

import importlib.util
import resource
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from cairn.base import Metrics
from cairn.model import ModelConfig, counts
from cairn.model.devices import DEVICES, measured_rate

TENSORBOARD = "tensorboard"  # the folder inside an artifact, and the package
_DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


class Recorder:
    """Writes a step's row with `tokens_per_second`, `mfu` and `memory_bytes` (the peak so far).

    `devices` share the work of a step.
    """

    def __init__(
        self,
        out: Path,
        config: ModelConfig,
        sequence_length: int,
        device: torch.device,
        precision: str,
        devices: int = 1,
    ) -> None:
        self._metrics = Metrics(out / "metrics.jsonl")
        self._folder, self._device = out / TENSORBOARD, device
        self._flops = counts.training_flops(config, sequence_length)
        self._rate = peak_rate(device, precision) * devices
        self._board: Any = None

    def begin(self, step: int) -> None:
        """Drop the rows after `step`, which a resumed run will write again."""
        self._metrics.truncate_after(step)
        if importlib.util.find_spec(TENSORBOARD):
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self._folder), purge_step=step + 1)

    def write(self, row: dict[str, Any], tokens: int, seconds: float) -> None:
        """One step of so many tokens."""
        rate = tokens / max(seconds, 1e-9)
        row = row | {
            "seconds": round(seconds, 4),
            "tokens_per_second": round(rate, 1),
            "mfu": round(rate * self._flops / self._rate, 4),
            "memory_bytes": peak_memory(self._device),
        }
        self._metrics.write(**row)
        if self._board is not None:
            for key, value in row.items():
                if key != "step" and isinstance(value, int | float):
                    self._board.add_scalar(key, value, row["step"])

    def close(self) -> None:
        """Flush what TensorBoard has not written yet."""
        if self._board is not None:
            self._board.close()


@lru_cache
def peak_rate(device: torch.device, precision: str) -> float:
    """FLOP/s of matrix products that `mfu` is measured by; fp8 recipes are measured by bf16."""
    dtype = _DTYPES.get(precision, "bfloat16")
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for known in DEVICES.values():
            if known.name in name:
                return known.rate(dtype)
    return measured_rate(dtype, device.type)


def peak_memory(device: torch.device) -> int:
    """Most bytes so far: of a GPU's tensors, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
