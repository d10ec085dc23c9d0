"""The model: configuration, one forward, memory, checkpoints. No torch until a model is made."""

from typing import TYPE_CHECKING

from cairn.base.lazy import lazily
from cairn.model.config import ModelConfig

if TYPE_CHECKING:
    from cairn.model.cache import Cache, KeyValues, Recurrence
    from cairn.model.checkpoint import load, save
    from cairn.model.decoder import Decoder, build
    from cairn.model.spans import Spans

_HOMES = {
    "Cache": "cache",
    "Decoder": "decoder",
    "KeyValues": "cache",
    "Recurrence": "cache",
    "Spans": "spans",
    "build": "decoder",
    "load": "checkpoint",
    "save": "checkpoint",
}

__all__ = [
    "Cache",
    "Decoder",
    "KeyValues",
    "ModelConfig",
    "Recurrence",
    "Spans",
    "build",
    "load",
    "save",
]


__getattr__ = lazily(__name__, _HOMES)


def __dir__() -> list[str]:
    return __all__
