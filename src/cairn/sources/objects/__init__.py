"""Object stores: contents by their SHA-1, from a folder, a web server or S3."""

from typing import TYPE_CHECKING

from cairn.base.lazy import lazily

if TYPE_CHECKING:
    from cairn.sources.objects.contents import with_contents
    from cairn.sources.objects.store import Folder, Missing, Store, open_store
    from cairn.sources.objects.web import Patience

_HOMES = {
    "Folder": "store",
    "Missing": "store",
    "Patience": "web",
    "Store": "store",
    "open_store": "store",
    "with_contents": "contents",
}

__all__ = ["Folder", "Missing", "Patience", "Store", "open_store", "with_contents"]

__getattr__ = lazily(__name__, _HOMES)
