"""Runs of several processes, each a rank of fixtures/ranks.py, and what came out of them."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

WORKER = Path(__file__).parent / "fixtures" / "ranks.py"
MODEL = {
    "pattern": "M*-M",
    "hidden_size": 32,
    "intermediate_size": 64,
    "attention_heads": 4,
    "key_value_heads": 2,
    "head_dim": 16,
    "mamba_heads": 8,
    "mamba_head_dim": 8,
    "state_size": 16,
    "groups": 2,
    "chunk_size": 16,
    "max_positions": 256,
}
SETTINGS = {
    "steps": 20,
    "sequences": 4,
    "sequence_length": 48,
    "lr": 3e-3,
    "warmup": 2,
    "save_every": 10,
    "precision": "fp32",
}


def start(
    world: int, shards: Path, out: Path, cases: list[dict], said: int | None = None
) -> list[subprocess.Popen]:
    """The processes of a run, connected over loopback."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"cases-{world}.json"
    file.write_text(json.dumps(cases))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    given = os.environ | {"OMP_NUM_THREADS": "1", "WORLD_SIZE": str(world)}
    given |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, str(WORKER), str(shards), str(out), str(file)]
    return [
        subprocess.Popen(command, env=given | {"RANK": str(rank)}, stderr=said, text=True)
        for rank in range(world)
    ]


def run_ranks(world: int, shards: Path, out: Path, cases: list[dict]) -> None:
    children = start(world, shards, out, cases)
    try:
        codes = [child.wait(timeout=280) for child in children]
        assert codes == [0] * world, codes
    finally:
        for child in children:
            child.kill()


def case(name: str, parallel: dict, **more) -> dict:
    return {"name": name, "parallel": parallel, "settings": SETTINGS, "model": MODEL} | more


def losses(folder: Path) -> list[float]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def torchrun(world: int, restarts: int, *command: str) -> list[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*launch, f"--nproc-per-node={world}", f"--max-restarts={restarts}", *command]
