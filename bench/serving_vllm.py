"""The engine and vLLM on one GPU: one shape, prompts, memory and budget; a JSON line a measure.

    python bench/serving_vllm.py PRESET cairn|vllm [--batch 1,8,64,256] [--prompts 8192,32768]
    python bench/serving_vllm.py PRESET cairn --state float16    a line that says so: not its states
    python bench/serving_vllm.py PRESET table FILE...     ratios of the lines that were kept

Each engine has its own process (vLLM wants its own packages: `PYTHONPATH=... PRESET vllm`). Both
draw bf16 weights on the GPU as a fresh model has them, keep recurrent states in fp32 (but with
`--state`) and no prefixes, capture decoding as graphs, and answer greedily whatever ends a text;
vLLM compiles as it does by default. Prompts are the same random tokens.

- `requests`: --batch prompts of --context tokens that come at once and draw --drawn tokens each.
  `seconds` until the last is answered; `milliseconds` of a step while all of them draw, from the
  first step in which all do to the one before the first ends.
- `prompt`: one prompt until its first token.

The fastest of two or three rounds counts (long ones are run once). Before that requests of other
lengths compile and capture what these need.
"""

import argparse
import importlib
import itertools
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any, Protocol

import torch
from random_weights import draw, random_model

from cairn.base import write_json
from cairn.engine import Caching, Engine, SamplingParams
from cairn.model.presets import preset

ROUNDS = 2, 3  # of a measure: at least, and at most while they take SPENT seconds
SPENT = 6.0
LONG = 15.0  # seconds of a round that is not repeated
SETTLED = 4  # steps left out after all requests draw
RESERVED = 4 * 2**30  # bytes for activations and graphs beside our weights and pools


class Peer(Protocol):
    """An engine that answers requests step by step."""

    def add(self, prompt: list[int], drawn: int) -> None:
        """Queue a request."""
        ...

    def step(self) -> list[tuple[str, int]]:
        """Which requests have more tokens since the last call, and how many."""
        ...

    def facts(self) -> dict[str, Any]:
        """What is worth telling of it."""
        ...


class Cairn:
    """Our engine."""

    def __init__(self, told: argparse.Namespace) -> None:
        model = random_model(told.preset)
        memory = told.share * torch.cuda.mem_get_info()[1]
        self._engine = Engine(
            model,
            slots=max(told.batch),
            capacity=told.capacity,
            token_budget=told.budget,
            memory=int(memory - torch.cuda.memory_allocated() - RESERVED),
            state_dtype=told.state,
            caching=Caching(prefixes=False),
        )
        self._warmed = round(self._engine.warm_up(), 1)

    def add(self, prompt: list[int], drawn: int) -> None:
        params = SamplingParams(max_tokens=drawn, temperature=0, ignore_eos=True)
        self._engine.add(prompt, params)

    def step(self) -> list[tuple[str, int]]:
        return [(str(one.id), len(one.tokens)) for one in self._engine.step()]

    def facts(self) -> dict[str, Any]:
        peak = torch.cuda.max_memory_reserved() / 2**30
        gpu = torch.cuda.get_device_name()
        facts = {"gpu": gpu, "torch": torch.__version__, "peak_gib": round(peak, 1)}
        return facts | {"warm_up": self._warmed}


class VLLM:
    """vLLM, its engine in the process that it starts for it."""

    def __init__(self, told: argparse.Namespace) -> None:
        quiet = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
        pickles = {"VLLM_ALLOW_INSECURE_SERIALIZATION": "1"}  # `draw` goes to its process
        os.environ.update(quiet | pickles)
        vllm: Any = importlib.import_module("vllm")  # not one of our packages
        config = preset(told.preset).to_json() | {"dtype": "bfloat16"}
        hybrid = {"mamba_ssm_cache_dtype": "float32"} if "mamba_num_heads" in config else {}
        with tempfile.TemporaryDirectory() as folder:
            write_json(Path(folder) / "config.json", config)
            model = vllm.LLM(
                folder,
                load_format="dummy",
                skip_tokenizer_init=True,
                generation_config="vllm",
                enable_prefix_caching=False,
                gpu_memory_utilization=told.share,
                max_num_seqs=max(told.batch),
                max_model_len=told.capacity,
                max_num_batched_tokens=told.budget,
                **hybrid,
                **json.loads(told.options),
            )
        model.apply_model(_draw_theirs)
        self._vllm, self._engine, self._ids = vllm, model.llm_engine, itertools.count()

    def add(self, prompt: list[int], drawn: int) -> None:
        params = self._vllm.SamplingParams(
            max_tokens=drawn,
            temperature=0,
            ignore_eos=True,
            detokenize=False,
            output_kind=self._vllm.sampling_params.RequestOutputKind.DELTA,
        )
        given = {"prompt_token_ids": prompt}
        self._engine.add_request(str(next(self._ids)), given, params)

    def step(self) -> list[tuple[str, int]]:
        found = self._engine.step()
        return [(one.request_id, len(one.outputs[0].token_ids)) for one in found]

    def facts(self) -> dict[str, Any]:
        mode = self._engine.vllm_config.compilation_config
        graphs = str(mode.cudagraph_mode).partition(".")[2]
        return {"vllm": self._vllm.__version__, "graphs": graphs, "mode": str(mode.mode)}


def _draw_theirs(model: torch.nn.Module) -> None:
    draw(model.named_parameters())


def answered(peer: Peer, requests: list[tuple[list[int], int]]) -> dict[str, float]:
    """Seconds until all had begun and until all were answered, and of a step in between."""
    began = time.perf_counter()
    for prompt, drawn in requests:
        peer.add(prompt, drawn)
    drawn_by: dict[str, int] = {}
    todo = sum(drawn for _, drawn in requests)
    least = min(drawn for _, drawn in requests)
    together: list[tuple[float, int]] = []  # time and tokens while all draw
    while todo:
        for name, count in peer.step():
            drawn_by[name] = drawn_by.get(name, 0) + count
            todo -= count
        now = time.perf_counter() - began
        if len(drawn_by) == len(requests) and max(drawn_by.values()) < least:
            together.append((now, todo))
    line = {"seconds": time.perf_counter() - began}
    together = together[SETTLED:]
    if len(together) > 1:
        (start, more), (stop, fewer) = together[0], together[-1]
        line["milliseconds"] = 1000 * (stop - start) * len(requests) / (more - fewer)
        line["steps"] = len(together) - 1
    return line


def rounds(peer: Peer, requests: list[tuple[list[int], int]]) -> dict[str, float]:
    """The fastest of each: a kernel's first sight of sizes may compile it anew."""
    least, most = ROUNDS
    found = [answered(peer, requests)]
    while len(found) < most and found[0]["seconds"] < LONG:
        if len(found) >= least and sum(one["seconds"] for one in found) >= SPENT:
            break
        found.append(answered(peer, requests))
    best = {key: round(min(one[key] for one in found), 4) for key in found[0]}
    return best | {"rounds": len(found)}


def random_prompts(vocab_size: int, count: int, length: int) -> list[list[int]]:
    """Random ids, the same for everybody."""
    dice = torch.Generator().manual_seed(length)
    return torch.randint(3, vocab_size, (count, length), generator=dice).tolist()


def warm(peer: Peer, vocab_size: int, told: argparse.Namespace) -> None:
    """Meet the kernels and graphs of all measures: any number of rows, at their length of keys."""
    beside = [(one, 32) for one in random_prompts(vocab_size, 1, 9)]  # draws while others are read
    answered(peer, beside + [(one, 4) for one in random_prompts(vocab_size, 8, told.context)])
    for length in told.prompts:
        answered(peer, [(one, 2) for one in random_prompts(vocab_size, 1, length)])
    most = max(told.batch)
    short = random_prompts(vocab_size, most, 32)
    long = random_prompts(vocab_size, 1, told.context + told.drawn // 2)
    lives = [most // 2 + 8, *(8 + n // 2 for n in range(1, most))]  # rows end one after the other
    answered(peer, list(zip(long + short[1:], lives, strict=True)))


def measure(peer: Peer, told: argparse.Namespace) -> None:
    """Print the lines."""
    vocab_size = preset(told.preset).vocab_size
    peer_name = told.peer if told.state is None else f"{told.peer}, states in {told.state}"
    same = {"bench": "serving_vllm", "shape": told.preset, "peer": peer_name}
    began = time.perf_counter()
    warm(peer, vocab_size, told)
    facts = {"warm": round(time.perf_counter() - began, 1), "started": told.started}
    facts |= {"budget": told.budget, "share": told.share}
    print(json.dumps(same | {"what": "facts"} | facts | peer.facts()), flush=True)
    for length in told.prompts:
        line = rounds(peer, [(random_prompts(vocab_size, 1, length)[0], 1)])
        rate = {"tokens_per_second": round(length / line["seconds"], 1)}
        print(json.dumps(same | {"what": "prompt", "length": length} | line | rate), flush=True)
    for batch in told.batch:
        prompts = random_prompts(vocab_size, batch, told.context)
        line = rounds(peer, [(one, told.drawn) for one in prompts])
        case = {"batch": batch, "context": told.context, "drawn": told.drawn}
        rate = {"tokens_per_second": round(batch * told.drawn / line["seconds"], 1)}
        if "milliseconds" in line:
            rate["steps_tokens_per_second"] = round(1000 * batch / line["milliseconds"], 1)
        print(json.dumps(same | {"what": "requests"} | case | line | rate), flush=True)


def table(told: argparse.Namespace) -> None:
    """How many times as fast as vLLM, case by case."""
    kept: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for path in told.files:
        for text in path.read_text(encoding="utf-8").splitlines():
            if not text.startswith('{"bench": "serving_vllm"'):
                continue
            line = json.loads(text)
            if line["shape"] == told.preset and line["what"] != "facts":
                case = (line["what"], line.get("batch", 1), line.get("length", line.get("context")))
                kept.setdefault(case, {})[line["peer"]] = line
    for case, peers in kept.items():
        theirs = peers.pop("vllm", {})
        for name, ours in peers.items():
            for unit in ("milliseconds", "seconds"):
                if unit in ours and unit in theirs:
                    ratio = round(theirs[unit] / ours[unit], 3)
                    print(name, *case, unit, round(ours[unit], 4), round(theirs[unit], 4), ratio)


def main() -> None:
    """Measure one engine, or compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("preset")
    parser.add_argument("peer", choices=("cairn", "vllm", "table"))
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--batch", type=lambda x: [int(n) for n in x.split(",")], default=[1, 8])
    parser.add_argument("--prompts", type=lambda x: [int(n) for n in x.split(",")], default=[8192])
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--drawn", type=int, default=256)
    parser.add_argument("--budget", type=int, default=8192, help="tokens of a step")
    parser.add_argument("--share", type=float, default=0.9, help="of the GPU's memory")
    parser.add_argument("--state", choices=("float16", "int8"), help="cairn: states in fewer bits")
    parser.add_argument("--options", default="{}", help="vllm: more arguments of LLM, as JSON")
    told = parser.parse_args()
    if told.state and told.peer != "cairn":
        parser.error("--state is for cairn")
    if told.peer == "table":
        table(told)
        return
    told.capacity = max(*told.prompts, told.context + 2 * told.drawn) + 16
    began = time.perf_counter()
    peer: Peer = Cairn(told) if told.peer == "cairn" else VLLM(told)
    told.started = round(time.perf_counter() - began, 1)
    measure(peer, told)


if __name__ == "__main__":
    main()
