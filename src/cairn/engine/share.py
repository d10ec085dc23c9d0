"""One rank's share of a served model: its weights, and what passes between ranks in a forward.

Every mixer is cut by heads, groups and neurons (`model.sharding`), so that its output is a summand
of the whole: it is summed over ranks before the residual stream takes it. Norms and embeddings are
whole on each rank. The output matrix is cut by the vocabulary, and logits are gathered.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cairn.engine.weights import join_weights, narrow_weights
from cairn.model import Decoder, load
from cairn.model.decoder import Block
from cairn.ops.vocabulary import bounds_of, give_all_logits


@dataclass(frozen=True)
class Share:
    """Which part of which model."""

    folder: Path
    rank: int
    ranks: int
    device: str
    """cpu, or cuda: then rank r has the GPU of number r."""
    dtype: torch.dtype
    weights: str | None = None
    """float8, or None."""

    @property
    def place(self) -> torch.device:
        """This rank's device."""
        return torch.device("cpu") if self.device == "cpu" else torch.device("cuda", self.rank)


def load_share(share: Share) -> Decoder:
    """This rank's weights on its device, joined to the others': all ranks compute together.

    The device becomes the process's own: the rank's GPU, or its part of the CPU's cores.
    """
    if share.device == "cuda":
        torch.cuda.set_device(share.place)
    else:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // share.ranks))
    model = read_share(share, share.folder, share.place, share.dtype)
    if share.weights is not None:
        narrow_weights(model)
    join_weights(model)
    _join(model, share.ranks)
    if share.place.type == "cuda":
        torch.cuda.empty_cache()  # what the whole output matrix took
    return model


def read_share(
    share: Share, folder: Path, device: torch.device | str, dtype: torch.dtype
) -> Decoder:
    """This rank's weights of a checkpoint."""
    model = load(folder, device, dtype, rank=share.rank, ranks=share.ranks)
    whole = model.lm_head.weight.detach()
    start, stop = bounds_of(len(whole), share.ranks)[share.rank : share.rank + 2]
    own = whole[start:stop]
    if not model.config.tie_embeddings:
        own = own.clone()  # so that the whole one goes
    model.lm_head.weight = nn.Parameter(own, requires_grad=False)
    return model


def _join(model: Decoder, ranks: int) -> None:
    def add_up(module: nn.Module, given: Any, y: Tensor) -> None:
        dist.all_reduce(y)

    for block in model.backbone.layers:
        assert isinstance(block, Block)
        block.mixer.register_forward_hook(add_up)
    give_all_logits(model.lm_head, bounds_of(model.config.vocab_size, ranks))
