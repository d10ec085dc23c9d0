"""Operations, tensors in and tensors out: what every model is computed with.

The definitions, one token at a time, are in `reference`. Nothing here imports torch until used.
"""

from typing import TYPE_CHECKING

from cairn.base.lazy import lazily

if TYPE_CHECKING:
    from cairn.ops.activation import gelu_tanh, swiglu
    from cairn.ops.attention import AttentionPlan, attention
    from cairn.ops.conv import causal_conv, next_window
    from cairn.ops.layernorm import layer_norm
    from cairn.ops.loss import linear_cross_entropy, linear_kl
    from cairn.ops.mamba import MixerForm, MixerWeights, mamba_inner
    from cairn.ops.memory import keep_freed_memory
    from cairn.ops.norm import gated_rms_norm, rms_norm, squared_relu
    from cairn.ops.ragged import Chunks
    from cairn.ops.rotary import rotate
    from cairn.ops.scan import ssd_scan
    from cairn.ops.slots import Slots

_HOMES = {
    "AttentionPlan": "attention",
    "Chunks": "ragged",
    "MixerForm": "mamba",
    "MixerWeights": "mamba",
    "Slots": "slots",
    "attention": "attention",
    "causal_conv": "conv",
    "gated_rms_norm": "norm",
    "gelu_tanh": "activation",
    "keep_freed_memory": "memory",
    "layer_norm": "layernorm",
    "linear_cross_entropy": "loss",
    "linear_kl": "loss",
    "mamba_inner": "mamba",
    "next_window": "conv",
    "rms_norm": "norm",
    "rotate": "rotary",
    "squared_relu": "norm",
    "ssd_scan": "scan",
    "swiglu": "activation",
}

__all__ = [
    "AttentionPlan",
    "Chunks",
    "MixerForm",
    "MixerWeights",
    "Slots",
    "attention",
    "causal_conv",
    "gated_rms_norm",
    "gelu_tanh",
    "keep_freed_memory",
    "layer_norm",
    "linear_cross_entropy",
    "linear_kl",
    "mamba_inner",
    "next_window",
    "rms_norm",
    "rotate",
    "squared_relu",
    "ssd_scan",
    "swiglu",
]


__getattr__ = lazily(__name__, _HOMES)


def __dir__() -> list[str]:
    return __all__
