"""Layers in one compiled call, all of them or one by one, where few tokens come on a CPU.

What is computed is what `Block` says; it comes here first, and goes on where it hears None.
"""

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from cairn.model.cache import KeyValues, Recurrence
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
    Layers,
    Memory,
    MixerLayer,
    Where,
    Whole,
    fits,
)
from cairn.ops.native.library import KINDS
from cairn.ops.order import order_is_fixed

Held = tuple[dict[str, nn.Parameter | None], str, nn.Parameter, int]  # holder, name, and address


class _Kept:
    """What is compiled for some blocks (None: nothing), as long as parameters stay in place."""

    def __init__(self, owner: nn.Module, blocks: Sequence[Any]) -> None:
        whole = [_layer(block) for block in blocks]
        found = [one for one in whole if one is not None]
        self.layers = Layers(found) if len(found) == len(whole) else None
        self.modules = [m for m in owner.modules() if m is not owner]  # or it would never go
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


_NOWHERE = Where(np.zeros(1, np.int64), np.zeros(0, np.int64))  # for layers that do not ask
_kept: WeakKeyDictionary[nn.Module, _Kept] = WeakKeyDictionary()


def fused(
    owner: nn.Module,
    blocks: Sequence[Any],
    x: Tensor,
    added: Tensor | None,
    layout: Layout,
    memories: Sequence[Any],
) -> Tensor | None:
    """What `blocks` make of x + added [T, D], one after another; None where parts have to do it.

    `owner` is a module that has them and nothing else: the one block, or the list of all.
    """
    if not fits(x) or order_is_fixed():
        return None
    kept = _kept.get(owner)
    if kept is None or not kept.valid:
        _kept[owner] = kept = _Kept(owner, blocks)
        if not kept.valid:  # somebody listens to the parts
            return None
    layers = kept.layers
    if layers is None or len(x) > layers.most_tokens:
        return None
    tensors = _memories(memories)
    where = None if tensors is None else _where(layout, "attention_layer" in layers.ops)
    if tensors is None or where is None:
        return None
    if any(paths.choose(op, x.device, native="") != "native" for op in sorted(layers.ops)):
        return None
    return layers(x if added is None else x + added, tensors, where)


def _memories(memories: Sequence[Any]) -> list[Memory] | None:
    """What layers remember; None where that is of another kind than is compiled."""
    found: list[Memory] = []
    kinds = set()
    for memory in memories:
        if memory is None:
            found.append(None)
        elif isinstance(memory, Recurrence):
            if memory.state.dtype != torch.float32:
                return None
            found.append((memory.window, memory.state))
            kinds.add(memory.window.dtype)
        else:
            assert isinstance(memory, KeyValues)
            found.append((memory.keys, memory.values))
            kinds.add(memory.keys.dtype)
    return found if len(kinds) <= 1 and kinds <= KINDS.keys() else None


def _where(layout: Layout, attention: bool) -> Where | None:
    """Where spans are; None where attention is asked for and has no pages on the host."""
    pages = layout.pages
    if isinstance(pages, PagePlan):
        return Where(*pages.raw(), turns=layout.turns)
    if attention or pages is not None:
        return None
    if layout.chunks is None:
        return _NOWHERE
    return Where(layout.chunks.bounds.numpy(), layout.memory_slots.index.numpy())


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
        config, window = mixer.config, mixer.window
        group = list(dict.fromkeys(config.windows)).index(window)  # as `Cache` has them
        layer = AttentionLayer(norm, eps, last, weights, config.head_dim, window, group)
    return layer if layer.fits else None


def _affine(linear: nn.Linear) -> Affine:
    return Affine(linear.weight, linear.bias)
