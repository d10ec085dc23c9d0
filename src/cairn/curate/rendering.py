"""Records that are no source files become documents: threads, notebooks, pages, pairs, answers."""

from dataclasses import dataclass

from cairn.curate.pieces import Document
from cairn.sources.record import (
    SOURCE,
)


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """What rendering needs of the recipe."""

    seed: int = 0


def is_rendered(kind: str, path: str) -> bool:
    """Whether a record is told otherwise than by its own text."""
    return kind != SOURCE or path.lower().endswith(".ipynb")


def documents(
    kind: str, path: str, raw: bytes, repository: str, wanted: Rendering
) -> list[Document]:
    """What a record becomes; each document carries the verdict of its kind's own rules."""
    raise NotImplementedError
