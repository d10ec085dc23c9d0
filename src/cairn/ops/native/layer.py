"""A whole layer, x + mixer(norm(x)), in one call, for a few tokens in fp32 on a CPU.

The addresses of a layer's parameters are kept between calls, for collecting them anew would take
as long as the layer.
"""

import ctypes
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cairn.ops.native.library import Attention, Layer, Mixer, native
from cairn.ops.native.operations import FEW_ROWS, parts_of
from cairn.ops.ragged import Chunks
from cairn.ops.slots import Slots

if TYPE_CHECKING:
    from cairn.ops.mamba import MixerForm, MixerWeights, Pool

_NO_LIMITS = (0.0, torch.inf)
ACTIVATIONS = {"relu2": 0, "gelu_tanh": 1, "silu": 2}  # layer.c has the same numbers


def fits(x: Tensor) -> bool:
    """Whether layers over x [T, D] can go in one call, as far as x tells."""
    few = x.dtype == torch.float32 and x.device.type == "cpu" and len(x) <= FEW_ROWS[x.dtype]
    free = not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
    return few and free and not native().missing and x.is_contiguous()


class Affine(NamedTuple):
    """A matrix [O, I] and what is added to its products [O]; or a norm's weight and bias."""

    weight: Tensor
    bias: Tensor | None = None


class _Layer:
    """What all layers share: a norm, matrices before and behind the mixer, and x added."""

    def __init__(self, norm: Affine, eps: float, first: Affine, last: Affine) -> None:
        """A norm with a bias is a LayerNorm, one without an RMSNorm."""
        self.tensors: list[Tensor | None] = [*norm, *first, *last]
        self._layer = Layer(
            norm=norm.weight.data_ptr(),
            norm_bias=_address(norm.bias),
            first=first.weight.data_ptr(),
            first_bias=_address(first.bias),
            last=last.weight.data_ptr(),
            last_bias=_address(last.bias),
            D=first.weight.shape[1],
            inside=first.weight.shape[0],
            width=last.weight.shape[1],
            eps=eps,
        )

    @property
    def fits(self) -> bool:
        """Whether the parameters are of the kind that is compiled."""
        given = [t for t in self.tensors if t is not None]
        return all(t.dtype == torch.float32 and t.is_contiguous() for t in given)

    def _open(self, x: Tensor) -> tuple[Layer, Tensor, Tensor]:
        """The call's structure; its working room, to be held until the call is over; the result."""
        layer = Layer.from_buffer_copy(self._layer)  # another thread may be in the same layer
        layer.T, layer.threads = len(x), torch.get_num_threads()
        out = torch.empty_like(x)
        each = layer.threads * layer.D + 2 * layer.inside + layer.width
        room = torch.empty(len(x) * each)
        layer.x, layer.out, layer.room = x.data_ptr(), out.data_ptr(), room.data_ptr()
        return layer, room, out


class FeedForwardLayer(_Layer):
    """An activation between two matrices, perhaps gated by a third; behind a norm, added to x."""

    def __init__(
        self,
        norm: Affine,
        eps: float,
        first: Affine,
        last: Affine,
        activation: str,
        gate: Affine | None = None,
    ) -> None:
        super().__init__(norm, eps, first, last)
        self._layer.activation = ACTIVATIONS[activation]
        if gate is not None:
            self.tensors += gate
            self._layer.gate, self._layer.gate_bias = map(_address, gate)

    def __call__(self, x: Tensor) -> Tensor:
        """x [T, D] to the same."""
        library = native().library
        assert library
        layer, _room, out = self._open(x)
        library.cairn_feed_forward_layer(ctypes.byref(layer))
        return out


class AttentionWeights(NamedTuple):
    """What attention has besides its norm and output matrix."""

    q: Affine
    k: Affine
    v: Affine
    q_norm: Tensor | None
    """[P] of an RMSNorm of every head."""
    k_norm: Tensor | None
    """The same."""


class Places(NamedTuple):
    """Where the spans of a call are in the memory of keys and values: int64 arrays."""

    table: np.ndarray
    """[slots, pages]: the page of every 16 tokens."""
    bounds: np.ndarray
    """[S + 1]: where spans begin in x."""
    slots: np.ndarray
    """[S]."""
    past: np.ndarray
    """[S]: tokens that are remembered already."""


class AttentionLayer(_Layer):
    """Causal attention over pages behind a norm, added to x."""

    def __init__(
        self,
        norm: Affine,
        eps: float,
        last: Affine,
        weights: AttentionWeights,
        width: int,
        window: int | None,
    ) -> None:
        """Heads are `width` wide; a token sees `window` keys, its own included (None: all)."""
        super().__init__(norm, eps, weights.q, last)
        q, k, v, q_norm, k_norm = weights
        self.tensors += [*k, *v, q_norm, k_norm]
        self._layer.inside = sum(len(matrix.weight) for matrix in (q, k, v))
        self._attention = Attention(
            k=k.weight.data_ptr(),
            k_bias=_address(k.bias),
            v=v.weight.data_ptr(),
            v_bias=_address(v.bias),
            q_norm=_address(q_norm),
            k_norm=_address(k_norm),
            H=len(q.weight) // width,
            KV=len(k.weight) // width,
            P=width,
            window=window or 0,
            eps=eps,
        )

    def __call__(
        self,
        x: Tensor,
        turns: tuple[Tensor, Tensor] | None,
        keys: Tensor,
        values: Tensor,
        places: Places,
    ) -> Tensor:
        """x [T, D] to the same; puts the tokens' keys and values into their places.

        turns: cosines and sines fp32 [T, R]; keys, values fp32 [places, heads, width],
        in one piece.
        """
        library = native().library
        assert library
        layer, _room, out = self._open(x)
        call = Attention.from_buffer_copy(self._attention)
        if turns is not None:
            cos, sin = turns = turns[0].contiguous(), turns[1].contiguous()
            call.cos, call.sin, call.R = cos.data_ptr(), sin.data_ptr(), cos.shape[1]
        call.keys, call.values = keys.data_ptr(), values.data_ptr()
        call.table, call.pages = places.table.ctypes.data, places.table.shape[1]
        call.bounds, call.slots = places.bounds.ctypes.data, places.slots.ctypes.data
        call.past, call.S = places.past.ctypes.data, len(places.slots)
        library.cairn_attention_layer(ctypes.byref(layer), ctypes.byref(call))
        return out


class MixerLayer(_Layer):
    """A Mamba-2 mixer behind an RMSNorm, added to x."""

    def __init__(
        self,
        norm: Affine,
        eps: float,
        first: Affine,
        last: Affine,
        weights: "MixerWeights",
        form: "MixerForm",
    ) -> None:
        super().__init__(norm, eps, first, last)
        self.tensors += weights
        inner, channels = last.weight.shape[1], len(weights.conv)
        least, most = form.dt_limits or _NO_LIMITS
        self._mixer = Mixer(
            conv=weights.conv.data_ptr(),
            conv_bias=_address(weights.conv_bias),
            norm=weights.norm.data_ptr(),
            A_log=weights.A_log.data_ptr(),
            D=weights.D.data_ptr(),
            dt_bias=weights.dt_bias.data_ptr(),
            H=len(weights.D),
            P=inner // len(weights.D),
            G=form.groups,
            N=(channels - inner) // 2 // form.groups,
            C=channels,
            W=weights.conv.shape[-1] - 1,
            norm_groups=form.norm_groups,
            eps=form.eps,
            dt_least=least,
            dt_most=most,
        )

    def __call__(self, x: Tensor, chunks: Chunks, pool: "Pool | None", slots: Slots) -> Tensor:
        """x [T, D] to the same; updates the pool's slots in place."""
        library = native().library
        assert library
        layer, _room, out = self._open(x)
        mixer, spans = Mixer.from_buffer_copy(self._mixer), chunks.spans
        mixer.bounds, mixer.slots = chunks.bounds.data_ptr(), slots.index.data_ptr()
        mixer.window = None if pool is None else pool.window.data_ptr()
        mixer.state = None if pool is None else pool.state.data_ptr()
        mixer.S, mixer.threads = spans, layer.threads
        mixer.blocks = parts_of(mixer.H // mixer.G, mixer.G * spans, layer.threads)
        if library.cairn_mixer_layer(ctypes.byref(layer), ctypes.byref(mixer)):
            raise MemoryError("no memory for a mixer's working space")
        return out


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
