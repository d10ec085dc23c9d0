"""Other weights into a model that is being served, and weights in fewer bytes."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cairn.base import UserError
from cairn.model import Decoder, load
from cairn.model.checkpoint import stored_config
from cairn.model.joined import join
from cairn.model.linear import Linear
from cairn.model.sharding import share_of
from cairn.ops.narrow import unfit

if TYPE_CHECKING:
    from cairn.engine.share import Share


@torch.no_grad()
def replace_weights(model: Decoder, folder: Path) -> int:
    """Put the weights of a checkpoint of the same configuration into `model`; how many tensors.

    All are read and checked before the first is changed. UserError for a folder that is no
    checkpoint, is damaged, or is of another configuration. Layers in 8 bits stay so.
    """
    return put_weights(model, read_weights(model, folder))


def read_weights(model: Decoder, folder: Path, share: "Share | None" = None) -> dict[str, Tensor]:
    """The weights of a checkpoint, or a rank's share of them, on the CPU; see `replace_weights`."""
    ranks = 1 if share is None else share.ranks
    if share_of(stored_config(folder), ranks) != model.config:
        raise UserError("folder", str(folder), "holds a model of another configuration")
    if share is None:
        read = load(folder, "cpu", model.dtype)
    else:
        from cairn.engine.share import read_share

        read = read_share(share, folder, "cpu", model.dtype)
    found: dict[str, Tensor] = dict(read.named_parameters())
    missing = sorted({name for name, _ in model.named_parameters()} ^ set(found))
    if missing:
        raise UserError("folder", str(folder), f"differs in {missing[0]}")
    return found


@torch.no_grad()
def put_weights(model: Decoder, found: dict[str, Tensor]) -> int:
    """Put what `read_weights` gave into the model; how many tensors."""
    own = dict(model.named_parameters())
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


def join_weights(model: Decoder) -> int:
    """On a GPU, let matrices that multiply the same rows lie side by side; how many groups do.

    The parameters stay those they are, views of what holds a group. On a CPU nothing changes:
    compiled code packs layers by itself, and mapped weights stay in their files.
    """
    return join(model) if model.device.type == "cuda" else 0


def _narrow(model: Decoder) -> list[tuple[str, Linear]]:
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, Linear)]
    return [(name, module) for name, module in layers if module.inverse is not None]
