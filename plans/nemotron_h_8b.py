"""Nemotron-H-8B-Base (arXiv 2504.03624, section 2): 15T tokens in bf16, in four phases.

cairn show plans/nemotron_h_8b.py                    tokens, steps, FLOPs, GPU-days
cairn show plans/nemotron_h_8b.py --gpus 768         memory, bytes over links, time of a step
cairn make plans/nemotron_h_8b.py scale=tiny         the same life in small, in a minute

Published: tokens, length, precision, peak of the rate, warmup, switches at 60% and 80%, a last
phase of 380B tokens. The batch of 768 and the floor of 1% are remembered, not read. Not
published: the length of the decay (Nano 2's share stands here) and weights by phase but for parts
of the 56B's first.
"""

from typing import Literal

from nemotron_family import life
from nemotron_h_56b import LAST_PHASE, corpora

from cairn.base import Recipe
from cairn.model import ModelConfig
from cairn.train import TrainSettings

TOKENS = 15_000_000_000_000

base = TrainSettings(
    tokens=TOKENS,
    sequences=1,
    accumulate=768,
    sequence_length=8192,
    schedule="wsd",
    lr=8e-4,
    min_lr_ratio=0.01,
    warmup_tokens=8_300_000_000,
    decay=0.18,
    betas=(0.9, 0.95),
    weight_decay=0.1,
    clip=1.0,
    precision="bf16",
    save_every=1000,
)


def plan(scale: Literal["full", "tiny"] = "full") -> dict[str, Recipe]:
    switches = (0.6, 0.8, 1 - LAST_PHASE / TOKENS)
    return life(scale, corpora, switches, ModelConfig.preset("nemotron-h-8b"), base)
