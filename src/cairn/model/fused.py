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
from cairn.model.paging import PagePlan
from cairn.ops import paths
from cairn.ops.native.layer import (
    Affine,
    AttentionLayer,
    AttentionWeights,
    FeedForwardLayer,
    MixerLayer,
    Places,
    fits,
)
from cairn.ops.order import order_is_fixed

Whole = FeedForwardLayer | MixerLayer | AttentionLayer
Held = tuple[dict[str, nn.Parameter | None], str, nn.Parameter, int]  # holder, name, and address


class _Kept:
    """A block's compiled layer (None: it has none), as long as its parameters stay in place."""

    def __init__(self, block: nn.Module, layer: Whole | None) -> None:
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
    if not fits(x) or order_is_fixed():
        return None
    kept = _kept.get(block)
    if kept is None or not kept.valid:
        _kept[block] = kept = _Kept(block, _layer(block))
        if not kept.valid:  # somebody listens to the parts
            return None
    layer = kept.layer
    if isinstance(layer, FeedForwardLayer):
        return layer(_total(x, added)) if _chosen("feedforward_layer", x) else None
    if isinstance(layer, MixerLayer):
        if memory is not None and {memory.window.dtype, memory.state.dtype} != {torch.float32}:
            return None
        if not _chosen("mamba_layer", x):
            return None
        assert layout.chunks is not None
        return layer(_total(x, added), layout.chunks, memory, layout.memory_slots)
    if layer is None or memory is None or memory.keys.dtype != torch.float32:
        return None
    if not isinstance(layout.pages, PagePlan) or not _chosen("attention_layer", x):
        return None
    places = Places(*layout.pages.raw(memory.group))
    return layer(_total(x, added), layout.turns, memory.keys, memory.values, places)


def _total(x: Tensor, added: Tensor | None) -> Tensor:
    return x if added is None else x + added


def _chosen(op: str, x: Tensor) -> bool:
    return paths.choose(op, x.device, native="") == "native"


def _layer(block: Any) -> Whole | None:
    """What is compiled for a block; None where nothing is."""
    mixer, norm = block.mixer, Affine(block.norm.weight, getattr(block.norm, "bias", None))
    eps = block.norm.eps
    if isinstance(mixer, Mamba2):
        matrices = _affine(mixer.in_proj), _affine(mixer.out_proj)
        layer = MixerLayer(norm, eps, *matrices, mixer.weights, mixer.form)
    elif isinstance(mixer, MLP):
        gate = None if mixer.gate_proj is None else _affine(mixer.gate_proj)
        matrices = _affine(mixer.up_proj), _affine(mixer.down_proj)
        layer = FeedForwardLayer(norm, eps, *matrices, mixer.config.activation, gate)
    else:
        q, k, v, last = map(_affine, (mixer.q_proj, mixer.k_proj, mixer.v_proj, mixer.o_proj))
        norms = (None if n is None else n.weight for n in (mixer.q_norm, mixer.k_norm))
        weights = AttentionWeights(q, k, v, *norms)
        layer = AttentionLayer(norm, eps, last, weights, mixer.config.head_dim, mixer.window)
    return layer if layer.fits else None


def _affine(linear: nn.Linear) -> Affine:
    return Affine(linear.weight, linear.bias)
