"""StarCoder2-7B (arXiv 2402.19173, section 6): about 3.5T tokens at 4,096, then 200B at 16,384.

cairn show plans/starcoder2_7b.py                    tokens, steps, FLOPs, GPU-days
cairn show plans/starcoder2_7b.py --gpus 432         memory, bytes over links, time of a step
cairn make plans/starcoder2_7b.py scale=tiny         the same life in small, in a minute

The report's 1M iterations of 3.5M tokens; 864 sequences are that many tokens.
"""

from typing import Literal

from starcoder2_family import life

from cairn.base import Recipe


def plan(scale: Literal["full", "tiny"] = "full") -> dict[str, Recipe]:
    return life(
        scale,
        "starcoder2-7b",
        steps=1_000_000,
        sequences=864,
        long_lr=2e-5,
        first_theta=100_000.0,
    )
