"""The sources that are named by a scheme, each in the room that reads it."""

from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from cairn.sources import (
    bundle,
    checkout,
    documentation,
    events,
    heritage,
    identifiers,
    kaggle,
    programs,
    stackexchange,
    textsets,
)
from cairn.sources.record import SourceFile
from cairn.sources.spec import Spec

# What may stand after the `?` of each scheme; a text without a scheme is a path.
SCHEMES: dict[str, Collection[str]] = {
    "docs": documentation.OPTIONS,
    "gharchive": events.OPTIONS,
    "git": checkout.OPTIONS,
    "ids": identifiers.OPTIONS,
    "kaggle": kaggle.OPTIONS,
    "pairs": programs.OPTIONS,
    "stackexchange": stackexchange.OPTIONS,
    "swh": heritage.OPTIONS,
    "text": textsets.OPTIONS,
}


def open_scheme(
    spec: Spec,
    max_bytes: int,
    source: Callable[[str], Iterator[SourceFile]],
    metadata: Path | None = None,
) -> Iterator[SourceFile]:
    """The records of a source with one of SCHEMES; `source` opens others that it names.

    `metadata`: a table of what GH Archive tells of repositories, default branches among it.
    """
    alone = {
        "gharchive": events.read,
        "kaggle": kaggle.read,
        "stackexchange": stackexchange.read,
        "text": textsets.read,
    }
    of_another = {
        "docs": documentation.read,
        "ids": identifiers.read,
        "pairs": programs.read,
    }
    if spec.scheme == "git":
        return bundle.open_git(spec, max_bytes)
    if spec.scheme == "swh":
        return heritage.read(spec, max_bytes=max_bytes, metadata=metadata)
    if spec.scheme in alone:
        return alone[spec.scheme](spec, max_bytes=max_bytes)
    return of_another[spec.scheme](spec, max_bytes=max_bytes, source=source)
