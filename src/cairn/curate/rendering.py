"""Records that are no source files become documents: threads, notebooks, pages, pairs, answers."""

from collections.abc import Callable
from dataclasses import dataclass, field

from cairn.curate.pieces import Document
from cairn.curate.pulls import PullLimits, pull_request_document
from cairn.curate.rules import Verdict
from cairn.curate.threads import IssueLimits, issue_document
from cairn.sources.record import (
    ISSUE,
    PULL_REQUEST,
    SOURCE,
    TEXT,
)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Where the rules of each kind begin to drop."""

    issues: IssueLimits = field(default_factory=IssueLimits)
    """GitHub issues."""
    pulls: PullLimits = field(default_factory=PullLimits)
    """GitHub pull requests."""


@dataclass(frozen=True)
class Rendering:
    """What rendering needs of the recipe."""

    limits: Limits
    seed: int = 0


def is_rendered(kind: str, path: str) -> bool:
    """Whether a record is told otherwise than by its own text."""
    return kind != SOURCE


def documents(kind: str, path: str, raw: bytes, wanted: Rendering) -> list[Document]:
    """What a record becomes; each document carries the verdict of its kind's own rules."""
    limits, seed = wanted.limits, wanted.seed
    made: dict[str, Callable[[], list[Document]]] = {
        ISSUE: lambda: [issue_document(raw, limits.issues)],
        PULL_REQUEST: lambda: [pull_request_document(raw, limits.pulls, seed)],
        TEXT: lambda: [_text(raw)],
    }
    return made[kind]()


def _text(raw: bytes) -> Document:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return Document(TEXT, "", (), Verdict(False, "text_encoding", str(error)))
    if not text.strip():
        return Document(TEXT, "", (), Verdict(False, "empty", "holds no text"))
    return Document(TEXT, "", (("", text),))
