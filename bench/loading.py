"""Loading a checkpoint folder: speed and peak memory, beside `cat` of its files and transformers.

Makes a folder of that size (a StarCoder2 shape in bf16, in shards), then takes turns: `cat` of
the files to nowhere, cairn's `load`, transformers' `from_pretrained`, each in a process of its own,
with the files out of the page cache (posix_fadvise) and in it. Peak memory is the rise of the
process's largest resident set (VmHWM) during the call, over the size of the files; pages of a
memory map count while they are resident. `seconds` end when every weight has been looked at, since
transformers maps files and reads them later; `call_seconds` are those of the call alone. One JSON
line a measurement, best time of the rounds.

    python bench/loading.py [--gigabytes 4] [--rounds 2] [--folder DIR]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers

from cairn.model import ModelConfig, save
from cairn.model.decoder import empty

SHAPE = {
    "family": "starcoder2",
    "vocab_size": 49_152,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "attention_heads": 16,
    "key_value_heads": 4,
    "norm": "layer",
    "activation": "gelu_tanh",
    "qkv_bias": True,
    "output_bias": True,
    "mlp_bias": True,
    "rope_theta": 1e5,
    "tie_embeddings": True,
    "pad_token_id": None,
}
CALLS = {
    "cairn": "model = cairn.model.checkpoint.load(folder)",
    "cairn, read": "model = cairn.model.checkpoint.load(folder, mapped=False)",
    "transformers": (
        "model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)"
    ),
}
PROGRAM = """
import json, sys, time, warnings
warnings.filterwarnings("ignore")
import torch
import cairn.model.checkpoint
if {peer}:
    import transformers
    import transformers.models.starcoder2.modeling_starcoder2
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
folder = sys.argv[1]
torch.set_num_threads({threads})

def status(key):
    for line in open("/proc/self/status"):
        if line.startswith(key):
            return int(line.split()[1]) * 1024

before = status("VmRSS:")
open("/proc/self/clear_refs", "w").write("5")
start = time.perf_counter()
{call}
loaded = time.perf_counter() - start
for parameter in model.parameters():  # a map that was not read yet is read now
    parameter.detach().view(torch.int16).flatten()[::2048].max()  # a page
seconds = time.perf_counter() - start
print(json.dumps(dict(loaded=loaded, seconds=seconds, peak=status("VmHWM:") - before)))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--folder", type=Path, help="where to write; on the disk to measure")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        make(Path(folder), arguments.gigabytes)
        measure(Path(folder), arguments)


def make(folder: Path, gigabytes: float) -> None:
    """A folder of about that size, with weights that do not compress."""
    one = ModelConfig(pattern="*-", **SHAPE)
    layer = one.layer_parameters("*") + one.layer_parameters("-")
    layers = max(1, round((gigabytes * 1e9 / 2 - one.embedding_parameters) / layer))
    model = empty(ModelConfig(pattern=layers * "*-", **SHAPE), dtype=torch.bfloat16)
    noise = torch.randn(2**22).bfloat16()
    with torch.no_grad():
        for parameter in model.parameters():
            flat = parameter.view(-1)
            for at in range(0, len(flat), len(noise)):
                part = flat[at : at + len(noise)]
                part.copy_(noise[: len(part)])
    save(model, folder, max_shard_size=10**9)
    os.sync()


def measure(folder: Path, arguments: argparse.Namespace) -> None:
    """Everything in turns, and a line for each."""
    files = sorted(folder.glob("*.safetensors"))
    size = sum(path.stat().st_size for path in files)
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for _ in range(arguments.rounds):
        for cache in ("cold", "warm"):
            for who in ("cat", *CALLS):
                evict(files) if cache == "cold" else read(files)
                made = cat(files) if who == "cat" else run(who, folder, arguments.threads)
                found.setdefault((who, cache), []).append(made)
    for (who, cache), made in found.items():
        best = min(made, key=lambda one: one["seconds"])
        line: dict[str, Any] = {
            "bench": "loading",
            "who": f"transformers {transformers.__version__}" if who == "transformers" else who,
            "cache": cache,
            "bytes": size,
            "files": len(files),
            "seconds": round(best["seconds"], 2),
            "megabytes_per_second": round(size / best["seconds"] / 1e6),
        }
        if who != "cat":
            line["call_seconds"] = round(best["loaded"], 2)
            line["peak_over_size"] = round(max(one["peak"] for one in made) / size, 3)
        print(json.dumps(line), flush=True)


def evict(files: list[Path]) -> None:
    """Out of the page cache."""
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(files: list[Path]) -> None:
    """Into the page cache."""
    subprocess.run(["cat", *files], stdout=subprocess.DEVNULL, check=True)


def cat(files: list[Path]) -> dict[str, float]:
    """Seconds of `cat` to nowhere, which reads every byte."""
    start = time.perf_counter()
    read(files)
    return {"seconds": time.perf_counter() - start, "peak": 0}


def run(who: str, folder: Path, threads: int) -> dict[str, float]:
    """One load in a fresh process."""
    program = PROGRAM.format(peer=who == "transformers", threads=threads, call=CALLS[who])
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
