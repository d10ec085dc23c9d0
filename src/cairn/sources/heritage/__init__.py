"""Software Heritage: graph exports as a source of repositories, with contents of a store."""

from typing import TYPE_CHECKING

from cairn.base.lazy import lazily

if TYPE_CHECKING:
    from cairn.sources.heritage.reader import OPTIONS, read

_HOMES = {"OPTIONS": "reader", "read": "reader"}

__all__ = ["OPTIONS", "read"]

__getattr__ = lazily(__name__, _HOMES)
