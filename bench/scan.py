"""The SSD scan on an NVIDIA GPU: time over its floor, and beside mamba-ssm in the same run.

Prints one JSON line a measurement. The floor is the larger of the fewest bytes over the device's
copy rate and the fewest operations over its rate of matrix products, both measured in this run.
Errors are relative norms against the same scan of the same bf16 inputs in fp64, on a part of them;
`twin` is the plain PyTorch path with every product in bf16.

    python bench/scan.py [--mamba-ssm FOLDER] [--tokens 8192 65536] [--shapes 8b nano] [--check]
    python bench/scan.py --prefill

FOLDER holds the package `mamba_ssm` (its sources are enough: only Triton files are imported).
"""

import argparse
import importlib.util
import json
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor

from cairn.model import Spans
from cairn.model.decoder import empty
from cairn.model.presets import preset
from cairn.ops import paths
from cairn.ops.ragged import Chunks
from cairn.ops.scan import ssd_scan as plain_scan
from cairn.ops.triton.scan import ssd_scan
from cairn.ops.triton.tables import Tables

CHUNK = 128
PEER_CHUNKS = (128, 256)  # mamba-ssm's is a free choice: the faster one counts


@dataclass(frozen=True)
class Shape:
    """Heads, head width, groups and state size of one mixer."""

    H: int
    P: int
    G: int
    N: int


SHAPES = {"8b": Shape(128, 64, 8, 128), "nano": Shape(128, 80, 8, 128)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mamba-ssm", type=Path)
    parser.add_argument("--tokens", type=int, nargs="+", default=[8192, 65536])
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--check", action="store_true", help="errors too")
    parser.add_argument("--prefill", action="store_true", help="of an 8B hybrid, and only that")
    arguments = parser.parse_args()
    if arguments.prefill:
        return tell(what="prefill", **prefill(65_536))
    peer = peer_scan(arguments.mamba_ssm) if arguments.mamba_ssm else None
    rates = device_rates()
    tell(what="device", name=torch.cuda.get_device_name(), torch=torch.__version__, **rates)
    for name in arguments.shapes:
        for tokens in arguments.tokens:
            for line in measure(SHAPES[name], tokens, rates, peer):
                tell(shape=name, tokens=tokens, **line)
        if arguments.check:
            for backward in (False, True):
                tell(shape=name, what="error", **errors(SHAPES[name], backward))


def prefill(tokens: int) -> dict[str, float]:
    """One sequence through preset nemotron-h-8b with random bf16 weights, without a cache."""
    config, rates = preset("nemotron-h-8b"), device_rates()
    model = empty(config, "cuda", torch.bfloat16)
    generator = torch.Generator("cuda").manual_seed(0)  # drawn on the host it takes minutes
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("A_log"):
                parameter.uniform_(0, 2.7, generator=generator)
            elif name.endswith("dt_bias"):
                parameter.uniform_(-7, -2.3, generator=generator)
            elif "norm" in name:
                parameter.fill_(1)
            else:
                parameter.normal_(0, 0.02, generator=generator)
    ids = torch.randint(config.vocab_size, (tokens,), device="cuda")
    spans = Spans.of([tokens])

    def run() -> Tensor:
        return model.head(model.hidden(ids, spans)[-1:])

    with torch.no_grad():
        seconds = median(run)
    per_token = config.matmul_flops_per_token() - 2 * config.hidden_size * config.vocab_size
    per_token += config.attention_flops_per_token(tokens // 2) + config.scan_flops_per_token()
    share = tokens * per_token / seconds / rates["product_flop_per_s"]
    return {"tokens": tokens, "seconds": seconds, "of_product_rate": share, **rates}


def tell(**line: Any) -> None:
    print(json.dumps(line), flush=True)


def device_rates() -> dict[str, float]:
    """Measured: bytes per second of a copy (read and written), operations of a bf16 product."""
    source = torch.randn(2**30, device="cuda")
    target = torch.empty_like(source)
    copy = median(lambda: target.copy_(source))
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    product = median(lambda: a @ b)
    return {
        "copy_bytes_per_s": 2 * source.nbytes / copy,
        "product_flop_per_s": 2 * 8192**3 / product,
    }


def median(call: Callable[[], Any]) -> float:
    """Seconds, by device events."""
    found = triton.testing.do_bench(call, warmup=50, rep=200, return_mode="median")
    return float(found) / 1e3  # type: ignore[arg-type]


def floor(shape: Shape, tokens: int, rates: dict[str, float], backward: bool) -> float:
    """Seconds that no scan can beat: products inside chunks of 64 and through the state."""
    s = shape
    token = 2 * (2 * s.H * s.P + 2 * s.G * s.N + s.H)  # x, y, B, C, dt in bf16
    operations = s.H * s.P * (4 * s.N + 64) + s.G * s.N * 64
    if backward:  # forward; then x, gy, B, C, dt in and as many gradients out, twice the products
        token += 2 * (3 * s.H * s.P + 4 * s.G * s.N + 2 * s.H)
        operations *= 3
    bytes_s = tokens * token / rates["copy_bytes_per_s"]
    return max(bytes_s, tokens * operations / rates["product_flop_per_s"])


def draw(shape: Shape, tokens: int, seed: int = 0) -> dict[str, Tensor]:
    """Inputs as a mixer sees them: time steps before bias and softplus, decays of all rates."""
    generator = torch.Generator("cuda").manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, device="cuda")

    s, half = shape, torch.bfloat16
    step = torch.exp(torch.empty(s.H, device="cuda").uniform_(-7, -2.3, generator=generator))
    return {
        "x": normal(tokens, s.H, s.P).to(half),
        "dt": normal(tokens, s.H).to(half),
        "A": -torch.empty(s.H, device="cuda").uniform_(1, 16, generator=generator),
        "B": normal(tokens, s.G, s.N).to(half),
        "C": normal(tokens, s.G, s.N).to(half),
        "D": normal(s.H),
        "bias": step + torch.log(-torch.expm1(-step)),
    }


def measure(
    shape: Shape, tokens: int, rates: dict[str, float], peer: Callable[..., Any] | None
) -> Iterator[dict[str, Any]]:
    """Forward alone, then forward and backward, of one sequence."""
    inputs = draw(shape, tokens)
    tables = Tables.of([tokens], "cuda")

    def ours() -> Tensor:
        i = inputs
        return ssd_scan(
            i["x"], i["dt"], i["A"], i["B"], i["C"], i["D"], tables, bias=i["bias"], softplus=True
        )[0]

    for backward in (False, True):
        least = floor(shape, tokens, rates, backward)
        own = timed(ours, inputs, backward)
        line = {"what": "forward+backward" if backward else "forward", "floor_ms": least * 1e3}
        line |= {"cairn_ms": own * 1e3, "over_floor": own / least}
        if peer is not None:
            times = {c: timed(lambda c=c: peer(inputs, c), inputs, backward) for c in PEER_CHUNKS}
            line |= {f"mamba_ssm_{c}_ms": t * 1e3 for c, t in times.items()}
            line["times_as_fast"] = min(times.values()) / own
        yield line


def timed(scan: Callable[[], Tensor], inputs: dict[str, Tensor], backward: bool) -> float:
    for tensor in inputs.values():
        tensor.requires_grad_(backward)
    if not backward:
        with torch.no_grad():
            return median(scan)
    gy = torch.randn_like(inputs["x"])
    wanted = list(inputs.values())
    return median(lambda: torch.autograd.grad(scan(), wanted, gy))


def compile_in_parallel() -> None:
    """Autotuners compile all their candidates at once before they time them one by one."""
    from concurrent.futures import ThreadPoolExecutor

    from triton.runtime.autotuner import Autotuner

    tune, seen = Autotuner.run, set()

    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.base_fn.__name__ not in seen and len(self.configs) > 1:
            seen.add(self.base_fn.__name__)
            with triton.AsyncCompileMode(ThreadPoolExecutor(), ignore_errors=True):
                self.warmup(*args, **{k: v for k, v in kwargs.items() if k != "warmup"})
        return tune(self, *args, **kwargs)

    Autotuner.run = run  # type: ignore[method-assign]


def peer_scan(folder: Path) -> Callable[..., Any]:
    """mamba-ssm's combined scan, without what its __init__ imports."""
    compile_in_parallel()
    package = types.ModuleType("mamba_ssm")
    package.__path__ = [str(folder / "mamba_ssm")]
    sys.modules["mamba_ssm"] = package
    from mamba_ssm.ops.triton.ssd_combined import (  # type: ignore[import-not-found]
        mamba_chunk_scan_combined,
    )

    def scan(inputs: dict[str, Tensor], chunk: int) -> Tensor:
        tokens = {name: inputs[name].unsqueeze(0) for name in ("x", "dt", "B", "C")}
        return mamba_chunk_scan_combined(
            **tokens, A=inputs["A"], chunk_size=chunk, D=inputs["D"], dt_bias=inputs["bias"],
            dt_softplus=True,
        )[0]  # fmt: skip

    return scan


def errors(shape: Shape, backward: bool, tokens: int = 1024) -> dict[str, Any]:
    """Relative errors of outputs and gradients in bf16, of the kernels and of the plain path."""
    inputs = draw(shape, tokens, seed=1)
    lengths = [tokens // 2 + 5, 0, 1, tokens // 2 - 6]
    tables, chunks = Tables.of(lengths, "cuda"), Chunks.of(lengths, CHUNK, 3, "cuda")
    gy = torch.randn(inputs["x"].shape, device="cuda").to(torch.bfloat16)

    def fast(i: dict[str, Tensor]) -> Tensor:
        return ssd_scan(
            i["x"], i["dt"], i["A"], i["B"], i["C"], i["D"], tables, bias=i["bias"], softplus=True
        )[0]

    def plain(i: dict[str, Tensor]) -> Tensor:
        steps = torch.nn.functional.softplus(i["dt"] + i["bias"])
        with paths.only("torch"):
            return plain_scan(i["x"], steps, i["A"], i["B"], i["C"], i["D"], chunks)[0]

    def results(scan: Callable[..., Tensor], dtype: torch.dtype | None) -> list[Tensor]:
        own = {name: t if dtype is None else t.to(dtype) for name, t in inputs.items()}
        own = {name: t.detach().clone().requires_grad_(backward) for name, t in own.items()}
        y = scan(own)
        found = (
            [y, *torch.autograd.grad(y, list(own.values()), gy.to(y.dtype))] if backward else [y]
        )
        return [t.detach().double() for t in found]

    truth = results(plain, torch.float64)
    wide = {"dt", "A", "D", "bias"}
    twin_inputs = {n: t.float() if n in wide else t for n, t in inputs.items()}
    inputs, kept = twin_inputs, inputs
    torch.set_float32_matmul_precision("highest")
    twin = results(lambda i: bf16_scan(i, chunks), None)
    inputs = kept
    own = results(fast, None)
    names = ["y", *inputs] if backward else ["y"]
    table = {}
    for name, a, b, c in zip(names, own, twin, truth, strict=True):
        table[name] = {"cairn": distance(a, c), "twin": distance(b, c)}
    worst = max(e["cairn"] / e["twin"] for e in table.values())
    return {"backward": backward, "over_twin": worst, "errors": table}


def bf16_scan(i: dict[str, Tensor], chunks: Chunks) -> Tensor:
    """The plain path on bf16 tensors: sums in fp32 inside products, each result rounded."""
    steps = torch.nn.functional.softplus(i["dt"] + i["bias"])
    half = torch.bfloat16
    with paths.only("torch"):
        y, _ = plain_scan(
            i["x"], steps.to(half), i["A"].to(half), i["B"], i["C"], i["D"].to(half), chunks
        )
    return y


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


if __name__ == "__main__":
    if importlib.util.find_spec("triton") is None or not torch.cuda.is_available():
        sys.exit("bench/scan.py measures Triton kernels: it needs an NVIDIA GPU and triton")
    main()
