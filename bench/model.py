"""Prefill, training step and decode of one checkpoint, beside transformers in the same run.

Prints one JSON line a measurement: tokens per second of both, and their ratio. Both read the
same random checkpoint, use the same threads, and take turns, best of several rounds.
transformers runs its PyTorch path where mamba_ssm and causal_conv1d are not installed; the line
says so.

    python bench/model.py [--device cpu] [--dtype float32] [--threads N] [--rounds 3]
"""

import argparse
import importlib.util
import json
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.optim import AdamW

from cairn.model import Cache, ModelConfig, Spans, build, load, save
from cairn.ops import keep_freed_memory, linear_cross_entropy

SIZES = {
    "cpu": ModelConfig(
        pattern="M-M*-M-M-",
        vocab_size=4096,
        hidden_size=192,
        intermediate_size=768,
        attention_heads=4,
        key_value_heads=2,
        head_dim=48,
        mamba_heads=12,
        mamba_head_dim=32,
        state_size=32,
        groups=2,
        chunk_size=32,
    ),
    "cuda": ModelConfig(
        pattern="M-M*-M-M-",
        vocab_size=32_768,
        hidden_size=1024,
        intermediate_size=4096,
        attention_heads=16,
        key_value_heads=8,
        head_dim=64,
        mamba_heads=32,
        mamba_head_dim=64,
        state_size=128,
        groups=8,
        chunk_size=64,
    ),
}
SHAPES = {"cpu": (4, 256), "cuda": (8, 1024)}  # sequences, tokens each
DECODED = 32  # tokens that every sequence is continued by

Step = Callable[[], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # for both
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        measure_all(Path(folder), arguments)


def measure_all(folder: Path, arguments: argparse.Namespace) -> None:
    """Every measurement, each on fresh copies of one checkpoint."""
    device, dtype = arguments.device, getattr(torch, arguments.dtype)
    config = SIZES[device]
    save(build(config, seed=0), folder)
    sequences, length = SHAPES[device]
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, config.vocab_size, (sequences, length), generator=generator).to(device)
    for name, autocast in (("train", False), ("train, bf16 autocast", True)):
        ours = train_ours(load(folder, device), ids, autocast)
        theirs = train_theirs(peer(folder, device, torch.float32), ids, autocast)
        report(name, ours, theirs, ids.numel(), arguments, "float32")
    mine, other = load(folder, device, dtype).eval(), peer(folder, device, dtype).eval()
    with torch.inference_mode():
        spans = Spans.of([length] * sequences)
        cache = Cache(config, sequences, length + DECODED, device, dtype)

        def prefill() -> Tensor:
            cache.reset()
            hidden = mine.hidden(ids.flatten(), spans, cache)
            return mine.head(hidden.unflatten(0, ids.shape)[:, -1])

        def their_prefill() -> Any:
            return other(ids, use_cache=True, logits_to_keep=1)

        report("prefill", prefill, their_prefill, ids.numel(), arguments)
        for batch in (1, sequences):
            decoded = batch * DECODED
            pair = decode_ours(mine, ids[:batch]), decode_theirs(other, ids[:batch])
            report(f"decode, batch {batch}", *pair, decoded, arguments)


def peer(folder: Path, device: str, dtype: torch.dtype) -> Any:
    """The checkpoint in transformers."""
    found = transformers.NemotronHForCausalLM.from_pretrained(folder, dtype=dtype)
    return found.to(device)


def train_ours(model: Any, ids: Tensor, autocast: bool) -> Step:
    """Forward, backward and AdamW over next tokens."""
    optimizer = AdamW(model.parameters(), fused=True)
    spans, flat = Spans.of([ids.shape[1]] * len(ids)), ids.flatten()
    targets = ids.roll(-1, 1).flatten()
    weights = torch.ones(ids.shape, device=ids.device).index_fill_(
        1, torch.tensor([ids.shape[1] - 1], device=ids.device), 0
    )

    def step() -> None:
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=autocast):
            hidden = model.hidden(flat, spans)
            loss = linear_cross_entropy(hidden, model.lm_head.weight, targets, weights.flatten())
        (loss / weights.sum()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def train_theirs(model: Any, ids: Tensor, autocast: bool) -> Step:
    """The same, with the loss that transformers computes from labels."""
    optimizer = AdamW(model.train().parameters(), fused=True)

    def step() -> None:
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=autocast):
            loss = model(ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def decode_ours(model: Any, ids: Tensor) -> Step:
    """Greedy tokens after a prefilled prompt; the prompt is not measured."""
    batch, length = ids.shape
    cache = Cache(model.config, batch, length + DECODED, model.device, model.dtype)
    one = Spans.of([1] * batch)

    def prepare() -> Tensor:
        cache.reset()
        hidden = model.hidden(ids.flatten(), Spans.of([length] * batch), cache)
        return model.head(hidden.unflatten(0, ids.shape)[:, -1]).argmax(-1)

    def step(tokens: Tensor) -> Tensor:
        for _ in range(DECODED):
            tokens = model(tokens, one, cache).argmax(-1)
        return tokens

    step.prepare = prepare  # type: ignore[attr-defined]
    return step  # type: ignore[return-value]


def decode_theirs(model: Any, ids: Tensor) -> Step:
    """The same, with transformers' cache, without its generate() around it."""

    def prepare() -> tuple[Tensor, Any]:
        out = model(ids, use_cache=True, logits_to_keep=1)
        return out.logits[:, -1].argmax(-1), out.past_key_values

    def step(state: tuple[Tensor, Any]) -> Tensor:
        tokens, past = state
        for _ in range(DECODED):
            out = model(tokens[:, None], past_key_values=past, use_cache=True)
            tokens, past = out.logits[:, -1].argmax(-1), out.past_key_values
        return tokens

    step.prepare = prepare  # type: ignore[attr-defined]
    return step  # type: ignore[return-value]


def seconds(step: Step, device: str) -> float:
    """One run; what `step.prepare` does is not counted."""
    prepare = getattr(step, "prepare", None)
    given = (prepare(),) if prepare else ()
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    step(*given)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def report(
    name: str, ours: Step, theirs: Step, tokens: int, arguments: argparse.Namespace, dtype: str = ""
) -> None:
    """Take turns, keep the best, print a line."""
    times: list[list[float]] = [[], []]
    for _ in range(1 + arguments.rounds):
        for step, kept in zip((ours, theirs), times, strict=True):
            kept.append(seconds(step, arguments.device))
    best, peer_best = (min(kept[1:]) for kept in times)
    fast = all(importlib.util.find_spec(kernel) for kernel in ("mamba_ssm", "causal_conv1d"))
    line = {
        "bench": "model",
        "measure": name,
        "device": arguments.device,
        "dtype": dtype or arguments.dtype,
        "threads": arguments.threads,
        "tokens": tokens,
        "tokens_per_second": round(tokens / best, 1),
        "peer": f"transformers {transformers.__version__}",
        "peer_kernels": fast and arguments.device == "cuda",
        "peer_tokens_per_second": round(tokens / peer_best, 1),
        "ratio": round(peer_best / best, 2),
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
