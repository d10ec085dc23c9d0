"""Sources: directories, checkouts, archives and installed packages become records with SWHIDs."""

from typing import TYPE_CHECKING

from cairn.base.lazy import lazily

if TYPE_CHECKING:
    from cairn.sources.origins import read_batches, read_origin
    from cairn.sources.record import SOURCE_SCHEMA, SourceFile, to_batch
    from cairn.sources.swhid import content_hash, directory_hash

_HOMES = {
    "SOURCE_SCHEMA": "record",
    "SourceFile": "record",
    "content_hash": "swhid",
    "directory_hash": "swhid",
    "read_batches": "origins",
    "read_origin": "origins",
    "to_batch": "record",
}

__all__ = [
    "SOURCE_SCHEMA",
    "SourceFile",
    "content_hash",
    "directory_hash",
    "read_batches",
    "read_origin",
    "to_batch",
]


__getattr__ = lazily(__name__, _HOMES)
