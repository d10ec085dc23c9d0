"""StarCoder2-15B (arXiv 2402.19173, section 6): about 4.1T tokens at 4,096, then 200B at 16,384.

cairn show plans/starcoder2_15b.py                    tokens, steps, FLOPs, GPU-days
cairn show plans/starcoder2_15b.py --gpus 1000        memory, bytes over links, time of a step
cairn make plans/starcoder2_15b.py scale=tiny         the same life in small, in a minute

The report's 1M iterations of 4.1M tokens; 1000 sequences are that many tokens. Its first base of
rotary positions is 1e4, by the slip in a configuration that the release carries on tenfold.
"""

from typing import Literal

from starcoder2_family import life

from cairn.base import Recipe


def plan(scale: Literal["full", "tiny"] = "full") -> dict[str, Recipe]:
    return life(
        scale,
        "starcoder2-15b",
        steps=1_000_000,
        sequences=1000,
        long_lr=3e-5,
        first_theta=10_000.0,
    )
