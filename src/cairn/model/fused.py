"""Layers in one compiled call each, where few tokens meet fp32 weights on a CPU.

What is computed is what `Block` says; it comes here first, and goes on where it hears None.
"""

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from cairn.model.feedforward import MLP
from cairn.model.layout import Layout
from cairn.model.mamba import Mamba2
from cairn.model.norms import RMSNorm
from cairn.ops import paths
from cairn.ops.native.layer import FeedForwardLayer, MixerLayer, fits
from cairn.ops.order import order_is_fixed

Held = tuple[dict[str, nn.Parameter | None], str, nn.Parameter, int]  # holder, name, and address


class _Kept:
    """A block's compiled layer (None: it has none), as long as its parameters stay in place."""

    def __init__(self, block: nn.Module, layer: FeedForwardLayer | MixerLayer | None) -> None:
        self.layer = layer
        self.modules = [m for m in block.modules() if m is not block]  # or it would never go
        self.held: list[Held] = [
            (module._parameters, name, p, p.data_ptr())
            for module in self.modules
            for name, p in module.named_parameters(recurse=False)
        ]

    @property
    def valid(self) -> bool:
        return all(d[name] is p and p.data_ptr() == at for d, name, p, at in self.held) and not any(
            module._forward_hooks or module._forward_pre_hooks for module in self.modules
        )


_kept: WeakKeyDictionary[nn.Module, _Kept] = WeakKeyDictionary()


def fused(
    block: Any, x: Tensor, added: Tensor | None, layout: Layout, memory: Any
) -> Tensor | None:
    """x + mixer(norm(x)) [T, D] of a `Block`, x = x + added; None where it is done in parts."""
    mixer = block.mixer
    if not isinstance(mixer, Mamba2 | MLP) or not fits(x) or order_is_fixed():
        return None
    kept = _kept.get(block)
    if kept is None or not kept.valid:
        _kept[block] = kept = _Kept(block, _layer(block))
        if not kept.valid:  # somebody listens to the parts
            return None
    if kept.layer is None:
        return None
    if isinstance(kept.layer, MixerLayer):
        if memory is not None and {memory.window.dtype, memory.state.dtype} != {torch.float32}:
            return None
        if paths.choose("mamba_layer", x.device, native="") != "native":
            return None
        assert layout.chunks is not None
        x = x if added is None else x + added
        return kept.layer(x, layout.chunks, memory, layout.memory_slots)
    if paths.choose("feedforward_layer", x.device, native="") != "native":
        return None
    return kept.layer(x if added is None else x + added)


def _layer(block: Any) -> FeedForwardLayer | MixerLayer | None:
    mixer, norm = block.mixer, block.norm
    if not isinstance(norm, RMSNorm):
        return None
    if isinstance(mixer, Mamba2):
        matrices = mixer.in_proj, mixer.out_proj
    elif mixer.gate_proj is None and mixer.config.activation == "relu2":
        matrices = mixer.up_proj, mixer.down_proj
    else:
        return None
    if any(matrix.bias is not None for matrix in matrices):
        return None
    first, last = (matrix.weight for matrix in matrices)
    if isinstance(mixer, Mamba2):
        layer = MixerLayer(norm.weight, norm.eps, first, last, mixer.weights, mixer.form)
    else:
        layer = FeedForwardLayer(norm.weight, norm.eps, first, last)
    return layer if layer.fits else None
