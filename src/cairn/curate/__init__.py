"""Curation: from origins to a corpus in which every file seen has a verdict and a reason."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cairn.base import Recipe, UserError, Work
from cairn.curate.rules import Thresholds

if TYPE_CHECKING:
    from cairn.curate.corpus import read_files, read_ledger
    from cairn.curate.finding import lookup

_HOMES = {"lookup": "finding", "read_files": "corpus", "read_ledger": "corpus"}

__all__ = ["Curate", "Thresholds", "lookup", "read_files", "read_ledger"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


@dataclass(frozen=True, kw_only=True)
class Curate(Recipe):
    """Read sources, judge every file, and keep what passes (StarCoder2, section 2.1)."""

    sources: tuple[str, ...]
    """Directories, git checkouts, archives, `python:stdlib`, or `python:NAME` of a distribution."""
    exclude: tuple[str, ...] = ()
    """Patterns (fnmatch) of paths that are not read; they still count for the SWHID of the tree."""
    licenses: tuple[str, ...] = ("permissive", "no_license")
    """Classes of licence that are kept."""
    thresholds: Thresholds = field(default_factory=Thresholds)
    """Where each quality rule begins to drop."""
    max_bytes: int = 10 * 2**20
    """Files of this many bytes and more are dropped unread."""
    max_files: int | None = None
    """Most files that are read, over all sources in order; None reads all. For a quick look."""
    redact: bool = True
    """Whether e-mail and public IP addresses, keys and passwords are replaced."""
    near_duplicates: bool = True
    """Whether near duplicates (Jaccard similarity of about 0.7 and more) are dropped."""
    workers: int = 0
    """Processes that judge files; 0 takes one a core. The result is the same."""

    def __post_init__(self) -> None:
        if isinstance(self.sources, str):
            raise UserError("sources", self.sources, "is one text", "give a tuple: (text,)")
        if not self.sources:
            raise UserError("sources", self.sources, "name nothing", "give a path or python:stdlib")
        from cairn.curate.licences import CLASSES

        wrong = [name for name in self.licenses if name not in CLASSES]
        if wrong or not self.licenses:
            known = ", ".join(CLASSES)
            raise UserError("licenses", ", ".join(wrong), "are no classes", f"known: {known}")
        if self.max_bytes < 1:
            raise UserError("max_bytes", self.max_bytes, "is less than one", "10485760 is usual")
        if self.max_files is not None and self.max_files < 1:
            raise UserError("max_files", self.max_files, "is less than one", "leave it None")
        if self.workers < 0:
            raise UserError("workers", self.workers, "is negative", "take 0 or more")

    def run(self, work: Work) -> dict[str, Any]:
        from cairn.curate.pipeline import curate

        return curate(self, work)

    def headline(self, facts: dict[str, Any]) -> str:
        kept, seen = facts["kept"], facts["seen"]
        return f"{kept['files']:,} of {seen['files']:,} files kept, {kept['bytes'] / 1e6:.1f} MB"
