"""Records that are no source files become documents: threads, notebooks, pages, pairs, answers."""

from collections.abc import Callable
from dataclasses import dataclass, field

from cairn.base import UserError
from cairn.curate.answers import AnswersLimits, answers_document
from cairn.curate.bounds import check_bounds
from cairn.curate.documents import DocumentationLimits, documentation_document
from cairn.curate.intermediate import IntermediateLimits, intermediate_document
from cairn.curate.notebooks import (
    KaggleLimits,
    NotebookLimits,
    kaggle_document,
    notebook_documents,
)
from cairn.curate.pieces import Document
from cairn.curate.pulls import PullLimits, pull_request_document
from cairn.curate.rules import Verdict
from cairn.curate.threads import IssueLimits, issue_document
from cairn.sources.record import (
    ANSWERS,
    DOCUMENTATION,
    INTERMEDIATE,
    ISSUE,
    KAGGLE,
    NOTEBOOK,
    NOTEBOOK_SCRIPT,
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
    notebooks: NotebookLimits = field(default_factory=NotebookLimits)
    """Jupyter notebooks."""
    kaggle: KaggleLimits = field(default_factory=KaggleLimits)
    """Kaggle's notebooks, beside their data sets."""
    documentation: DocumentationLimits = field(default_factory=DocumentationLimits)
    """Pages, manuals and books."""
    intermediate: IntermediateLimits = field(default_factory=IntermediateLimits)
    """Programs and their LLVM IR."""
    answers: AnswersLimits = field(default_factory=AnswersLimits)
    """Questions with their answers."""

    def __post_init__(self) -> None:
        check_bounds("limits", self)
        for name, least, most in (
            ("pulls.most_context", self.pulls.fewest_context, self.pulls.most_context),
            ("issues.most_lines", self.issues.last_lines, self.issues.most_lines),
        ):
            if most < least:
                raise UserError(f"limits.{name}", most, f"is less than {least}", "take more")


@dataclass(frozen=True)
class Rendering:
    """What rendering needs of the recipe."""

    limits: Limits
    seed: int = 0


def is_rendered(kind: str, path: str) -> bool:
    """Whether a record is told otherwise than by its own text."""
    return kind != SOURCE or path.lower().endswith(".ipynb")


def documents(kind: str, path: str, raw: bytes, wanted: Rendering) -> list[Document]:
    """What a record becomes; each document carries the verdict of its kind's own rules.

    A notebook among source files becomes two; one that a release names as one of them, that one.
    """
    limits, seed = wanted.limits, wanted.seed

    def notebook() -> list[Document]:
        made = notebook_documents(raw, path, limits.notebooks)
        return made if kind == SOURCE else [one for one in made if one.kind == kind] or made[:1]

    made: dict[str, Callable[[], list[Document]]] = {
        ISSUE: lambda: [issue_document(raw, limits.issues)],
        PULL_REQUEST: lambda: [pull_request_document(raw, limits.pulls, seed)],
        DOCUMENTATION: lambda: [documentation_document(raw, path, limits.documentation)],
        INTERMEDIATE: lambda: [intermediate_document(raw, path, seed, limits.intermediate)],
        KAGGLE: lambda: [kaggle_document(raw, limits.kaggle)],
        ANSWERS: lambda: [answers_document(raw, limits.answers)],
        TEXT: lambda: [_text(raw)],
        **dict.fromkeys((SOURCE, NOTEBOOK, NOTEBOOK_SCRIPT), notebook),
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
