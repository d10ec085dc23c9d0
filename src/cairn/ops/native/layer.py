"""A whole layer, x + mixer(norm(x)), in one call, for a few tokens in fp32 on a CPU.

The addresses of a layer's parameters are kept between calls, for collecting them anew would take
as long as the layer.
"""

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cairn.ops.native.library import Layer, Mixer, native
from cairn.ops.native.operations import FEW_ROWS, parts_of
from cairn.ops.ragged import Chunks
from cairn.ops.slots import Slots

if TYPE_CHECKING:
    from cairn.ops.mamba import MixerForm, MixerWeights, Pool

_NO_LIMITS = (0.0, torch.inf)


def fits(x: Tensor) -> bool:
    """Whether layers over x [T, D] can go in one call, as far as x tells."""
    few = x.dtype == torch.float32 and x.device.type == "cpu" and len(x) <= FEW_ROWS[x.dtype]
    free = not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
    return few and free and not native().missing and x.is_contiguous()


class FeedForwardLayer:
    """Squared ReLU between two matrices, behind an RMSNorm, added to x."""

    def __init__(self, norm: Tensor, eps: float, first: Tensor, last: Tensor) -> None:
        self.tensors: Sequence[Tensor] = (norm, first, last)
        self._layer = Layer(
            norm=norm.data_ptr(),
            first=first.data_ptr(),
            last=last.data_ptr(),
            D=first.shape[1],
            inside=first.shape[0],
            width=last.shape[1],
            eps=eps,
        )

    @property
    def fits(self) -> bool:
        """Whether the parameters are of the kind that is compiled."""
        return all(t.dtype == torch.float32 and t.is_contiguous() for t in self.tensors)

    def __call__(self, x: Tensor) -> Tensor:
        """x [T, D] to the same."""
        library = native().library
        assert library
        layer, _room, out = self._open(x)
        library.cairn_squared_relu_layer(ctypes.byref(layer))
        return out

    def _open(self, x: Tensor) -> tuple[Layer, Tensor, Tensor]:
        """The call's structure; its working room, to be held until the call is over; the result."""
        layer = Layer.from_buffer_copy(self._layer)  # another thread may be in the same layer
        out = torch.empty_like(x)
        room = torch.empty(len(x) * (layer.D + layer.inside + layer.width))
        layer.x, layer.out, layer.room = x.data_ptr(), out.data_ptr(), room.data_ptr()
        layer.T, layer.threads = len(x), torch.get_num_threads()
        return layer, room, out


class MixerLayer(FeedForwardLayer):
    """A Mamba-2 mixer behind an RMSNorm, added to x."""

    def __init__(
        self,
        norm: Tensor,
        eps: float,
        first: Tensor,
        last: Tensor,
        weights: "MixerWeights",
        form: "MixerForm",
    ) -> None:
        super().__init__(norm, eps, first, last)
        self.tensors = (norm, first, last, *(t for t in weights if t is not None))
        inner, channels = last.shape[1], len(weights.conv)
        least, most = form.dt_limits or _NO_LIMITS
        self._mixer = Mixer(
            conv=weights.conv.data_ptr(),
            conv_bias=None if weights.conv_bias is None else weights.conv_bias.data_ptr(),
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

    def __call__(  # type: ignore[override]
        self, x: Tensor, chunks: Chunks, pool: "Pool | None", slots: Slots
    ) -> Tensor:
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
