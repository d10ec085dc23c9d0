"""Weights drawn on the GPU in the shape of a preset, as fresh models have them."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from cairn.model import Decoder
from cairn.model.decoder import empty
from cairn.model.presets import preset


def random_model(name: str) -> Decoder:
    """A preset's shape in bf16."""
    model = empty(preset(name), "cuda", torch.bfloat16)
    draw(model.named_parameters())
    return model


@torch.no_grad()
def draw(weights: Iterable[tuple[str, Tensor]]) -> None:
    """Fill named weights in place; `A` is what vLLM keeps of `A_log`: minus its exponential."""
    torch.manual_seed(0)
    for field, weight in weights:
        if field.endswith("A_log"):
            weight.uniform_(1, 16).log_()
        elif field.endswith(".A"):
            weight.uniform_(1, 16).neg_()
        elif field.endswith("dt_bias"):
            weight.uniform_(math.log(1e-3), math.log(1e-1)).exp_()
            weight.add_(torch.log(-torch.expm1(-weight)))
        elif weight.ndim == 1:
            weight.fill_(0.0 if field.endswith("bias") else 1.0)
        else:
            weight.normal_(0, 0.02)
