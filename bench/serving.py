"""The engine without HTTP, beside `transformers` generate on the same weights and machine.

One JSON line per measurement and peer: `{"bench": "serving", "what": ..., "peer": ...}`.
- `alone`: one request. `together`: 16 requests of unequal lengths at once; `transformers` runs them
  as one left-padded batch to the longest, and only tokens that were asked for count.
- `prefix`: seconds to the first token of a prompt whose first part was seen before: all of it, its
  first half, and nothing.
- `overhead`: what the engine adds to the model's own forward, step by step.
Tokens are drawn greedily and end tokens are ignored, so that all draw as many. The fastest of
several rounds counts, and peers take turns in each: what is slower is somebody else's work. All
read one random checkpoint, in bf16 as released ones are unless told: the engine in the dtype that
it takes by itself, `transformers` in fp32 and in bf16.
Run it as `python bench/serving.py [--shape small|hybrid] [--checkpoint bfloat16|float32]
[--measure a,b] [--peers a,b]`.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from cairn.engine import Engine, SamplingParams
from cairn.model import Decoder, ModelConfig, build, save
from model import SHAPES as BENCH_SHAPES

SHAPES = {
    "small": ModelConfig(
        pattern="M-M*-M-",
        vocab_size=4096,
        hidden_size=128,
        intermediate_size=512,
        attention_heads=4,
        key_value_heads=2,
        head_dim=32,
        mamba_heads=8,
        mamba_head_dim=32,
        state_size=32,
        groups=2,
        chunk_size=64,
        max_positions=8192,
    ),
    "hybrid": replace(BENCH_SHAPES["hybrid"], max_positions=8192),
}
MEASURES = ("alone", "together", "prefix", "overhead")
PREFIXES = (300, 4096)
WORK = ("hidden", "head", "forward", "likeliest")  # of the model, in a step
TAIL = 20  # tokens after a shared prefix

Requests = list[tuple[list[int], int]]  # prompt, and how many tokens to draw


def greedy(count: int) -> SamplingParams:
    """`count` tokens, whatever they are."""
    return SamplingParams(max_tokens=count, temperature=0, ignore_eos=True)


def random_tokens(count: int, vocab_size: int, seed: int) -> list[int]:
    """Token ids."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, vocab_size, (count,), generator=generator).tolist()


def requests_of(measure: str, vocab_size: int) -> Requests:
    """One request, or 16 whose prompts and completions differ up to fivefold."""
    if measure == "alone":
        return [(random_tokens(64, vocab_size, 0), 64)]
    return [(random_tokens(24 + 40 * i % 104, vocab_size, i), 16 + 24 * i % 72) for i in range(16)]


def engine_runner(model: Decoder, requests: Requests) -> Callable[[], list[list[int]]]:
    """A function that answers the requests with the engine."""
    engine = Engine(model, slots=len(requests))

    def run() -> list[list[int]]:
        engine.forget()
        params = [greedy(count) for _, count in requests]
        found = engine.generate([prompt for prompt, _ in requests], params)
        return [one.tokens for one in found]

    return run


def transformers_runner(
    model: Decoder, requests: Requests, dtype: torch.dtype
) -> Callable[[], list[list[int]]]:
    """The same with `transformers`, loaded from the folder that `save` writes."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        save(model, folder)
        peer = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    longest = max(len(prompt) for prompt, _ in requests)
    padded = [[0] * (longest - len(prompt)) + prompt for prompt, _ in requests]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt, _ in requests]
    ids, mask = torch.tensor(padded), torch.tensor(mask)
    most = max(count for _, count in requests)

    @torch.inference_mode()
    def run() -> list[list[int]]:
        out = peer.generate(
            ids,
            attention_mask=mask,
            do_sample=False,
            min_new_tokens=most,
            max_new_tokens=most,
            pad_token_id=0,
        )
        rows = out[:, longest:].tolist()
        return [row[:count] for row, (_, count) in zip(rows, requests, strict=True)]

    return run


PEERS = {
    "cairn": engine_runner,
    "transformers-float32": partial(transformers_runner, dtype=torch.float32),
    "transformers-bfloat16": partial(transformers_runner, dtype=torch.bfloat16),
}


@dataclass
class Timed:
    """One peer: its runner, and the seconds of its rounds."""

    run: Callable[[], list[list[int]]]
    seconds: list[float] = field(default_factory=list)
    tokens: list[list[int]] = field(default_factory=list)

    def once(self) -> None:
        """Time a round."""
        began = time.perf_counter()
        self.tokens = self.run()
        self.seconds.append(time.perf_counter() - began)


def throughput(
    measure: str, model: Decoder, peers: list[str], rounds: int
) -> Iterator[dict[str, Any]]:
    """A line for each peer."""
    requests = requests_of(measure, model.config.vocab_size)
    timed = {peer: Timed(PEERS[peer](model, requests)) for peer in peers}
    for number in range(rounds + 1):
        for one in timed.values():
            one.once()
            if number == 0:
                one.seconds.clear()
    drawn = sum(count for _, count in requests)
    for peer, one in timed.items():
        line = {
            "peer": peer,
            "requests": len(requests),
            "prompt_tokens": sum(len(prompt) for prompt, _ in requests),
            "drawn": drawn,
            "seconds": round(min(one.seconds), 3),
            "tokens_per_second": round(drawn / min(one.seconds), 2),
        }
        if "cairn" in timed and peer != "cairn":
            line["cairn_is_faster"] = round(min(one.seconds) / min(timed["cairn"].seconds), 2)
            line["same_tokens_as_cairn"] = one.tokens == timed["cairn"].tokens
        yield line


def prefixes(model: Decoder) -> Iterator[dict[str, Any]]:
    """Seconds to the first token with and without a cached prefix, and what was counted."""
    engine = Engine(model, slots=2)
    size = model.config.vocab_size

    def first(prompt: list[int]) -> float:
        began = time.perf_counter()
        engine.generate([prompt], greedy(1))
        return time.perf_counter() - began

    first(random_tokens(64, size, 99))
    for length in PREFIXES:
        shared = random_tokens(length, size, length)
        tails = [random_tokens(TAIL, size, seed) for seed in range(4)]
        before = engine.load.reuse
        cold = first(shared + tails[0])
        second = first(shared + tails[1])
        branch = first(shared[: length // 2] + tails[2])
        other = first(random_tokens(length + TAIL, size, length + 1))
        after = engine.load.reuse
        yield {
            "peer": "cairn",
            "prefix": length,
            "seconds_cold": round(min(cold, other), 4),
            "seconds_second": round(second, 4),
            "seconds_branch_in_the_middle": round(branch, 4),
            "sooner": round(min(cold, other) / second, 1),
            "keys_matched": after.keys_matched - before.keys_matched,
            "state_matched": after.state_matched - before.state_matched,
            "replayed": after.replayed - before.replayed,
        }


def overhead(model: Decoder) -> Iterator[dict[str, Any]]:
    """How much longer a decode step takes than the model's own work in it."""
    inside, open_calls = [0.0], [0]

    def timed(work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any, **named: Any) -> Any:
            open_calls[0] += 1
            began = time.perf_counter()
            found = work(*given, **named)
            open_calls[0] -= 1
            if not open_calls[0]:  # one may call another
                inside[0] += time.perf_counter() - began
            return found

        return run

    for name in WORK:
        setattr(model, name, timed(getattr(model, name)))
    for batch in (1, 16):
        engine = Engine(model, slots=batch)
        for seed in range(batch):
            engine.add(random_tokens(32 + 13 * seed, model.config.vocab_size, seed), greedy(100))
        while engine.load.tokens_drawn < 2 * batch:
            engine.step()
        shares, steps = [], []
        for _ in range(40):
            inside[0], began = 0.0, time.perf_counter()
            engine.step()
            steps.append(time.perf_counter() - began)
            shares.append(steps[-1] - inside[0])
        shares.sort()
        steps.sort()
        yield {
            "peer": "cairn",
            "batch": batch,
            "milliseconds_per_step": round(steps[len(steps) // 2] * 1000, 3),
            "milliseconds_of_the_engine": round(shares[len(shares) // 2] * 1000, 3),
            "share": round(shares[len(shares) // 2] / steps[len(steps) // 2], 4),
        }
    for name in WORK:
        delattr(model, name)


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--shape", choices=SHAPES, default="hybrid")
    parser.add_argument("--measure", default=",".join(MEASURES))
    parser.add_argument("--checkpoint", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        save(build(SHAPES[arguments.shape], 0, dtype=getattr(torch, arguments.checkpoint)), folder)
        model = Engine(folder, slots=1).model  # in the dtype that the engine takes
    about = {
        "shape": arguments.shape,
        "parameters": model.config.parameters,
        "checkpoint": arguments.checkpoint,
        "dtype": str(model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    for measure in arguments.measure.split(","):
        if measure == "prefix":
            lines = prefixes(model)
        elif measure == "overhead":
            lines = overhead(model)
        else:
            lines = throughput(measure, model, arguments.peers.split(","), arguments.rounds)
        for line in lines:
            print(json.dumps({"bench": "serving", "what": measure, **line, **about}), flush=True)


if __name__ == "__main__":
    main()
