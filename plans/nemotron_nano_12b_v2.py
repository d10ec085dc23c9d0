"""Nemotron-Nano-12B-v2-Base (arXiv 2508.14444, section 2): 20T tokens in FP8, then 18.9B at 512k.

cairn show plans/nemotron_nano_12b_v2.py                    tokens, steps, FLOPs, GPU-days
cairn show plans/nemotron_nano_12b_v2.py --gpus 736         memory, bytes over links, time of a step
cairn make plans/nemotron_nano_12b_v2.py scale=tiny         the same life in small, in a minute

Published: tokens, batch (736 x 8,192), law of the rate, FP8 recipe, Adam, switches at 60% and
90%, the size of every corpus, and all of the long-context phase. Not published: weights by phase.
Here phase 1 takes every corpus in proportion to its size, and the later ones lean to mathematics,
code and questions with answers; 20T tokens of 10.6T are 1.9 epochs on the average.
"""

from typing import Literal

from nemotron_family import Corpus, LongPhase, life

from cairn.base import Recipe
from cairn.model import ModelConfig
from cairn.train import TrainSettings

# Tokens in billions, and what multiplies its size in each phase.
STEADY, FALLING, RISING, LATE = (1, 1, 1), (1, 0.7, 0.4), (1, 1.5, 2.5), (1, 2, 5)
SIZES = {
    "english_crawl": (3360, FALLING),
    "synthetic_crawl": (1949, STEADY),
    "crawl_plus": (360.4, STEADY),
    "multilingual_crawl": (2172, FALLING),
    "synthetic_multilingual": (997.7, STEADY),
    "code": (747.4, RISING),
    "synthetic_code": (175.1, RISING),
    "papers": (191.6, RISING),
    "pdf": (141.1, STEADY),
    "wikipedia": (17.3, RISING),
    "code_sft": (60.0, LATE),
    "stem_sft": (272.7, LATE),
    "general_sft": (6.06, LATE),
    "math_crawl": (124.6, RISING),
    "synthetic_math": (73.0, LATE),
}
READ = {"code": ("ids:data/code?objects=data/objects",), "papers": ("docs:data/papers",)}

corpora = {
    name: Corpus(
        sources=READ.get(name, (f"text:data/{name}?name={name}",)),
        weights=tuple(size * times for times in by_phase),
        max_epochs=8.0,
    )
    for name, (size, by_phase) in SIZES.items()
}

PEAK = 4.5e-4

base = TrainSettings(
    tokens=20_000_000_000_000,
    sequences=1,
    accumulate=736,
    sequence_length=8192,
    schedule="wsd",
    lr=PEAK,
    min_lr_ratio=0.01,
    warmup_tokens=8_000_000_000,
    decay_tokens=3_600_000_000_000,
    betas=(0.9, 0.95),
    weight_decay=0.1,
    clip=1.0,
    precision="block",
    save_every=1000,
)

long = TrainSettings(
    tokens=18_900_000_000,
    sequences=1,
    accumulate=12,
    sequence_length=524_288,
    lr=PEAK * 0.01,  # the floor, constant
    warmup=0,
    decay=0.0,
    precision="bf16",
    save_every=100,
)


def plan(scale: Literal["full", "tiny"] = "full") -> dict[str, Recipe]:
    model = ModelConfig.preset("nemotron-nano-12b-v2")
    phase = LongPhase(settings=long, served=131_072, asked="papers", questions=0.2)
    return life(scale, corpora, (0.6, 0.9), model, base, phase)
