"""The sources that are named by a scheme, each in the room that reads it."""

from collections.abc import Callable, Collection, Iterator

from cairn.sources import bundle, checkout, events, heritage, identifiers
from cairn.sources.record import SourceFile
from cairn.sources.spec import Spec

# What may stand after the `?` of each scheme; a text without a scheme is a path.
SCHEMES: dict[str, Collection[str]] = {
    "gharchive": events.OPTIONS,
    "git": checkout.OPTIONS,
    "ids": identifiers.OPTIONS,
    "swh": heritage.OPTIONS,
}


def open_scheme(
    spec: Spec, max_bytes: int, source: Callable[[str], Iterator[SourceFile]]
) -> Iterator[SourceFile]:
    """The records of a source with one of SCHEMES; `source` opens others that it names."""
    if spec.scheme == "gharchive":
        return events.read(spec, max_bytes=max_bytes)
    if spec.scheme == "git":
        return bundle.open_git(spec, max_bytes)
    if spec.scheme == "swh":
        return heritage.read(spec, max_bytes=max_bytes)
    assert spec.scheme == "ids", spec.scheme
    return identifiers.read(spec, max_bytes=max_bytes, source=source)
