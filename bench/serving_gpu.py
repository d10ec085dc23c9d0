"""The engine on one GPU: shapes of released models with random weights, one JSON line a measure.

- `copy`: bytes a second of a large copy on the device, counted as read and written.
- `decode`: milliseconds of a step for --batch sequences that hold --context tokens, and the share
  of the floor: weights, keys, values and states once read, states once written, at the copy rate.
- `prefill`: one prompt of --context tokens, computed whole.
- `mix`: --prompt tokens in, --drawn out, as many sequences at a time as the memory holds: prefill
  is measured on one prompt, a step at five lengths, and the time of all between is summed.
- `whole`: the same, really run from the first token to the last.
- `limit`: one sequence of --context tokens and 64 drawn ones, within --cap.
- `company`: prompts alone and together: how many answers differ, in tokens or any log-probability.
- `kernels`: what takes the time of a decode step; with --batch 0, of a prompt.

A step is timed on prompts that are booked as read over pools filled with random numbers: what keys
hold does not change how long they take to read. `--cap` limits everything that PyTorch allocates
(weights, pools, graphs, activations), in GiB. Prefixes are not kept. Run it as
`python bench/serving_gpu.py PRESET MEASURE [--batch 1,8] [--state float16] ...`; `+` separates
several runs of one process: `nemotron-nano-9b-v2 decode --batch 8 + mix --cap 20.96`.
"""

import argparse
import gc
import itertools
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
from random_weights import random_model

from cairn.engine import Caching, Engine, SamplingParams
from cairn.engine.pool import state_bytes
from cairn.engine.weights import narrow_weights
from cairn.model import Decoder
from cairn.model.cache import state_dtype
from cairn.ops import narrow as ops_narrow

GIB = 2**30
STEPS = 30  # timed at each length
WORKSPACE = 0.3  # GiB beside weights and pools: activations, graphs, libraries


def copy_rate() -> float:
    """Bytes a second, read and written."""
    source = torch.empty(4 * GIB, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    events = [torch.cuda.Event(enable_timing=True) for _ in range(22)]
    for event in events:
        event.record()
        target.copy_(source)
    torch.cuda.synchronize()
    took = sorted(a.elapsed_time(b) / 1000 for a, b in itertools.pairwise(events[1:]))
    return 2 * source.numel() / took[len(took) // 2]


class Bench:
    """One model, and what is told of the runs."""

    def __init__(self, name: str) -> None:
        self.name, self.model = name, random_model(name)
        self.copy = copy_rate()
        self.weights, self.kind = weight_bytes(self.model), "bfloat16"
        torch.cuda.empty_cache()

    def narrow(self) -> None:
        """Weights in 8 bits."""
        _release()  # or they lie in what an engine before has left, and its segments stay
        narrow_weights(self.model)
        self.weights, self.kind = weight_bytes(self.model), "float8"

    def engine(self, slots: int, capacity: int, told: argparse.Namespace) -> Engine:
        """Of the size that is asked for, within the cap."""
        _release()
        total = torch.cuda.mem_get_info()[1]
        share = told.cap * GIB / total if told.cap else 1.0
        torch.cuda.set_per_process_memory_fraction(min(1.0, share))
        torch.cuda.reset_peak_memory_stats()
        room = told.cap * GIB if told.cap else 0.97 * total
        spare = (WORKSPACE if told.cap else 4.0) * GIB
        memory = int(room - torch.cuda.memory_allocated() - spare)
        return Engine(
            self.model,
            slots=slots,
            capacity=capacity,
            token_budget=told.budget,
            memory=memory,
            state_dtype=told.state,
            caching=None if told.invariant else Caching(prefixes=False),
            graphs=None if told.graphs else False,
            overlap=None if told.overlap else False,
            invariant=told.invariant,
        )

    def floor(self, batch: int, context: int, told: argparse.Namespace) -> float:
        """Bytes of a decode step: facts of the shape, whatever the kernels do."""
        config = self.model.config
        keys = 2 * config.key_value_width * config.count("*") * 2
        narrow = getattr(torch, told.state) if told.state else state_dtype(torch.bfloat16)
        state = state_bytes(config, torch.bfloat16, narrow)
        return self.weights + batch * (keys * context + 2 * state)

    def fits(self, tokens: int, told: argparse.Namespace) -> int:
        """Sequences of so many tokens that the memory holds."""
        config = self.model.config
        room = (told.cap * GIB if told.cap else 0.97 * torch.cuda.mem_get_info()[1]) - self.weights
        room -= (WORKSPACE if told.cap else 4.0) * GIB
        narrow = getattr(torch, told.state) if told.state else state_dtype(torch.bfloat16)
        keys = 2 * config.key_value_width * config.count("*") * 2 * (tokens + 16)
        return int(room // (keys + state_bytes(config, torch.bfloat16, narrow)))


def _release() -> None:
    """Give memory back that an engine before had; what is left is not looked through again."""
    gc.collect()
    gc.freeze()
    torch._C._cuda_clearCublasWorkspaces()  # of streams that graphs were captured in
    torch.cuda.empty_cache()


def weight_bytes(model: Decoder) -> int:
    """Of all parameters and scales."""
    return sum(p.nbytes for p in (*model.parameters(), *model.buffers()))


def greedy(count: int) -> SamplingParams:
    """`count` tokens, whatever they are."""
    return SamplingParams(max_tokens=count, temperature=0, ignore_eos=True)


def tokens_of(engine: Engine, count: int, seed: int) -> list[int]:
    """Random ids."""
    dice = torch.Generator().manual_seed(seed)
    return torch.randint(3, engine.model.config.vocab_size, (count,), generator=dice).tolist()


def fill(engine: Engine, batch: int, context: int, drawn: int) -> None:
    """`batch` sequences that hold `context` tokens of random memory."""
    cache = engine._runner.pool.cache
    for pool in (*cache.keys, *cache.values, cache.window, cache.state):
        if pool.numel() and pool.is_floating_point():
            for part in pool.flatten(0, 1).split(1024):
                part.normal_(0, 0.1)
    prompt = tokens_of(engine, context, batch)
    for _ in range(batch):
        engine.add(prompt, greedy(drawn))
    scheduler, read = engine._scheduler, 0
    while read < batch:
        slices = scheduler.schedule()
        assert slices, f"{batch} sequences of {context} tokens do not fit"
        for part in slices:
            last = part.stop == context
            read += last
            scheduler.advance(part, part.stop - 1 if last else part.stop)
            if last:  # no further slice until it is stepped
                part.sequence.ahead, part.sequence.limit = 1, 0
    for one in engine._sequences.values():
        one.ahead, one.limit = 0, drawn


def step_seconds(engine: Engine, batch: int, context: int, steps: int = STEPS) -> float:
    """Of one decode step."""
    fill(engine, batch, context, steps + 20)
    warm = engine.load.tokens_drawn + batch * 8  # a graph for so many keys may have to be captured
    while engine.load.tokens_drawn < warm:
        engine.step()
    return timed_steps(engine, steps)


def timed_steps(engine: Engine, steps: int) -> float:
    """Seconds of one of so many decode steps; the sequences end behind them."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(steps):
        engine.step()
    torch.cuda.synchronize()
    seconds = (time.perf_counter() - began) / steps
    for number in list(engine._sequences):
        engine.abort(number)
    engine.step()
    return seconds


def prefill_seconds(engine: Engine, length: int, count: int = 1) -> float:
    """Of one prompt, after one that warms."""
    engine.generate([tokens_of(engine, min(length, 8200), 1)], greedy(2))
    prompts = [tokens_of(engine, length, seed) for seed in range(count)]
    torch.cuda.synchronize()
    began = time.perf_counter()
    engine.generate(prompts, greedy(1))
    return (time.perf_counter() - began) / count


def decode(bench: Bench, told: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A line for each batch."""
    for batch in told.batch:
        engine = bench.engine(batch, told.context + 128, told)
        seconds = step_seconds(engine, batch, told.context)
        floor = bench.floor(batch, told.context, told)
        embedded = bench.model.backbone.embeddings.weight.nbytes
        yield {
            "batch": batch,
            "context": told.context,
            "milliseconds": round(seconds * 1000, 3),
            "tokens_per_second": round(batch / seconds, 1),
            "floor_gigabytes": round(floor / 1e9, 2),
            "of_floor": round(floor / bench.copy / seconds, 3),
            "of_floor_without_embeddings": round((floor - embedded) / bench.copy / seconds, 3),
        }
        del engine


def prefill(bench: Bench, told: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One prompt."""
    engine = bench.engine(1, told.context + 128, told)
    seconds = prefill_seconds(engine, told.context)
    yield {
        "context": told.context,
        "seconds": round(seconds, 3),
        "tokens_per_second": round(told.context / seconds, 1),
        "peak_gib": round(torch.cuda.max_memory_reserved() / GIB, 2),
    }


def mix(bench: Bench, told: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Prompts and completions of one length each, summed from measured parts."""
    whole = told.prompt + told.drawn
    batch = told.slots or bench.fits(whole, told)
    engine = bench.engine(batch, whole + 16, told)
    reading = prefill_seconds(engine, told.prompt)
    places = [told.prompt + told.drawn * i // 4 for i in range(5)]
    steps = [step_seconds(engine, batch, min(place, whole - STEPS - 24)) for place in places]
    drawing = told.drawn * sum((a + b) / 2 for a, b in itertools.pairwise(steps)) / 4
    yield {
        "prompt": told.prompt,
        "drawn": told.drawn,
        "batch": batch,
        "slots": engine.slots,
        "seconds_of_a_prompt": round(reading, 3),
        "milliseconds_of_a_step": [round(step * 1000, 3) for step in steps],
        "tokens_per_second_of_steps": round(batch * told.drawn / drawing, 1),
        "tokens_per_second": round(batch * told.drawn / (batch * reading + drawing), 1),
        "peak_gib": round(torch.cuda.max_memory_reserved() / GIB, 2),
    }


def whole(bench: Bench, told: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The same, run."""
    length = told.prompt + told.drawn
    batch = told.slots or bench.fits(length, told)
    engine = bench.engine(batch, length + 16, told)
    engine.generate([tokens_of(engine, 600, 77)], greedy(4))
    prompts = [tokens_of(engine, told.prompt, seed) for seed in range(batch)]
    began = time.perf_counter()
    done = engine.generate(prompts, greedy(told.drawn))
    seconds = time.perf_counter() - began
    reuse = engine.load.reuse
    yield {
        "prompt": told.prompt,
        "drawn": told.drawn,
        "batch": batch,
        "seconds": round(seconds, 2),
        "tokens_per_second": round(sum(len(one.tokens) for one in done) / seconds, 1),
        "preempted": reuse.swapped + reuse.recomputed,
        "peak_gib": round(torch.cuda.max_memory_reserved() / GIB, 2),
    }


def limit(bench: Bench, told: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One long sequence."""
    engine = bench.engine(1, told.context + 64, told)
    prompt = tokens_of(engine, told.context, 5)
    began, times = time.perf_counter(), []
    for delta in engine.stream(prompt, greedy(64)):
        times += [time.perf_counter()] * len(delta.tokens)
    yield {
        "tokens": told.context + 64,
        "seconds_to_first_token": round(times[0] - began, 2),
        "milliseconds_a_token": round((times[-1] - times[8]) / (len(times) - 9) * 1000, 2),
        "peak_gib": round(torch.cuda.max_memory_reserved() / GIB, 2),
    }


def company(bench: Bench, told: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The same requests by themselves, and with others; sampled, with log-probabilities."""
    params = SamplingParams(max_tokens=24, temperature=1, seed=1, logprobs=1, ignore_eos=True)
    kept: list[list[Any]] = []
    for slots in (1, max(told.batch)):
        engine = bench.engine(slots, told.context + 64, told)
        sizes = [1 + told.context * n // 15 for n in range(16)]
        prompts = [tokens_of(engine, size, seed) for seed, size in enumerate(sizes)]
        more = prompts + [tokens_of(engine, 40, 100 + n) for n in range(slots - 1)]
        found = engine.generate(more, params)[:16]
        kept.append([(one.tokens, one.logprobs) for one in found])
        del engine
    pairs = list(zip(*kept, strict=True))
    yield {
        "beside": max(told.batch) - 1,
        "answers": len(pairs),
        "tokens_differ": sum(a[0] != b[0] for a, b in pairs),
        "bits_differ": sum(a != b for a, b in pairs),
    }


def kernels(bench: Bench, told: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Microseconds of a step by kernel."""
    from torch.profiler import ProfilerActivity, profile

    for batch in told.batch:
        engine = bench.engine(max(1, batch), told.context + 128, told)
        prompt = tokens_of(engine, told.context, 3)
        if batch:
            fill(engine, batch, told.context, 100)
        for _ in range(12 if batch else 0):
            engine.step()
        if not batch:
            engine.generate([prompt], greedy(1))
        torch.cuda.synchronize()
        times = 4 if batch else 1
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            for _ in range(times if batch else 0):
                engine.step()
            if not batch:
                engine.generate([prompt], greedy(1))
            torch.cuda.synchronize()
        found = sorted(seen.key_averages(), key=lambda e: -e.self_device_time_total)
        parts = {
            e.key[:60]: [round(e.self_device_time_total / times, 1), e.count // times]
            for e in found
        }
        total = sum(e.self_device_time_total for e in found) / times
        yield {
            "batch": batch,
            "microseconds": round(total, 1),
            "top": dict(list(parts.items())[:16]),
        }
        for number in list(engine._sequences):
            engine.abort(number)
        engine.step()
        del engine


MEASURES = {
    "decode": decode,
    "prefill": prefill,
    "mix": mix,
    "whole": whole,
    "limit": limit,
    "company": company,
    "kernels": kernels,
}


def main() -> None:
    """Print the lines."""
    name, *rest = sys.argv[1:]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("measure", choices=MEASURES)
    parser.add_argument("--batch", type=lambda x: [int(n) for n in x.split(",")], default=[1])
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--prompt", type=int, default=8192)
    parser.add_argument("--drawn", type=int, default=16_384)
    parser.add_argument("--slots", type=int)
    parser.add_argument("--cap", type=float)
    parser.add_argument("--budget", type=int)
    parser.add_argument("--state", choices=("float16", "int8"))
    parser.add_argument("--float8", action="store_true", help="weights in 8 bits, from here on")
    parser.add_argument("--rows", type=int, help="float8: rows up to which our product serves")
    parser.add_argument("--invariant", action="store_true")
    parser.add_argument("--no-graphs", dest="graphs", action="store_false")
    parser.add_argument("--no-overlap", dest="overlap", action="store_false")
    runs, own = [], []
    for word in (*rest, "+"):
        if word == "+":
            runs.append(parser.parse_args(own))
            own = []
        else:
            own.append(word)
    bench = Bench(name)
    about = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__}
    print(json.dumps({"bench": "serving_gpu", "what": "copy", "tb_s": bench.copy / 1e12} | about))
    for told in runs:
        began = time.perf_counter()
        if told.float8:
            bench.narrow()
        if told.rows is not None:
            ops_narrow.FEW = told.rows
        for line in MEASURES[told.measure](bench, told):
            same = {"bench": "serving_gpu", "shape": name, "what": told.measure}
            kind = {"weights": bench.kind, "invariant": told.invariant, "cap_gib": told.cap}
            state = {"state": told.state or "float32"} | kind
            line["took"] = round(time.perf_counter() - began, 1)
            print(json.dumps(same | state | line), flush=True)


if __name__ == "__main__":
    main()
