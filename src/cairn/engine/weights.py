"""Other weights into a model that is being served, and weights in fewer bytes."""

from pathlib import Path

import torch

from cairn.base import UserError
from cairn.model import Decoder, ModelConfig, load
from cairn.model.linear import Linear
from cairn.ops.narrow import unfit


@torch.no_grad()
def replace_weights(model: Decoder, folder: Path) -> int:
    """Put the weights of a checkpoint of the same configuration into `model`; how many tensors.

    All are read and checked before the first is changed. UserError for a folder that is no
    checkpoint, is damaged, or is of another configuration. Layers in 8 bits stay so.
    """
    config = ModelConfig.from_folder(folder)
    if config != model.config:
        raise UserError("folder", str(folder), "holds a model of another configuration")
    found = dict(load(folder, "cpu", model.dtype).named_parameters())
    own = dict(model.named_parameters())
    missing = sorted(set(own) ^ set(found))
    if missing:
        raise UserError("folder", str(folder), f"differs in {missing[0]}")
    narrow = {f"{name}.weight": module for name, module in _narrow(model)}
    for name, parameter in own.items():
        if name in narrow:
            narrow[name].narrow(found[name].to(parameter.device))
        else:
            parameter.copy_(found[name])
    return len(own)


def narrow_weights(model: Decoder) -> int:
    """Keep the matrices of all mixers in 8 bits, E4M3 with a scale an output; how many.

    Embeddings and the output matrix stay as they are. Changes the model: it cannot be trained or
    saved any more. UserError, and nothing changed, where the device or a shape does not allow it.
    """
    mine = [m for m in model.backbone.modules() if isinstance(m, Linear) and m.inverse is None]
    for module in mine:
        why = unfit(module.weight)
        if why:
            raise UserError("weights", "float8", why, "leave the weights as they are")
    for module in mine:
        module.narrow()
    return len(mine)


def _narrow(model: Decoder) -> list[tuple[str, Linear]]:
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, Linear)]
    return [(name, module) for name, module in layers if module.inverse is not None]
