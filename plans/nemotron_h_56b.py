"""Nemotron-H-56B-Base (arXiv 2504.03624, section 2): 20T tokens in FP8 on 6,144 GPUs.

cairn show plans/nemotron_h_56b.py                     tokens, steps, FLOPs, GPU-days
cairn show plans/nemotron_h_56b.py --gpus 6144         memory, bytes over links, time of a step
cairn make plans/nemotron_h_56b.py scale=tiny          the same life in small, in a minute

Published: tokens, length, FP8 with current scaling, peak of the rate, warmup, four phases with
switches at 60% and 80% and a last one of 380B tokens, and of the first phase crawl 59%, code 20%,
academic 8.8%. The batch of 3,072 after a ramp, and the floor of 1%, are remembered, not read. Not
published: the ramp (here it ends with the warmup), the length of the decay (Nano 2's share), all
other weights.
"""

from typing import Literal

from nemotron_family import Corpus, life

from cairn.base import Recipe
from cairn.model import ModelConfig
from cairn.train import TrainSettings

TOKENS, LAST_PHASE = 20_000_000_000_000, 380_000_000_000

corpora = {  # weights of the four phases: breadth first, quality last
    "crawl": Corpus(("text:data/crawl?name=crawl",), (0.59, 0.53, 0.42, 0.25)),
    "code": Corpus(("ids:data/code?objects=data/objects",), (0.2, 0.22, 0.25, 0.25)),
    "academic": Corpus(("docs:data/papers",), (0.088, 0.09, 0.09, 0.08), max_epochs=8.0),
    "multilingual": Corpus(("text:data/multilingual?name=multilingual",), (0.05, 0.05, 0.05, 0.03)),
    "math": Corpus(("text:data/math?name=math",), (0.042, 0.06, 0.09, 0.15), max_epochs=8.0),
    "wikipedia": Corpus(("text:data/wikipedia?name=wikipedia",), (0.01, 0.015, 0.02, 0.02), 8.0),
    "sft": Corpus(("text:data/sft?name=sft",), (0.02, 0.035, 0.08, 0.22), max_epochs=8.0),
}

base = TrainSettings(
    tokens=TOKENS,
    sequences=4,
    accumulate=768,
    sequence_length=8192,
    ramp=(768, 768, 25_000_000_000),
    schedule="wsd",
    lr=4e-4,
    min_lr_ratio=0.01,
    warmup_tokens=25_000_000_000,
    decay=0.18,
    betas=(0.9, 0.95),
    weight_decay=0.1,
    clip=1.0,
    precision="current",
    save_every=500,
)


def plan(scale: Literal["full", "tiny"] = "full") -> dict[str, Recipe]:
    switches = (0.6, 0.8, 1 - LAST_PHASE / TOKENS)
    return life(scale, corpora, switches, ModelConfig.preset("nemotron-h-56b"), base)
