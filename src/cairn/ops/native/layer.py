"""Whole layers, x + mixer(norm(x)), one after another in one call, for a few tokens on a CPU.

The addresses of layers' parameters are kept between calls, for collecting them anew would take as
long as a layer. Legend: T tokens, D width, S spans.
"""

import ctypes
import threading
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cairn.ops.memory import fresh
from cairn.ops.native.library import KINDS, Attention, Call, Layer, Mixer, native
from cairn.ops.native.operations import few_rows

if TYPE_CHECKING:
    from cairn.ops.mamba import MixerForm, MixerWeights

_NO_LIMITS = (0.0, torch.inf)
ACTIVATIONS = {"relu2": 0, "gelu_tanh": 1, "silu": 2}  # layer.c has the same numbers


def free(device: torch.device) -> bool:
    """Whether layers on a device can go in one call, as far as what is around the call tells."""
    plain = not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
    return plain and device.type == "cpu" and not native().missing


class Affine(NamedTuple):
    """A matrix [O, I] and what is added to its products [O]; or a norm's weight and bias."""

    weight: Tensor
    bias: Tensor | None = None


class Whole:
    """What all layers share: a norm, matrices before and behind the mixer, and x added."""

    op: str
    """What `paths.choose` calls it."""

    def __init__(self, norm: Affine, eps: float, first: Affine, last: Affine) -> None:
        """A norm with a bias is a LayerNorm, one without an RMSNorm."""
        self.tensors: list[Tensor | None] = [*norm, *first, *last]
        """Parameters, which have to be of one dtype."""
        self.wide: list[Tensor] = []
        """Parameters that have to be fp32."""
        self.dtype = first.weight.dtype
        self.layer = Layer(
            norm=norm.weight.data_ptr(),
            norm_bias=_address(norm.bias),
            first=first.weight.data_ptr(),
            first_bias=_address(first.bias),
            last=last.weight.data_ptr(),
            last_bias=_address(last.bias),
            inside=first.weight.shape[0],
            width=last.weight.shape[1],
            kind=KINDS.get(self.dtype, -1),
            eps=eps,
        )

    @property
    def fits(self) -> bool:
        """Whether the parameters are of the kind that is compiled."""
        given = [t for t in self.tensors if t is not None]
        alike = self.dtype in KINDS and all(t.dtype == self.dtype for t in given)
        wide = all(t.dtype == torch.float32 for t in self.wide)
        return alike and wide and all(t.is_contiguous() for t in (*given, *self.wide))


class FeedForwardLayer(Whole):
    """An activation between two matrices, perhaps gated by a third; behind a norm, added to x."""

    op = "feedforward_layer"

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
        self.layer.activation = ACTIVATIONS[activation]
        if gate is not None:
            self.tensors += gate
            self.layer.gate, self.layer.gate_bias = map(_address, gate)


class AttentionWeights(NamedTuple):
    """What attention has besides its norm and output matrix."""

    q: Affine
    k: Affine
    v: Affine
    q_norm: Tensor | None
    """[P] of an RMSNorm of every head."""
    k_norm: Tensor | None
    """The same."""


class AttentionLayer(Whole):
    """Causal attention over pages behind a norm, added to x; its memory is keys and values.

    Both are fp32 or bf16 [places, heads, width], in one piece, and get what is new.
    """

    op = "attention_layer"

    def __init__(
        self,
        norm: Affine,
        eps: float,
        last: Affine,
        weights: AttentionWeights,
        width: int,
        window: int | None,
        group: int = 0,
    ) -> None:
        """Heads are `width` wide; a token sees `window` keys, its own included (None: all).

        `group` says which of a call's tables is its own.
        """
        super().__init__(norm, eps, weights.q, last)
        q, k, v, q_norm, k_norm = weights
        self.tensors += [*k, *v, q_norm, k_norm]
        self.layer.inside = sum(len(matrix.weight) for matrix in (q, k, v))
        self.attention = Attention(
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
            group=group,
        )
        self.layer.attention = ctypes.pointer(self.attention)


class MixerLayer(Whole):
    """A Mamba-2 mixer behind an RMSNorm, added to x; its memory is a pool's window and state."""

    op = "mamba_layer"

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
        self.tensors += [weights.conv, weights.conv_bias, weights.norm]
        self.wide = [weights.A_log, weights.D, weights.dt_bias]
        inner, channels = last.weight.shape[1], len(weights.conv)
        least, most = form.dt_limits or _NO_LIMITS
        self.mixer = Mixer(
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
        self.layer.mixer = ctypes.pointer(self.mixer)


class Where(NamedTuple):
    """Where the spans of a call are, in x and in memories: int64 arrays."""

    bounds: np.ndarray
    """[S + 1]: where spans begin in x."""
    slots: np.ndarray
    """[S]."""
    past: np.ndarray | None = None
    """[S]: tokens that are remembered already; None without keys and values."""
    tables: Sequence[np.ndarray] = ()
    """By group of attention layers [slots, pages]: the page of every 16 tokens."""
    turns: tuple[Tensor, Tensor] | None = None
    """Cosines and sines fp32 [T, R] of rotary positions; None where there are none."""


class Ends(NamedTuple):
    """What stands before the first and behind the last layer of a model."""

    embedding: Tensor
    """[V, D]: a row of it is what a token brings."""
    norm: Affine
    eps: float


class Head(NamedTuple):
    """An output matrix behind the last norm, of that norm's dtype."""

    weight: Tensor
    """[O, D]."""
    highest: bool
    """Whether of every row the highest output is all that is wanted."""


Memory = tuple[Tensor, Tensor] | None  # of one layer


class Memories:
    """What layers remember, one after another, by its addresses: made once for many calls."""

    def __init__(self, memories: Sequence[Memory]) -> None:
        """Windows, keys and values are of one dtype; states are fp32."""
        self._held = memories
        pairs = [(0, 0) if m is None else (m[0].data_ptr(), m[1].data_ptr()) for m in memories]
        self._places = (ctypes.c_void_p * (2 * len(pairs)))(*chain.from_iterable(pairs))
        self.address = ctypes.addressof(self._places)
        self.kind = next((KINDS[m[0].dtype] for m in memories if m is not None), None)


class Layers:
    """Layers of one width, one after another; the sum between them stays in fp32."""

    def __init__(self, layers: Sequence[Whole], ends: Ends | None = None) -> None:
        """With `ends`, tokens go in, and what comes out has been normed."""
        self._held = layers  # their structures hold what the array below points to
        self.array = (Layer * len(layers))(*[one.layer for one in layers])
        self._ends = ends
        self.takes_tokens = ends is not None
        self.ops = {one.op for one in layers}
        self.most_tokens = min(few_rows(one.dtype) for one in layers)
        """T at most."""
        if ends is not None:
            given = [t for t in (ends.embedding, *ends.norm) if t is not None]
            if not all(t.dtype in KINDS and t.is_contiguous() for t in given):
                self.most_tokens = 0
            if len({t.dtype for t in ends.norm if t is not None}) > 1:
                self.most_tokens = 0

    def takes(self, head: Tensor) -> bool:
        """Whether an output matrix can go with the layers."""
        given = None if self._ends is None else self._ends.norm.weight.dtype
        same = self._ends is not None and self._ends.embedding.dtype == given == head.dtype
        return same and head.is_contiguous()

    def __call__(
        self, x: Tensor, memories: Memories, where: Where, head: Head | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """x [T, D], fp32 or bf16, to the same; or with ends, tokens int64 [T] to [T, D].

        With a head, which needs ends, what it makes of that instead, from numbers rounded as those
        are: fp32 [T, O], or the highest of every row fp32 [T] and the first place of it int64 [T].
        Updates the memories in place; attention needs its own. IndexError for a token that the
        embedding does not have.
        """
        return Prepared(self, x, memories, where)(x, where.turns, head)

    def begun(self, x: Tensor) -> tuple[Call, torch.dtype]:
        """A call that tells what goes in first and what comes last, and the dtype of that."""
        call = Call(T=len(x), threads=torch.get_num_threads())
        if self._ends is None:
            call.x_kind, call.D, dtype = KINDS[x.dtype], x.shape[1], x.dtype
        else:
            table, norm, eps = self._ends
            call.x, call.x_kind, dtype = table.data_ptr(), KINDS[table.dtype], table.dtype
            call.V, call.D = table.shape
            call.norm, call.norm_bias = norm.weight.data_ptr(), _address(norm.bias)
            call.norm_kind, call.eps = KINDS[norm.weight.dtype], eps
        call.out_kind = call.x_kind
        return call, dtype


class Prepared:
    """Calls over so many tokens of the same spans: what they are told is written down once.

    A call drives what Python knows out of the caches, and every object that is looked at for the
    next one is fetched from memory again.
    """

    def __init__(self, layers: Layers, x: Tensor, memories: Memories, where: Where) -> None:
        """For inputs like x. What stands in the arrays of `where` may change, they may not."""
        library = native().library
        assert library
        self._run, self._array = library.cairn_layers, layers.array
        self._held = layers, memories, where  # what the call has addresses of
        self._takes_tokens = layers.takes_tokens
        call, self._dtype = layers.begun(x)
        self._call, self._address = call, ctypes.addressof(call)
        self.tokens, self.threads = call.T, call.threads
        call.bounds, call.slots, call.S = *map(_start, where[:2]), len(where.slots)
        call.memory = memories.address
        call.memory_kind = call.x_kind if memories.kind is None else memories.kind
        if where.past is not None and where.tables:
            call.past, call.pages = _start(where.past), where.tables[0].shape[1]
            self._tables = (ctypes.c_void_p * len(where.tables))(*map(_start, where.tables))
            call.tables = ctypes.addressof(self._tables)
        self._room = library.cairn_layers_room(self._address, self._array, len(self._array))

    def __call__(
        self, x: Tensor, turns: tuple[Tensor, Tensor] | None = None, head: Head | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """See `Layers`; `turns` as in `Where`."""
        call = self._call
        if self._takes_tokens:
            call.tokens = x.data_ptr()
        else:
            call.x = x.data_ptr()
        if turns is not None:
            turns = turns[0].contiguous(), turns[1].contiguous()
            call.cos, call.sin, call.R = *map(Tensor.data_ptr, turns), turns[0].shape[1]
        out = self._told(head)
        call.room = _room(self._room)
        if self._run(self._address, self._array, len(self._array)):
            raise IndexError(f"a token that is none of the vocabulary's {call.V}")
        return out

    def _told(self, head: Head | None) -> Tensor | tuple[Tensor, Tensor]:
        """What comes out, whose places the call is told."""
        call = self._call
        if head is None:
            out = torch.empty(self.tokens, call.D, dtype=self._dtype)
            call.out, call.head, call.logits, call.highest = out.data_ptr(), None, None, None
            return out
        call.head, call.O, call.out = head.weight.data_ptr(), len(head.weight), None
        if head.highest:
            highest = torch.empty(self.tokens, dtype=torch.float32)
            likeliest = torch.empty(self.tokens, dtype=torch.int64)
            call.highest, call.likeliest = highest.data_ptr(), likeliest.data_ptr()
            call.logits = None
            return highest, likeliest
        logits = torch.empty(self.tokens, call.O, dtype=torch.float32)
        call.logits, call.highest = logits.data_ptr(), None
        return logits


_kept = threading.local()


def _room(size: int) -> int:
    """Where a calling thread has bytes to work in: new ones would be cleared for every call."""
    if getattr(_kept, "size", -1) < size:
        _kept.room, _kept.size = fresh(size), size  # at a multiple of 64
        _kept.address = _kept.room.data_ptr()
    return _kept.address


def _start(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
