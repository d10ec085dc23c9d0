"""What devices can do at best: one table from their makers' data sheets. No torch.

Peak rates are dense (no structured sparsity), bf16 and fp16 with fp32 accumulation, in FLOP/s.
Sources, read by their tables of specifications (rates with sparsity halved):
A10G      NVIDIA A10G datasheet (AWS G5); tensor rates are those of that card, not of the A10
RTX 5090  NVIDIA RTX Blackwell GPU Architecture whitepaper, appendix A (fp32 accumulation)
A100      NVIDIA A100 Tensor Core GPU datasheet, 80 GB SXM
H100      NVIDIA H100 Tensor Core GPU datasheet, SXM5 80 GB
H200      NVIDIA H200 Tensor Core GPU datasheet, SXM
B200      NVIDIA DGX B200 datasheet: 1,440 GB, 64 TB/s, 72 PFLOPS sparse fp8 for eight
Links: NVLink (half of its two-way rate) or PCIe; the network of DGX systems has one adapter a GPU,
of 200 Gb/s (A100) or 400 Gb/s, else 100 Gb/s is assumed.
"""

import re
import time
from dataclasses import dataclass

from cairn.base.config import nearest
from cairn.base.errors import UserError

THIS_CPU = "this CPU"
COPIED_BYTES = 256 * 2**20  # out of any cache
SIDE = 1536  # of the measured matrix product


@dataclass(frozen=True)
class Device:
    """One device: bytes of memory, bytes a second, FLOP/s by the type of the factors."""

    name: str
    memory: float
    bandwidth: float
    rates: dict[str, float]
    measured: bool = False
    """Whether the rates were reached here rather than promised by the maker."""
    link: float = 0.0
    """Bytes a second, each way, between GPUs of one node."""
    network: float = 0.0
    """Bytes a second, each way, between a GPU and those of other nodes in the maker's systems."""

    def rate(self, dtype: str) -> float:
        """FLOP/s for a type, or for the next wider one that it has."""
        return next(self.rates[d] for d in (dtype, "bfloat16", "float32") if d in self.rates)


def _gpu(
    name: str,
    gigabytes: float,
    gigabytes_a_second: float,
    bf16: float,
    tf32: float,
    links: tuple[float, float],
    **more: float,
) -> Device:
    """Rates in TFLOP/s; links in GB/s each way: inside a node, and to others."""
    teras = {"bfloat16": bf16, "float16": bf16, "float32": tf32, **more}
    rates = {dtype: rate * 1e12 for dtype, rate in teras.items()}
    link, network = (rate * 1e9 for rate in links)
    return Device(
        name, gigabytes * 1e9, gigabytes_a_second * 1e9, rates, link=link, network=network
    )


DEVICES: dict[str, Device] = {
    device.name: device
    for device in (
        _gpu("A10G", 24, 600, 70, 35, (31.5, 12.5)),
        _gpu("RTX 5090", 32, 1792, 209.5, 104.8, (63, 12.5), float8=419, float4=1676),
        _gpu("A100", 80, 2039, 312, 156, (300, 25)),
        _gpu("H100", 80, 3350, 989.4, 494.7, (450, 50), float8=1978.9),
        _gpu("H200", 141, 4800, 989.4, 494.7, (450, 50), float8=1978.9),
        _gpu("B200", 180, 8000, 2250, 1125, (900, 50), float8=4500, float4=9000),
    )
}


def device(name: str) -> Device:
    """By name, whatever its case and spaces; `cpu` (or `this CPU`) is measured now.

    UserError for one that is not in the table.
    """
    plain = _plain(name)
    if plain in ("cpu", "thiscpu"):
        return measured_cpu()
    for known, found in DEVICES.items():
        if _plain(known) == plain:
            return found
    raise UserError("device", name, "is not known", nearest(name, [*DEVICES, "cpu"]))


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def measured_cpu() -> Device:
    """This machine's processor: the best of a few copies and matrix products, under a second."""
    import torch

    source, target = (torch.zeros(COPIED_BYTES // 4) for _ in range(2))
    moved = 2 * COPIED_BYTES / _best(lambda: target.copy_(source))
    rates = {name: measured_rate(name) for name in ("float32", "bfloat16")}
    return Device(THIS_CPU, _host_memory(), moved, rates, measured=True)


def measured_rate(dtype: str, device: str = "cpu") -> float:
    """FLOP/s of the best of a few square matrix products here."""
    import torch

    a = torch.ones(SIDE, SIDE, dtype=getattr(torch, dtype), device=device)

    def multiply() -> None:
        torch.mm(a, a)
        if device == "cuda":
            torch.cuda.synchronize()

    return 2 * SIDE**3 / _best(multiply)


def _best(run: object, rounds: int = 5) -> float:
    """Seconds of the fastest call; the first warms up, and ends a slow machine's rounds early."""
    times = []
    begun = time.perf_counter()
    for _ in range(1 + rounds):
        start = time.perf_counter()
        run()  # type: ignore[operator]
        times.append(time.perf_counter() - start)
        if time.perf_counter() - begun > 2:
            break
    return min(times[1:] or times)


def _host_memory() -> float:
    import os

    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
