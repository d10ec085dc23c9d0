"""Times of single operations, over the floor of what the device can move and compute.

What bench/kernels.py, rows.py and states.py measure with; run by itself it measures nothing.
"""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from cairn.ops import paths

Call = Callable[[], Any]
ROUNDS = 9


@dataclass
class Measured:
    """One operation: a call, what it must move and compute, and others that do the same."""

    op: str
    shape: str
    call: Call
    bytes: float = 0
    flops: float = 0
    peers: dict[str, Call] = field(default_factory=dict)
    graph: bool = True
    """Whether its launches are replayed as a graph, as decoding does."""


def report(one: Measured, device: str, rates: dict[str, Any]) -> None:
    """Measure and print."""
    with torch.no_grad() if one.graph else torch.enable_grad():
        seconds = timed(one.call, device, one.graph)
        peers = {}
        for name, call in one.peers.items():
            try:
                peers[name] = round(timed(call, device, one.graph) * 1e6, 1)
            except (RuntimeError, ImportError, TypeError) as error:
                peers[name] = str(error).splitlines()[0][:100]
    floor = max(one.bytes / rates["copy_bytes_per_s"], one.flops / rates["matmul_flops_per_s"])
    line = {
        "op": one.op,
        "shape": one.shape,
        "us": round(seconds * 1e6, 1),
        "floor_us": round(floor * 1e6, 1),
        "of_floor": round(floor / seconds, 3),
        "peers_us": peers,
    }
    print(json.dumps(line), flush=True)


def timed(call: Call, device: str, graph: bool) -> float:
    """Seconds of one call, the median of several rounds."""
    call()
    if device == "cpu":
        return statistics.median(_wall(call) for _ in range(ROUNDS))
    call()
    torch.cuda.synchronize()
    count = 4
    run: Call = lambda: [call() for _ in range(count)]  # noqa: E731
    if graph:
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            run()
        run = captured.replay
        run()
    spent = []
    for _ in range(ROUNDS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        spent.append(begin.elapsed_time(end) / count * 1e-3)
    return statistics.median(spent)


def _wall(call: Call) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def measure_rates(device: str) -> dict[str, Any]:
    """Bytes a second of a large copy (read and written), FLOPs a second of a large product."""
    gpu = device == "cuda"
    x = torch.randn(2**30 if gpu else 2**24, device=device)
    y = torch.empty_like(x)
    copy = timed(lambda: y.copy_(x), device, False)
    size, dtype = (8192, torch.bfloat16) if gpu else (1024, torch.float32)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    product = timed(lambda: a @ b, device, False)
    return {
        "device": torch.cuda.get_device_name() if gpu else "cpu",
        "torch": torch.__version__,
        "copy_bytes_per_s": 2 * x.numel() * 4 / copy,
        "matmul_flops_per_s": 2 * size**3 / product,
    }


def plain(call: Call) -> Call:
    """The same on the plain PyTorch path."""

    def forced() -> Any:
        with paths.only("torch"):
            return call()

    return forced


def inputs(device: str, *shape: int) -> Tensor:
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    return torch.randn(*shape, device=device, dtype=dtype)


def backward(outputs: Call, wanting: list[Tensor]) -> Call:
    """Gradients alone, of sums against a fixed gradient."""
    found = outputs()
    found = list(found) if isinstance(found, tuple) else [found]
    grads = [torch.randn_like(x) for x in found]
    return lambda: torch.autograd.grad(found, wanting, grads, retain_graph=True)
