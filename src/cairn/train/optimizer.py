"""AdamW with two groups: matrices decay, the rest does not."""

import torch
from torch import nn

from cairn.train import TrainSettings

UNDECAYED = ("A_log", "D", "dt_bias")  # what a decay towards zero would turn into another model


def make_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.AdamW:
    """AdamW over all parameters that learn; see `decays` for what decays."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for n, p in named if decays(n, p)], "weight_decay": settings.weight_decay},
        {"params": [p for n, p in named if not decays(n, p)], "weight_decay": 0.0},
    ]
    first, second = settings.betas
    return torch.optim.AdamW(
        groups, lr=settings.lr, betas=(first, second), eps=settings.eps, fused=True
    )


def decays(name: str, parameter: torch.Tensor) -> bool:
    """Matrices decay; norms, biases, A_log, D, dt_bias and the convolution's taps do not."""
    leaf = name.rpartition(".")[2]
    return parameter.ndim == 2 and leaf not in UNDECAYED
