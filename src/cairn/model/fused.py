"""Layers in one compiled call, all of them or one by one, where few tokens come on a CPU.

What is computed is what `Block` says; it comes here first, and goes on where it hears None.
"""

from collections.abc import Callable, Collection, Sequence
from itertools import chain
from operator import is_
from typing import Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from cairn.model.attention import Attention
from cairn.model.cache import Cache, KeyValues, Recurrence
from cairn.model.feedforward import MLP
from cairn.model.layout import Layout
from cairn.model.linear import Linear
from cairn.model.mamba import Mamba2
from cairn.model.norms import LayerNorm, RMSNorm
from cairn.model.paging import PagePlan
from cairn.model.positions import tables
from cairn.ops import paths
from cairn.ops.native.layer import (
    Affine,
    AttentionLayer,
    AttentionWeights,
    Ends,
    FeedForwardLayer,
    Head,
    Layers,
    Memories,
    Memory,
    MixerLayer,
    Prepared,
    Where,
    Whole,
    free,
)
from cairn.ops.native.library import KINDS
from cairn.ops.order import order_is_fixed


class _Kept:
    """What is compiled for some blocks (None: nothing), as long as parts stay what they are."""

    def __init__(self, owner: nn.Module, blocks: Sequence[Any], ends: Ends | None = None) -> None:
        whole = [_layer(block) for block in blocks]
        found = [one for one in whole if one is not None]
        self.layers = Layers(found, ends) if len(found) == len(whole) else None
        self.ready: WeakKeyDictionary[Cache, _Ready] = WeakKeyDictionary()
        modules = [m for m in owner.modules() if m is not owner]  # or it would never go
        self._owned = [m._parameters for m in modules if m._parameters]
        self._parameters = [p for d in self._owned for p in d.values()]
        self._given = [p for p in self._parameters if p is not None]
        self._places = [p.data_ptr() for p in self._given]
        self._owners = [m._modules for m in owner.modules() if m._modules]
        self._parts = [part for d in self._owners for part in d.values()]
        self._hooks = [d for m in modules for d in (m._forward_hooks, m._forward_pre_hooks)]

    @property
    def valid(self) -> bool:
        """Whether parts and parameters are those they were, and nobody listens to the parts."""
        held = chain.from_iterable(map(dict.values, self._owned))
        same = all(map(is_, held, self._parameters))  # all in C: it is asked for every token
        here = list(map(Tensor.data_ptr, self._given)) == self._places
        parts = chain.from_iterable(map(dict.values, self._owners))
        same = same and all(map(is_, parts, self._parts))
        return same and here and not any(self._hooks)


_NOWHERE = Where(np.zeros(1, np.int64), np.zeros(0, np.int64))  # for layers that do not ask
_kept: WeakKeyDictionary[nn.Module, _Kept] = WeakKeyDictionary()


def _found(owner: nn.Module, make: Callable[[], _Kept]) -> _Kept | None:
    """What is compiled for an owner now; None where somebody listens to its parts."""
    kept = _kept.get(owner)
    if kept is None or not kept.valid:
        _kept[owner] = kept = make()
        if not kept.valid:
            return None
    return kept


def fused_block(
    block: Any, x: Tensor, added: Tensor | None, layout: Layout, memory: Any
) -> Tensor | None:
    """x + mixer(norm(x)) [T, D] of a `Block`, x = x + added; None where it is done in parts."""
    if x.is_cuda or not free(x.device) or x.dtype not in KINDS or order_is_fixed():
        return None
    kept = _found(block, lambda: _Kept(block, (block,)))
    layers = None if kept is None else kept.layers
    if layers is None or len(x) > layers.most_tokens:
        return None
    memories = _memories([memory])
    where = _where(layout, "attention_layer" in layers.ops)
    if memories is None or where is None or not _chosen(layers.ops, x.device):
        return None
    out = layers(x.contiguous() if added is None else x + added, memories, where)
    assert isinstance(out, Tensor)
    return out


Want = Literal["hidden", "logits", "likeliest"]


class Fused(NamedTuple):
    """What one call gave, and what of it was wanted: it may be less."""

    want: Want
    found: Tensor | tuple[Tensor, Tensor]


def fused_model(
    model: Any,
    tokens: Tensor,
    lengths: Sequence[int],
    slots: Sequence[int],
    cache: Cache,
    want: Want = "hidden",
) -> Fused | None:
    """What `Decoder` computes for spans of a cache; None where a layout has to be made.

    No layout: with as few tokens as here, laying them out takes as long as some of the layers.
    What the output matrix gives is left out where it cannot go with the layers.
    """
    device = tokens.device
    if not free(device) or order_is_fixed() or tokens.dtype != torch.int64:
        return None
    config, backbone = model.config, model.backbone
    kept = _found(backbone, lambda: _whole(backbone))
    layers = None if kept is None else kept.layers
    if kept is None or layers is None or len(tokens) > layers.most_tokens:
        return None
    head = None if want == "hidden" else _head(model.lm_head, layers, want)
    if not _chosen(layers.ops if head is None else layers.ops | {"linear"}, device):
        return None
    ready = kept.ready.get(cache)
    if ready is None or not ready.serves(cache, slots, lengths):
        memories = _memories(cache.layers)
        if memories is None:
            return None
        cache.begin(slots, lengths)  # or nothing is made of slots that are none
        ready = kept.ready[cache] = _Ready(layers, tokens, memories, cache, slots, lengths)
    past, turns = cache.begin(slots, lengths), None
    ready.tell(past)
    if config.turned:
        bounds = ready.where.bounds
        places = np.arange(len(tokens)) + np.repeat(past - bounds[:-1], lengths)
        turns = tables(config, torch.from_numpy(places))
    found = ready.prepared(tokens.contiguous(), turns, head)
    return Fused("hidden" if head is None else want, found)


class _Ready:
    """The call over some spans of a cache: only tokens, positions and what comes out change."""

    def __init__(
        self,
        layers: Layers,
        tokens: Tensor,
        memories: Memories,
        cache: Cache,
        slots: Sequence[int],
        lengths: Sequence[int],
    ) -> None:
        self._slots, self._lengths = tuple(slots), tuple(lengths)
        self._pools, self._tables = [*cache.layers], [*cache.tables]
        bounds = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=bounds[1:])
        past = np.zeros(len(slots), np.int64)
        self._past = past.data
        self.where = Where(bounds, np.asarray(slots, np.int64), past, self._tables)
        self.prepared = Prepared(layers, tokens, memories, self.where)

    def serves(self, cache: Cache, slots: Sequence[int], lengths: Sequence[int]) -> bool:
        """Whether the call is still over these spans and pools, by as many threads."""
        same = slots == self._slots and lengths == self._lengths
        same = same and self.prepared.threads == torch.get_num_threads()
        return same and _alike(cache.layers, self._pools) and _alike(cache.tables, self._tables)

    def tell(self, past: Sequence[int]) -> None:
        """How many tokens the spans' slots hold."""
        for span, held in enumerate(past):
            self._past[span] = held


def _alike(now: Sequence[Any], then: Sequence[Any]) -> bool:
    return len(now) == len(then) and all(map(is_, now, then))


def _head(linear: Any, layers: Layers, want: Want) -> Head | None:
    """The output matrix, where that is all there is to it."""
    if type(linear) is not Linear or linear.listened:
        return None
    weight = linear._parameters["weight"]  # what nn.Module does to find it takes far longer
    plain = linear._parameters["bias"] is None and linear._buffers["inverse"] is None
    if not plain or weight is None or not layers.takes(weight):
        return None
    return Head(weight, want == "likeliest")


def _whole(backbone: Any) -> _Kept:
    table, norm = backbone.embeddings, backbone.norm_f
    plain = type(table) is nn.Embedding and _ours(table) and _ours(norm)
    ends = Ends(table.weight, Affine(norm.weight, getattr(norm, "bias", None)), norm.eps)
    kept = _Kept(backbone, list(backbone.layers), ends)
    if not plain:
        kept.layers = None
    return kept


def _chosen(ops: Collection[str], device: torch.device) -> bool:
    if paths.undisturbed() and device.type == "cpu":
        return True
    return all(paths.choose(op, device, native="") == "native" for op in sorted(ops))


def _memories(memories: Sequence[Any]) -> Memories | None:
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
    return Memories(found) if len(kinds) <= 1 and kinds <= KINDS.keys() else None


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


# What computes as its class says, with parameters that it owns: not what wraps or replaces a layer,
# nor weights that are computed from others.
_OWN: dict[type, set[str]] = {
    Mamba2: {"A_log", "D", "dt_bias"},
    MLP: set(),
    Attention: set(),
    Linear: {"weight", "bias"},
    RMSNorm: {"weight"},
    LayerNorm: {"weight", "bias"},
    nn.Conv1d: {"weight", "bias"},
    nn.Embedding: {"weight"},
}


def _ours(part: nn.Module) -> bool:
    return type(part) in _OWN and _OWN[type(part)] <= part._parameters.keys()


def _layer(block: Any) -> Whole | None:
    """What is compiled for a block; None where nothing is."""
    if not all(_ours(part) for part in block.modules() if part is not block):
        return None
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
