"""Documents with structure: a list of pieces, each a mark and the text after it.

A mark is the name of a sentinel (`<issue_start>`) or empty. What is spelled like a sentinel inside
a text stays text: only marks become sentinels when a corpus is encoded. The corpus keeps pieces as
JSON in its `content` column for the kinds in STRUCTURED, and plain text for all others.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from cairn.curate.rules import KEEP, Verdict
from cairn.sources.record import (
    ANSWERS,
    INTERMEDIATE,
    ISSUE,
    KAGGLE,
    NOTEBOOK,
    NOTEBOOK_SCRIPT,
    PULL_REQUEST,
)

Piece = tuple[str, str]
STRUCTURED = frozenset(
    {ISSUE, PULL_REQUEST, NOTEBOOK, NOTEBOOK_SCRIPT, KAGGLE, INTERMEDIATE, ANSWERS}
)


@dataclass(frozen=True)
class Document:
    """What one record becomes for training; a record may become several.

    language: by linguist's name, or empty where the kind has none. A kind that is not structured
    has exactly one piece, without a mark.
    """

    kind: str
    language: str
    pieces: tuple[Piece, ...]
    verdict: Verdict = KEEP


def to_content(kind: str, pieces: Sequence[Piece]) -> str:
    """The `content` column's form of a document."""
    if kind in STRUCTURED:
        return json.dumps([list(piece) for piece in pieces], ensure_ascii=False)
    return "".join(text for _, text in pieces)


def from_content(kind: str, content: str) -> list[Piece]:
    """The pieces of a `content`; plain text is one piece without a mark."""
    if kind in STRUCTURED:
        return [(mark, text) for mark, text in json.loads(content)]
    return [("", content)]


def plain_text(kind: str, content: str) -> str:
    """What is written, without marks: for rules that look at words."""
    return "\n".join(text for _, text in from_content(kind, content) if text)
