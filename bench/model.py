"""Prefill, training step and decode of one checkpoint, beside transformers in the same run.

One JSON line a measurement: tokens per second of both, their ratio, and the peak memory of each.
Every measurement has fresh processes, ours and the peer's, with the same random checkpoint (in bf16
as released ones are, unless told) and as many threads; they take turns, so that a busy machine
disturbs all, and the best of the rounds counts. The peer is measured in fp32 and in bf16, and
`ratio` is to the faster of the two; we run in the dtype that `load` gives, unless told. A training
step is fp32 on both sides, or with `--dtype bfloat16` autocast on both.
`floor_tokens_per_second` is what the matrix products alone allow in our dtype, timed with PyTorch's
own product. transformers runs its PyTorch path where mamba_ssm and causal_conv1d are not installed;
the line says so.

    python bench/model.py [--shape hybrid] [--measure prefill,train,decode-1,decode-16,linear]
                          [--checkpoint bfloat16] [--device cpu] [--dtype auto]
                          [--peers float32,bfloat16] [--threads N] [--rounds 3]
"""

import argparse
import copy
import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from cairn.model import Cache, ModelConfig, Spans, build, load, save
from cairn.ops import keep_freed_memory, linear_cross_entropy

SHAPES = {
    # A quarter of Nemotron-H 8B's widths and half of Nano 9B's pattern.
    "hybrid": ModelConfig(
        pattern="M-M-M-MM-M-M-M*-M-M-M*-M-M-M-",
        vocab_size=32_768,
        hidden_size=512,
        intermediate_size=2048,
        attention_heads=8,
        key_value_heads=2,
        head_dim=64,
        mamba_heads=16,
        mamba_head_dim=64,
        state_size=128,
        groups=8,
        chunk_size=128,
        max_positions=65_536,
    ),
    # A quarter of StarCoder2 3B's widths and a third of its depth.
    "starcoder2": ModelConfig(
        family="starcoder2",
        pattern=10 * "*-",
        vocab_size=49_152,
        hidden_size=768,
        intermediate_size=3072,
        attention_heads=12,
        key_value_heads=2,
        head_dim=64,
        norm="layer",
        activation="gelu_tanh",
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        rope_theta=999_999.4420358813,
        sliding_window=4096,
        max_positions=16_384,
        tie_embeddings=True,
    ),
}
KINDS = ("float32", "bfloat16")
MEASURES = ("prefill", "train", "decode-1", "decode-16", "linear")
PREFILL = 2048  # tokens of one sequence
LONG = 32_768
TRAIN = (1, 512)  # sequences, tokens each
PROMPT, DECODED = 128, 32  # tokens before decoding, tokens that every sequence is continued by

Prepared = tuple[Callable[[], Any], Callable[[Any], Any]]  # what is not timed, and what is


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="hybrid", choices=SHAPES)
    parser.add_argument("--measure", default=",".join(MEASURES))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--checkpoint", default="bfloat16", choices=KINDS)
    parser.add_argument("--dtype", default="auto", choices=("auto", *KINDS))
    parser.add_argument("--peers", default=",".join(KINDS), help="dtypes of the peer")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=("cairn", "transformers", "floor"), help="(internal)")
    parser.add_argument("--folder", help="(internal)")
    arguments = parser.parse_args()
    if arguments.side:
        serve(arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        arguments.folder = folder
        stored = getattr(torch, arguments.checkpoint)
        save(build(SHAPES[arguments.shape], seed=0, dtype=stored), Path(folder))
        for measure in arguments.measure.split(","):
            if measure == "linear":
                report_linear(arguments)
            else:
                report(measure, arguments)


# -- the two processes ---------------------------------------------------------------------------


def serve(arguments: argparse.Namespace) -> None:
    """One side of one measurement: a run and its seconds for every line that comes in."""
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # for both
    warnings.filterwarnings("ignore")
    sides = {"cairn": ours, "transformers": theirs, "floor": floor}
    prepare, step = sides[arguments.side](arguments)
    step(prepare())  # warm
    print("ready", flush=True)
    for _ in sys.stdin:
        given = prepare()
        wait_for(arguments.device)
        start = time.perf_counter()
        step(given)
        wait_for(arguments.device)
        print(json.dumps([time.perf_counter() - start, peak_memory(arguments.device)]), flush=True)


def wait_for(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def peak_memory(device: str) -> int:
    """Bytes: the most that this process had in memory at once, or on the GPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s*(\d+) kB", status)
    assert found
    return int(found[1]) * 1024


@contextmanager
def side(
    name: str, measure: str, arguments: argparse.Namespace, dtype: str
) -> Iterator[Callable[[], Any]]:
    """A process for one side; calling what is yielded runs it once: (seconds, peak bytes)."""
    kept = ("shape", "checkpoint", "device", "threads", "folder")
    given = [f"--{key}={getattr(arguments, key)}" for key in kept] + [f"--dtype={dtype}"]
    command = [sys.executable, __file__, f"--side={name}", f"--measure={measure}", *given]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as child:
        assert child.stdin
        assert child.stdout
        stdin, stdout = child.stdin, child.stdout

        def line() -> str:
            text = stdout.readline()
            if not text:
                raise SystemExit(f"{name}: {measure} ended before its time")
            return text

        line()

        def run() -> tuple[float, int]:
            stdin.write("\n")
            stdin.flush()
            seconds, peak = json.loads(line())
            return seconds, peak

        yield run
        stdin.close()


# -- what is measured ----------------------------------------------------------------------------


def tokens_of(measure: str) -> tuple[int, int]:
    """(sequences, tokens each) that the measurement reads before or while it is timed."""
    if measure.startswith("decode-"):
        return int(measure.removeprefix("decode-")), PROMPT
    if measure.startswith("linear-"):
        return 1, int(measure.removeprefix("linear-"))
    return TRAIN if measure == "train" else (1, PREFILL)


def ids_of(measure: str, arguments: argparse.Namespace) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = tokens_of(measure)
    ids = torch.randint(3, SHAPES[arguments.shape].vocab_size, shape, generator=generator)
    return ids.to(arguments.device)


def dtype_of(arguments: argparse.Namespace) -> str:
    """The dtype that we run in: a training step's of its products."""
    if arguments.dtype != "auto":
        return arguments.dtype
    return "float32" if arguments.measure == "train" else arguments.checkpoint


def ours(arguments: argparse.Namespace) -> Prepared:
    ids = ids_of(arguments.measure, arguments)
    dtype = getattr(torch, dtype_of(arguments))
    if arguments.measure == "train":
        model = load(arguments.folder, arguments.device, torch.float32)
        return train_ours(model, ids, dtype != torch.float32)
    if arguments.measure.startswith("linear-"):
        shape = SHAPES[arguments.shape]
        model = build(replace(shape, pattern=shape.pattern.replace("*", "")), seed=0, dtype=dtype)
    else:
        model = load(arguments.folder, arguments.device, dtype, mapped=False)  # as an engine does
    model = model.eval().requires_grad_(False)
    batch, length = ids.shape
    cache = Cache(model.config, batch, length + DECODED, model.device, model.dtype)
    one = Spans.of([1] * batch)

    @torch.inference_mode()
    def prefill(_: Any = None) -> Tensor:
        cache.reset()
        hidden = model.hidden(ids.flatten(), Spans.of([length] * batch), cache)
        return model.head(hidden.unflatten(0, ids.shape)[:, -1]).argmax(-1)

    @torch.inference_mode()
    def decode(tokens: Tensor) -> Tensor:
        for _ in range(DECODED):
            _, tokens = model.likeliest(tokens, one, cache)
        return tokens

    if arguments.measure.startswith("decode"):
        return prefill, decode
    return cache.reset, prefill


def theirs(arguments: argparse.Namespace) -> Prepared:
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    training = arguments.measure == "train"
    dtype = torch.float32 if training else getattr(torch, arguments.dtype)
    model = transformers.AutoModelForCausalLM.from_pretrained(arguments.folder, dtype=dtype)
    model = model.to(arguments.device)
    ids = ids_of(arguments.measure, arguments)
    if training:
        return train_theirs(model, ids, arguments.dtype != "float32")

    @torch.inference_mode()
    def prefill(_: Any = None) -> tuple[Tensor, Any]:
        out = model(ids, use_cache=True, logits_to_keep=1)
        return out.logits[:, -1].argmax(-1), out.past_key_values

    @torch.inference_mode()
    def decode(state: tuple[Tensor, Any]) -> Tensor:
        tokens, past = state
        for _ in range(DECODED):
            out = model(tokens[:, None], past_key_values=past, use_cache=True)
            tokens, past = out.logits[:, -1].argmax(-1), out.past_key_values
        return tokens

    if arguments.measure.startswith("decode"):
        state = prefill()  # takes far longer than what is timed: once
        return lambda: copy.deepcopy(state), decode
    return lambda: None, prefill


def train_ours(model: Any, ids: Tensor, autocast: bool) -> Prepared:
    """Forward, backward and AdamW over next tokens."""
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    spans, flat = Spans.of([ids.shape[1]] * len(ids)), ids.flatten()
    targets = ids.roll(-1, 1).flatten()
    weights = torch.ones(ids.shape, device=ids.device).index_fill_(
        1, torch.tensor([ids.shape[1] - 1], device=ids.device), 0
    )

    def step(_: Any) -> None:
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=autocast):
            hidden = model.hidden(flat, spans)
            loss = linear_cross_entropy(hidden, model.lm_head.weight, targets, weights.flatten())
        (loss / weights.sum()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return lambda: None, step


def train_theirs(model: Any, ids: Tensor, autocast: bool) -> Prepared:
    """The same, with the loss that transformers computes from labels."""
    optimizer = torch.optim.AdamW(model.train().parameters(), fused=True)

    def step(_: Any) -> None:
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=autocast):
            loss = model(ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return lambda: None, step


def floor(arguments: argparse.Namespace) -> Prepared:
    """The measurement's matrix products and nothing else."""
    config, dtype = SHAPES[arguments.shape], getattr(torch, dtype_of(arguments))
    kind = {"device": arguments.device, "dtype": dtype}
    model = build(config, device=arguments.device, dtype=dtype)
    head = model.lm_head.weight
    matrices = [m.weight for m in model.modules() if isinstance(m, torch.nn.Linear)]
    matrices = [weight.detach() for weight in matrices if weight is not head]
    batch, length = tokens_of(arguments.measure)
    training, decoding = arguments.measure == "train", arguments.measure.startswith("decode")
    rows = batch if decoding else batch * length
    inputs = {w.shape[1]: torch.randn(rows, w.shape[1], **kind) for w in matrices}
    outputs = {w.shape[0]: torch.randn(rows, w.shape[0], **kind) for w in matrices}

    @torch.inference_mode()
    def step(_: Any) -> None:
        for _ in range(DECODED if decoding else 1):
            for weight in matrices:
                x, y = inputs[weight.shape[1]], outputs[weight.shape[0]]
                functional.linear(x, weight)
                if training:
                    y @ weight
                    y.t() @ x
            hidden = inputs[head.shape[1]]
            if not training:
                functional.linear(hidden if decoding else hidden[-1:], head.detach())
                continue
            for part in hidden.split(256):
                logits = functional.linear(part, head.detach())
                logits @ head.detach()
                logits.t() @ part

    return lambda: None, step


# -- lines ---------------------------------------------------------------------------------------


def report(measure: str, arguments: argparse.Namespace) -> None:
    """Take turns, keep the best, print a line."""
    own = dtype_of(argparse.Namespace(**vars(arguments) | {"measure": measure}))
    peers = [own] if measure == "train" else arguments.peers.split(",")
    sides = [("cairn", own), *(("transformers", dtype) for dtype in peers), ("floor", own)]
    found: dict[tuple[str, str], list[tuple[float, int]]] = {one: [] for one in sides}
    with ExitStack() as stack:
        runs = [stack.enter_context(side(n, measure, arguments, dtype)) for n, dtype in sides]
        for _ in range(arguments.rounds):
            for one, run in zip(sides, runs, strict=True):
                found[one].append(run())
    batch, length = tokens_of(measure)
    tokens = batch * (DECODED if measure.startswith("decode") else length)
    rate = {one: tokens / min(seconds for seconds, _ in found[one]) for one in sides}
    peak = {one: round(max(size for _, size in found[one]) / 2**20, 1) for one in sides}
    fastest = max(rate["transformers", dtype] for dtype in peers)
    version = importlib.metadata.version("transformers")
    kernels = all(importlib.util.find_spec(name) for name in ("mamba_ssm", "causal_conv1d"))
    line = about(measure, arguments) | {
        "dtype": own,
        "tokens": tokens,
        "tokens_per_second": round(rate["cairn", own], 1),
        "peer": f"transformers {version}",
        "peer_kernels": kernels and arguments.device == "cuda",
        "peer_tokens_per_second": {d: round(rate["transformers", d], 1) for d in peers},
        "ratio": round(rate["cairn", own] / fastest, 2),
        "floor_tokens_per_second": round(rate["floor", own], 1),
        "peak_mib": peak["cairn", own],
        "peer_peak_mib": {dtype: peak["transformers", dtype] for dtype in peers},
    }
    print(json.dumps(line), flush=True)


def report_linear(arguments: argparse.Namespace) -> None:
    """Prefill of a short and of a long text with the attention layers left out: time a token."""
    each = {}
    for length in (PREFILL, LONG):
        with side("cairn", f"linear-{length}", arguments, dtype_of(arguments)) as run:
            each[length] = min(run()[0] for _ in range(arguments.rounds)) / length
    line = about("prefill without attention", arguments) | {
        "dtype": dtype_of(arguments),
        "microseconds_per_token": {length: round(1e6 * each[length], 2) for length in each},
        "ratio": round(each[LONG] / each[PREFILL], 3),
    }
    print(json.dumps(line), flush=True)


def about(measure: str, arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "bench": "model",
        "shape": arguments.shape,
        "parameters": SHAPES[arguments.shape].parameters,
        "measure": measure,
        "device": arguments.device,
        "checkpoint": arguments.checkpoint,
        "threads": arguments.threads,
    }


if __name__ == "__main__":
    main()
