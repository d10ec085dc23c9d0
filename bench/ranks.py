"""Training on several processes against one: losses by layout and precision, and a save that one
process goes on from. One JSON line each; exits with 1 where losses are further apart than `BOUNDS`.

    python bench/ranks.py                              two processes on this CPU, by gloo
    python bench/ranks.py --device cuda                two GPUs of this host, by NCCL
    python bench/ranks.py --device cuda --ranks 4      each pair of layouts
    python bench/ranks.py --device cuda --one-gpu      all on the first GPU, which NCCL takes for
                                                       GPUs of several hosts: by sockets, slowly

One process takes as many micro-batches as there are ranks that read, so that FP8 scales are of the
same sequences; it runs beside the others, on the first GPU: nothing here is a measurement of time.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cairn.model import ModelConfig
from cairn.tokens.batch import Batch
from cairn.train import NextToken, Parallel, TrainSettings, train

LAYOUTS = {
    2: {"fsdp": {"shard": 2}, "tensor": {"tensor": 2}, "context": {"context": 2}},
    4: {
        "fsdp-tensor": {"shard": 2, "tensor": 2},
        "fsdp-context": {"shard": 2, "context": 2},
        "tensor-context": {"tensor": 2, "context": 2},
        "hybrid": {"data": 2, "shard": 2},
    },
}
PRECISIONS = ("fp32", "bf16", "current", "block")
BOUNDS = {"fp32": 1e-4, "bf16": 1e-2, "current": 2e-2, "block": 2e-2}  # nats
STEPS, SAVED = 6, 4
SMALL = ModelConfig(
    pattern="M*-M*-M", vocab_size=512, hidden_size=64, intermediate_size=128, attention_heads=4,
    key_value_heads=2, head_dim=16, mamba_heads=32, mamba_head_dim=8, state_size=16, groups=2,
    chunk_size=16,
)  # fmt: skip
LARGE = replace(
    SMALL, vocab_size=8192, hidden_size=512, intermediate_size=2048, attention_heads=8,
    key_value_heads=4, head_dim=64, mamba_head_dim=64, state_size=64, groups=4, chunk_size=128,
)  # fmt: skip


class Drawn:
    """Random tokens, the same few sequences in every step, so that losses fall."""

    def __init__(self, length: int, vocabulary: int) -> None:
        drawn = np.random.default_rng(0).integers(0, vocabulary, (4, length + 1))
        self.tokens = drawn.astype(np.int64)

    def batch(self, samples: Sequence[int]) -> Batch:
        """Windows of these numbers."""
        windows = self.tokens[[sample % 4 for sample in samples]]
        count, length = len(windows), windows.shape[1] - 1
        bounds = np.arange(0, count * length + 1, length).astype(np.int32)
        weights = np.ones(count * length, np.float32)
        return Batch(windows[:, :-1].ravel(), windows[:, 1:].ravel(), weights, bounds, [])


def work(device: str, out: Path, cases: list[dict[str, Any]]) -> None:
    """One process of a run: all cases, one after another."""
    from cairn.train.parallel.ranks import join
    from cairn.train.parallel.shard import fresh

    cpu = device == "cpu"
    config, length = (SMALL, 48) if cpu else (LARGE, 1024)
    stream = Drawn(length, config.vocab_size)
    for case in cases:
        parallel = Parallel(**case["parallel"])
        settings = TrainSettings(
            steps=case["steps"], sequences=2, accumulate=2, sequence_length=length, warmup=0,
            decay=0.0, lr=1e-3, save_every=STEPS, precision=case["precision"], parallel=parallel,
        )  # fmt: skip
        ranks = join(parallel, device)
        model = fresh(config, 1, ranks)
        train(model, NextToken(), stream, settings, out / case["name"], ranks=ranks)
        ranks.wait()


def place(rank: int, one_gpu: bool) -> dict[str, str]:
    """What tells a process its GPU. NCCL refuses two ranks of a host on one: it is told of two."""
    if not one_gpu:
        return {"LOCAL_RANK": str(rank)}
    alone = {"NCCL_HOSTID": f"host-{rank}", "NCCL_SOCKET_IFNAME": "lo", "NCCL_IB_DISABLE": "1"}
    return {"LOCAL_RANK": "0"} | alone


def start(
    world: int, device: str, out: Path, cases: list[dict[str, Any]], one_gpu: bool
) -> list[subprocess.Popen]:
    """The processes of a run, connected over loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    given = os.environ | {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1"}
    given |= {"MASTER_PORT": str(port), "CASES": json.dumps(cases)}
    if device == "cpu":
        given["OMP_NUM_THREADS"] = "1"
    command = [sys.executable, __file__, "--device", device, "--folder", str(out)]
    return [
        subprocess.Popen(command, env=given | {"RANK": str(rank)} | place(rank, one_gpu))
        for rank in range(world)
    ]


def losses(folder: Path) -> list[float]:
    """Of every step that is there."""
    file = folder / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return [json.loads(line)["loss"] for line in lines]


def told(name: str, precision: str, found: list[float], wanted: list[float]) -> bool:
    """Print a line; whether the losses are all there, and near enough."""
    apart = [abs(a - b) for a, b in zip(found, wanted, strict=False)]
    complete = len(found) == len(wanted) == STEPS
    held = complete and max(apart) <= BOUNDS[precision]
    line = {
        "bench": "ranks", "layout": name, "precision": precision, "steps": len(apart),
        "apart": round(max(apart, default=float("nan")), 7),
        "first_step_apart": round(apart[0], 7) if apart else None,
        "loss": wanted[-1:], "held": held,
    }  # fmt: skip
    print(json.dumps(line), flush=True)
    return held


def compare(ranks: int, device: str, out: Path, precisions: Sequence[str], one_gpu: bool) -> bool:
    """Run all, print a line each; whether all hold."""
    layouts = LAYOUTS[ranks]

    def case(
        name: str, precision: str, sizes: dict[str, int], steps: int = STEPS
    ) -> dict[str, Any]:
        found = {"name": f"{name}-{precision}", "precision": precision}
        return found | {"parallel": sizes, "steps": steps}

    first = next(iter(layouts))
    saved = case("saved", precisions[0], layouts[first], SAVED)
    many = [saved] + [case(n, p, sizes) for p in precisions for n, sizes in layouts.items()]
    children = start(ranks, device, out, many, one_gpu)
    children += start(1, device, out, [case("one", p, {}) for p in precisions], one_gpu)
    codes = [child.wait() for child in children]
    codes += [c.wait() for c in start(1, device, out, [case("saved", precisions[0], {})], one_gpu)]
    held = not any(codes)
    for p in precisions:
        wanted = losses(out / f"one-{p}")
        for name in layouts:
            held &= told(name, p, losses(out / f"{name}-{p}"), wanted)
    wanted = losses(out / f"one-{precisions[0]}")
    held &= told(f"saved by {first}", precisions[0], losses(out / saved["name"]), wanted)
    return held


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--ranks", type=int, default=2, choices=sorted(LAYOUTS))
    parser.add_argument("--precisions", nargs="+", default=PRECISIONS, choices=PRECISIONS)
    parser.add_argument("--one-gpu", action="store_true", help="have all ranks on the first GPU")
    parser.add_argument("--folder", type=Path, help="keep the runs here (default: temporary)")
    options = parser.parse_args()
    if "CASES" in os.environ:
        work(options.device, options.folder, json.loads(os.environ["CASES"]))
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        out = options.folder or Path(temporary)
        held = compare(options.ranks, options.device, out, options.precisions, options.one_gpu)
        return 0 if held else 1


if __name__ == "__main__":
    raise SystemExit(main())
