"""A model on one NVIDIA GPU and shared by several: decode, one JSON line a case.

Writes a checkpoint of random weights in the shape of a preset (tensors of more than one dimension
are slices of one random buffer), serves it with 1 and with N ranks, and times steps of --batch
sequences that have read --context tokens. `first` is the time of the prompts before that.

    python bench/serving_ranks.py PRESET [--ranks 1,2] [--batch 1,64] [--folder /dev/shm/model]
"""

import argparse
import json
import math
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from serving_gpu import timed_steps

from cairn.base import write_json
from cairn.engine import Caching, Engine, SamplingParams
from cairn.model import ModelConfig
from cairn.model.decoder import skeleton
from cairn.model.families import family_of, their_name
from cairn.model.presets import preset

STEPS = 40
BUFFER = 2**28  # random bytes that matrices are cut from


def written(config: ModelConfig, folder: Path) -> None:
    """The files of a checkpoint in bf16, by many threads."""
    folder.mkdir(parents=True, exist_ok=True)
    family, at = family_of(config.family), 0
    header: dict[str, object] = {}
    todo: list[tuple[int, torch.Tensor]] = []
    noise = (torch.randn(BUFFER // 2, dtype=torch.bfloat16) * 0.02).contiguous()
    for name, weight in skeleton(config).named_parameters():
        size, shape = weight.numel(), list(weight.shape)
        value = noise
        if name.endswith("A_log"):
            value = torch.empty(size).uniform_(1, 16).log_().bfloat16()
        elif name.endswith("dt_bias"):
            drawn = torch.empty(size).uniform_(math.log(1e-3), math.log(1e-1)).exp_()
            value = (drawn + torch.log(-torch.expm1(-drawn))).bfloat16()
        elif weight.ndim == 1:
            value = torch.full((size,), 0.0 if name.endswith("bias") else 1.0).bfloat16()
        offsets = [at, at + 2 * size]
        header[their_name(family, name)] = {
            "dtype": "BF16", "shape": shape, "data_offsets": offsets,
        }  # fmt: skip
        for start in range(0, size, len(value)):
            todo.append((at + 2 * start, value[: min(len(value), size - start)]))
        at += 2 * size
    head = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
    begin = 8 + len(head)

    def put(part: tuple[int, torch.Tensor]) -> None:
        with (folder / "model.safetensors").open("r+b") as file:
            file.seek(begin + part[0])
            file.write(part[1].view(torch.uint8).numpy().data)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(put, todo))
    write_json(folder / "config.json", config.to_json() | {"dtype": "bfloat16"})


def measured(engine: Engine, batch: int, context: int) -> dict[str, float]:
    """Seconds until all draw, and milliseconds of a step."""
    params = SamplingParams(max_tokens=STEPS + 40, temperature=0, ignore_eos=True)
    dice = torch.Generator().manual_seed(0)
    shape = (batch, context)
    prompts = torch.randint(3, engine.model.config.vocab_size, shape, generator=dice).tolist()
    began = time.perf_counter()
    for prompt in prompts:
        engine.add(prompt, params)
    first: set[int] = set()
    while len(first) < batch:
        first |= {delta.id for delta in engine.step() if delta.tokens}
    for _ in range(8):
        engine.step()
    read = time.perf_counter() - began
    spent = timed_steps(engine, STEPS)
    return {
        "first": round(read, 2),
        "milliseconds": round(spent * 1000, 3),
        "tokens_per_second": round(batch / spent, 1),
    }


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("preset")
    parser.add_argument("--ranks", default="1,2")
    parser.add_argument("--batch", default="1,64")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm/cairn-ranks"))
    told = parser.parse_args()
    if not (told.folder / "config.json").exists():
        written(preset(told.preset), told.folder)
    batches = [int(n) for n in told.batch.split(",")]
    try:
        for ranks in (int(n) for n in told.ranks.split(",")):
            began = time.perf_counter()
            engine = Engine(
                told.folder,
                slots=max(batches),
                capacity=told.context + 128,
                caching=Caching(prefixes=False),
                device="cuda",
                ranks=ranks,
            )
            loaded = round(time.perf_counter() - began, 1)
            for batch in batches:
                line = measured(engine, batch, told.context)
                same = {"bench": "serving_ranks", "shape": told.preset, "ranks": ranks}
                print(json.dumps(same | {"loaded": loaded, "batch": batch} | line), flush=True)
            engine.close()
            del engine
            torch.cuda.empty_cache()
    finally:
        shutil.rmtree(told.folder)


if __name__ == "__main__":
    main()
