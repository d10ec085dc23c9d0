"""Decode throughput of the engine, beside `transformers` on the same weights and machine.

One JSON line per measurement: `{"bench": "serving", "what": "decode", "peer": ..., "batch": ...,
"tokens_per_second": ..., ...}`. Tokens are drawn greedily and end tokens are ignored, so that all
draw as many. Run it as `python bench/serving.py [--threads N] [--batch N ...] [--peers a,b]`.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from cairn.engine import Engine, SamplingParams
from cairn.model import Decoder, ModelConfig, build, save

PROMPT, DRAWN, ROUNDS = 64, 128, 5


def small() -> ModelConfig:
    """A hybrid of about two million parameters."""
    return ModelConfig(
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
        max_positions=2048,
    )


def prompts_of(batch: int, vocab_size: int) -> list[list[int]]:
    """Random prompts, all of one length, so that `transformers` needs no padding."""
    generator = torch.Generator().manual_seed(batch)
    return torch.randint(3, vocab_size, (batch, PROMPT), generator=generator).tolist()


def engine_runner(model: Decoder, batch: int) -> Callable[[int], list[list[int]]]:
    """A function that draws `count` tokens for each prompt with the engine."""
    prompts = prompts_of(batch, model.config.vocab_size)
    engine = Engine(model, slots=batch, capacity=PROMPT + DRAWN, token_budget=batch * PROMPT)

    def run(count: int) -> list[list[int]]:
        params = SamplingParams(max_tokens=count, temperature=0, ignore_eos=True)
        return [one.tokens for one in engine.generate(prompts, params)]

    return run


def transformers_runner(model: Decoder, batch: int) -> Callable[[int], list[list[int]]]:
    """The same with `transformers` generate, loaded from the folder that `save` writes."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        save(model, folder)
        peer = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.tensor(prompts_of(batch, model.config.vocab_size))

    @torch.inference_mode()
    def run(count: int) -> list[list[int]]:
        out = peer.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            min_new_tokens=count,
            max_new_tokens=count,
            pad_token_id=0,
        )
        return out[:, PROMPT:].tolist()

    return run


PEERS = {"cairn": engine_runner, "transformers": transformers_runner}


@dataclass
class Timed:
    """One peer: its runner, and the seconds of its runs."""

    run: Callable[[int], list[list[int]]]
    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    tokens: list[list[int]] = field(default_factory=list)

    def once(self) -> None:
        """Time one token, then all of them."""
        began = time.perf_counter()
        self.run(1)
        middle = time.perf_counter()
        self.tokens = self.run(DRAWN)
        self.first.append(middle - began)
        self.whole.append(time.perf_counter() - middle)


def measure(peers: list[str], model: Decoder, batch: int) -> list[dict[str, Any]]:
    """A line for each peer. The fastest of several rounds counts, and the peers take turns in
    each round: on a shared machine, what is slower is somebody else's work.

    Decode time is that of all tokens less that of the first.
    """
    timed = {peer: Timed(PEERS[peer](model, batch)) for peer in peers}
    for one in timed.values():
        one.run(4)
    for _ in range(ROUNDS):
        for one in timed.values():
            one.once()
    lines = []
    for peer, one in timed.items():
        seconds = min(one.whole) - min(one.first)
        line = {
            "bench": "serving",
            "what": "decode",
            "peer": peer,
            "batch": batch,
            "prompt": PROMPT,
            "drawn": DRAWN,
            "tokens_per_second": round(batch * (DRAWN - 1) / seconds, 1),
            "milliseconds_per_step": round(seconds / (DRAWN - 1) * 1000, 3),
            "milliseconds_to_first_token": round(min(one.first) * 1000, 2),
            "parameters": model.config.parameters,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        if "cairn" in timed:
            line["same_tokens_as_cairn"] = one.tokens == timed["cairn"].tokens
        lines.append(line)
    return lines


def main() -> None:
    """Print one line per batch size and peer, and whether the peers drew the same tokens."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--peers", default="cairn,transformers")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = build(small(), seed=0)
    for batch in arguments.batch:
        for line in measure(arguments.peers.split(","), model, batch):
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
