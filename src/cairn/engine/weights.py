"""Other weights into a model that is being served."""

from pathlib import Path

import torch

from cairn.base import UserError
from cairn.model import Decoder, ModelConfig, load


@torch.no_grad()
def replace_weights(model: Decoder, folder: Path) -> int:
    """Put the weights of a checkpoint of the same configuration into `model`; how many tensors.

    All are read and checked before the first is changed. UserError for a folder that is no
    checkpoint, is damaged, or is of another configuration.
    """
    config = ModelConfig.from_folder(folder)
    if config != model.config:
        raise UserError("folder", str(folder), "holds a model of another configuration")
    found = dict(load(folder, "cpu", model.dtype).named_parameters())
    own = dict(model.named_parameters())
    missing = sorted(set(own) ^ set(found))
    if missing:
        raise UserError("folder", str(folder), f"differs in {missing[0]}")
    for name, parameter in own.items():
        parameter.copy_(found[name])
    return len(own)
