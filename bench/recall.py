"""What the long-context phase gives in small: a passage that stands again, by its length.

    python bench/recall.py                 in about five minutes on one CPU core

A hybrid of one Mamba-2, one attention and one feed-forward layer learns passages of random symbols
that are repeated until a context is full, 128 tokens at a time. Then it goes on at the floor of the
rate as `Extend` does, at four times the length that it is to serve, or, for comparison, for as many
tokens at 128. Each is measured by what it spends on a symbol of a passage that stands the second
time (guessing costs 6.57 bits), and by the share of them that it finds: recall from as far away as
the passage is long, one of the skills that RULER asks for (arXiv 2404.06654).
"""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch

from cairn.model import Decoder, ModelConfig, Spans, build
from cairn.tokens.batch import Batch
from cairn.train import NextToken, TrainSettings, train

SHORT, SERVED, LONG = 128, 512, 2048
PEAK, FLOOR = 1e-2, 0.25
KINDS = 95  # of symbols
SHORTEST, LONGEST = 8, 4  # symbols of a passage; a context holds the longest so many times

MODEL = ModelConfig(
    pattern="M*-", vocab_size=KINDS, hidden_size=64, intermediate_size=128, attention_heads=2,
    key_value_heads=2, head_dim=64, mamba_heads=2, mamba_head_dim=32, state_size=16, groups=2,
    chunk_size=32, initializer_range=0.06, max_positions=SHORT,
)  # fmt: skip


def repeated(generator: np.random.Generator, tokens: int, passage: int) -> np.ndarray:
    """int64 [tokens + 1]: so many random symbols, again and again."""
    return np.resize(generator.integers(0, KINDS, passage), tokens + 1)


class Passages:
    """A stream of contexts: sample n is a function of the seed and n."""

    def __init__(self, tokens: int, seed: int) -> None:
        self.tokens, self.seed = tokens, seed

    def batch(self, samples: Sequence[int]) -> Batch:
        """Contexts of passages of many lengths."""
        rows = []
        for sample in samples:
            generator = np.random.default_rng([self.seed, sample])
            passage = int(generator.integers(SHORTEST, self.tokens // LONGEST + 1))
            rows.append(repeated(generator, self.tokens, passage))
        ids = np.stack(rows)
        bounds = np.arange(0, ids.size - len(ids) + 1, self.tokens).astype(np.int32)
        weights = np.ones(ids.size - len(ids), np.float32)
        return Batch(ids[:, :-1].ravel(), ids[:, 1:].ravel(), weights, bounds, [])


@torch.no_grad()
def measured(model: Decoder, tokens: int, contexts: int = 20) -> dict[str, float]:
    """On contexts of so many tokens: passages twice, drawn apart from those that were learned."""
    bits, found = [], []
    for number in range(contexts):
        generator = np.random.default_rng([1_000_000, tokens, number])
        whole = torch.from_numpy(repeated(generator, tokens, tokens // 2))
        hidden = model.hidden(whole[:-1], Spans.of([tokens]))[tokens // 2 :]
        logs = torch.log_softmax(model.head(hidden).float(), -1)
        wanted = whole[1 + tokens // 2 :]
        bits.append(-logs.gather(1, wanted[:, None]).mean().item() / math.log(2))
        found.append((logs.argmax(-1) == wanted).float().mean().item())
    error = float(np.std(found, ddof=1) / contexts**0.5)
    line = {"bits": float(np.mean(bits)), "found": float(np.mean(found)), "standard_error": error}
    return {name: round(value, 4) for name, value in line.items()}


def tell(what: str, model: Decoder, tokens: int, begin: float) -> None:
    """One JSON line: the model after so many tokens, at each length."""
    scores = {
        str(length): measured(model, length) for length in (64, SHORT, 256, SERVED, 1024, LONG)
    }
    seconds = round(time.monotonic() - begin)
    print(
        json.dumps({"bench": "recall", "what": what, "tokens": tokens, "seconds": seconds} | scores)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=1_300_000, help="at 128 tokens a sequence")
    parser.add_argument("--more", type=int, default=1_000_000, help="in the phase after it")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    model, begin = build(MODEL, options.seed), time.monotonic()

    def learn(learner: Decoder, length: int, seed: int, settings: TrainSettings) -> None:
        with tempfile.TemporaryDirectory() as out:
            train(learner, NextToken(), Passages(length, seed), settings, Path(out))

    step = 3 * LONG  # tokens
    first = TrainSettings(
        tokens=options.tokens, sequences=step // SHORT, sequence_length=SHORT, lr=PEAK,
        min_lr_ratio=FLOOR, warmup=50, save_every=10**6,
    )  # fmt: skip
    learn(model, SHORT, options.seed, first)
    tell("base", model, options.tokens, begin)
    for what, length in (("long", LONG), ("control", SHORT)):
        learner = deepcopy(model)
        more = TrainSettings(
            tokens=options.more, sequences=step // length, sequence_length=length,
            lr=PEAK * FLOOR, warmup=0, decay=0.0, save_every=10**6,
        )  # fmt: skip
        learn(learner, length, options.seed + 1, more)
        tell(f"{what}: {length} tokens a sequence", learner, options.tokens + options.more, begin)


if __name__ == "__main__":
    main()
