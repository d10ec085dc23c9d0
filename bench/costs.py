"""The cost model of a training step against real steps on this device: one JSON line a shape.

    python bench/costs.py                          here, small shapes in fp32 and bf16
    python bench/costs.py --device cuda            layers of Nemotron-H 8B and StarCoder2-3B in bf16

Times are medians of whole steps (forward, backward, AdamW) on random tokens; memory is the peak of
a GPU, and on a CPU the parameters, moments and gradients with what autograd keeps.
"""

import argparse
import json
import statistics
import time
from dataclasses import replace
from typing import Any

import torch

from cairn.model import Decoder, ModelConfig, Spans, build
from cairn.model.devices import DEVICES, Device
from cairn.model.devices import device as device_of
from cairn.train import NextToken, TrainSettings
from cairn.train.costs import Step, facts
from cairn.train.objective import Tokens
from cairn.train.optimizer import make_optimizer
from cairn.train.parallel import Parallel
from cairn.train.precision import autocast

STEPS, WARM = 5, 2
DENSE = ModelConfig(
    pattern=6 * "*-", vocab_size=4096, hidden_size=384, intermediate_size=1536,
    attention_heads=6, key_value_heads=2, head_dim=64,
)  # fmt: skip
HYBRID = replace(
    DENSE, pattern="M-M-M*-M-M-", mamba_heads=12, mamba_head_dim=64, state_size=64, groups=2
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--length", type=int)
    arguments = parser.parse_args()
    cpu = arguments.device == "cpu"
    shapes = {"dense": DENSE, "hybrid": HYBRID} if cpu else gpu_shapes()
    length = arguments.length or (1024 if cpu else 8192)
    device = device_of("cpu") if cpu else named()
    for name, config in shapes.items():
        for precision in ("fp32", "bf16") if cpu else ("bf16",):
            settings = TrainSettings(
                steps=1, sequences=2 if cpu else 1, sequence_length=length, precision=precision
            )
            line = {"shape": name, "precision": precision, "parameters": config.parameters}
            step = Step(config, settings, Parallel(shard=1), device)
            told = facts(step)
            seconds, held = measure(config, settings, arguments.device)
            memory = told["memory_bytes"]["whole"]
            line |= {
                "tokens": settings.sequences * length,
                "seconds": seconds,
                "seconds_on_paper": told["seconds"]["whole"],
                "time_ratio": told["seconds"]["whole"] / seconds,
                "memory_bytes": held,
                "memory_on_paper": memory,
                "memory_ratio": memory / held,
                "parts": {key: round(value, 5) for key, value in told["seconds"].items()},
                "device": device.name,
            }
            print(json.dumps(line), flush=True)


def gpu_shapes() -> dict[str, ModelConfig]:
    """As many layers of released models as fit beside their optimizer."""
    hybrid, dense = ModelConfig.preset("nemotron-h-8b"), ModelConfig.preset("starcoder2-3b")
    return {
        "nemotron-h-8b, 26 layers": replace(hybrid, pattern=hybrid.pattern[:26], vocab_size=4096),
        "starcoder2-3b": dense,
    }


def named() -> Device:
    """This GPU in the table of devices."""
    name = torch.cuda.get_device_name()
    return next(device for device in DEVICES.values() if device.name in name)


def measure(config: ModelConfig, settings: TrainSettings, device: str) -> tuple[float, int]:
    """Median seconds of a step, and bytes held at its widest."""
    model = build(config, 0, device)
    optimizer = make_optimizer(model, settings)
    length, count = settings.sequence_length, settings.sequences
    ids = torch.randint(config.vocab_size, (count * length,), device=device)
    weights = torch.ones(len(ids), device=device)
    batch = Tokens(ids, ids.roll(-1), weights, Spans.of([length] * count), float(len(ids)))
    kept: dict[int, int] = {}

    def run() -> None:
        with autocast(settings.precision, model.device):
            loss = NextToken()(model, batch)
        (loss.total / loss.count).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device == "cuda":
            torch.cuda.synchronize()

    times = []
    for number in range(WARM + STEPS):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
        if number == WARM and device == "cuda":
            torch.cuda.reset_peak_memory_stats()
    seconds = statistics.median(times[WARM:])
    if device == "cuda":
        return seconds, torch.cuda.max_memory_allocated()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: remember(t, kept, model), lambda t: t):
        run()
    return seconds, sum(kept.values()) + 16 * config.parameters


def remember(tensor: torch.Tensor, kept: dict[int, int], model: Decoder) -> Any:
    """Note a saved tensor's storage, where it is no parameter's."""
    storage = tensor.untyped_storage()
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    if storage.data_ptr() not in own:
        kept[storage.data_ptr()] = storage.nbytes()
    return tensor


if __name__ == "__main__":
    main()
