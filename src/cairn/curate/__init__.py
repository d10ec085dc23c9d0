"""Curation: from origins to a corpus in which every file seen has a verdict and a reason."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cairn.base import Recipe, UserError, Work
from cairn.base.artifact import hash_files
from cairn.base.config import FREE, digest_of
from cairn.base.lazy import lazily
from cairn.curate.rendering import Limits
from cairn.curate.rules import Thresholds
from cairn.curate.selection import CAPS, parse_caps

if TYPE_CHECKING:
    from cairn.curate.cluster import Cluster
    from cairn.curate.corpus import read_files, read_ledger
    from cairn.curate.finding import lookup
    from cairn.curate.local import Local
    from cairn.curate.optout import OptOut
    from cairn.curate.sketch import SketchCorpus
    from cairn.curate.withdrawal import Withdraw

_HOMES = {
    "SketchCorpus": "sketch",
    "Withdraw": "withdrawal",
    "lookup": "finding",
    "read_files": "corpus",
    "read_ledger": "corpus",
}

__all__ = [
    "Curate",
    "SketchCorpus",
    "Thresholds",
    "Withdraw",
    "lookup",
    "read_files",
    "read_ledger",
]

__getattr__ = lazily(__name__, _HOMES)


@dataclass(frozen=True, kw_only=True)
class Curate(Recipe):
    """Read sources, judge every file, and keep what passes (StarCoder2, sections 2 to 4)."""

    sources: tuple[str, ...]
    """What is read: paths, or SCHEME:PATH?option=value; docs/sources.md lists the schemes."""
    exclude: tuple[str, ...] = ()
    """Patterns (fnmatch) of paths that are not read; they still count for the SWHID of the tree."""
    events: tuple[str, ...] = ()
    """Hours of GH Archive, files or folders: stars, forks, licences, default branches."""
    opt_out: tuple[str, ...] = ()
    """Files that name repositories, owners or SWHIDs, one a line, that must not be in the data."""
    licenses: tuple[str, ...] = ("permissive", "no_license")
    """Classes of licence that are kept."""
    licence_tool: Literal["templates", "scancode", "off"] = "templates"
    """What reads licence files: cairn's own templates, or ScanCode (an extra; far slower). With
    `off` no text is read for its licence, so that `licenses` must name all classes."""
    excluded_extensions: bool = True
    """Whether extensions are dropped that people found to hold no code of their language."""
    repository_duplicates: bool = True
    """Whether of several repositories with the same tree only one is kept."""
    near_duplicates: bool = True
    """Whether near duplicates (Jaccard similarity of about 0.7 and more) are dropped."""
    near_similarity: float = 0.65
    """From which estimated similarity files that share a band are near duplicates; 0 takes every
    shared band for one, as the report's code does."""
    quality: bool = True
    """Whether source files are held against the rules of quality."""
    thresholds: Thresholds = field(default_factory=Thresholds)
    """Where each quality rule begins to drop."""
    limits: Limits = field(default_factory=Limits)
    """Where the rules of threads, notebooks and other kinds begin to drop."""
    selection: Literal["full", "smol"] = "full"
    """All languages, or the 17 of the smaller models with documentation and configuration."""
    caps: tuple[str, ...] = CAPS
    """Most bytes of a language, LANGUAGE=SIZE each."""
    benchmarks: str | None = None
    """A folder of test sets; files that hold one of their items are dropped."""
    malware: Literal["auto", "require", "off"] = "auto"
    """Whether ClamAV scans what is kept: where it is installed, always, or never."""
    redact: Literal["off", "rules", "model"] = "rules"
    """How personal data and secrets are found: not at all, by rules, or by a model too."""
    redact_model: str | None = None
    """The folder of a token classifier that finds names and user names, for redact=model."""
    max_bytes: int = 10 * 2**20
    """Files of this many bytes and more are dropped unread."""
    max_files: int | None = None
    """Most files that are read, over all sources in order; None reads all. For a quick look."""
    seed: int = 0
    """Of what is drawn: which lines of a pull request are shown, how a program is compiled."""
    driver: Literal["local", "ray"] = field(default="local", metadata={FREE: True})
    """This machine, or a Ray cluster through Daft (an extra). The result is the same."""
    workers: int = field(default=0, metadata={FREE: True})
    """Processes that judge files; 0 takes one a core. The result is the same."""

    def __post_init__(self) -> None:
        for name in ("sources", "exclude", "events", "opt_out", "licenses", "caps"):
            if isinstance(getattr(self, name), str):
                raise UserError(name, getattr(self, name), "is one text", "give a tuple: (text,)")
        if not self.sources:
            raise UserError("sources", self.sources, "name nothing", "give a path or python:stdlib")
        from cairn.curate.licences import CLASSES

        wrong = [name for name in self.licenses if name not in CLASSES]
        if wrong or not self.licenses:
            known = ", ".join(CLASSES)
            raise UserError("licenses", ", ".join(wrong), "are no classes", f"known: {known}")
        if self.licence_tool == "off" and set(self.licenses) != set(CLASSES):
            mend = f"with licence_tool=off name all: {', '.join(CLASSES)}"
            raise UserError("licenses", ", ".join(self.licenses), "cannot be told apart", mend)
        if self.max_bytes < 1:
            raise UserError("max_bytes", self.max_bytes, "is less than one", "10485760 is usual")
        if self.max_files is not None and self.max_files < 1:
            raise UserError("max_files", self.max_files, "is less than one", "leave it None")
        if not 0 <= self.near_similarity <= 1:
            raise UserError(
                "near_similarity", self.near_similarity, "is no similarity", "take 0 to 1"
            )
        if self.workers < 0:
            raise UserError("workers", self.workers, "is negative", "take 0 or more")
        if (self.redact == "model") != (self.redact_model is not None):
            raise UserError(
                "redact_model", self.redact_model, "does not go with redact", "set both"
            )
        parse_caps(self.caps)

    def inputs(self) -> dict[str, str]:
        """The requests that the lists hold now, the test sets, and which hours there are."""
        found = {"opt_out": self.requests().digest} if self.opt_out else {}
        if self.benchmarks is not None:
            folder = Path(self.benchmarks).expanduser()
            if not folder.is_dir():
                raise UserError("benchmarks", str(folder), "is no folder", "give one of test sets")
            found["benchmarks"] = digest_of(hash_files(folder))
        if self.events:
            found["events"] = digest_of([(one.name, one.stat().st_size) for one in self.hours()])
        return found

    def hours(self) -> list[Path]:
        """The hours of events, those of folders by name. UserError where there are none."""
        from cairn.sources.events import find_hours

        try:
            return [hour for one in self.events for hour in find_hours(Path(one).expanduser())]
        except UserError as error:
            raise UserError(f"events: {error}") from None

    def requests(self) -> "OptOut":
        """Who asked to be left out. UserError for a list that cannot be read."""
        from cairn.curate.optout import OptOut

        return OptOut.read([Path(one).expanduser() for one in self.opt_out])

    def run(self, work: Work) -> dict[str, Any]:
        """Write files/, ledger/, report.json and report.md."""
        from cairn.curate.pipeline import curate

        return curate(self, work)

    def open_driver(self, out: Path) -> "Local | Cluster":
        """What runs the stages, with room for what it spills below `out`."""
        workers = self.workers or os.cpu_count() or 1
        if self.driver == "ray":
            from cairn.curate.cluster import Cluster
            from cairn.curate.reading import STAGES

            return Cluster(workers, out / STAGES / "spill")
        from cairn.curate.local import Local

        return Local(workers)

    def headline(self, facts: dict[str, Any]) -> str:
        """How much of what was seen is kept."""
        kept, seen = facts["kept"], facts["seen"]
        return f"{kept['files']:,} of {seen['files']:,} files kept, {kept['bytes'] / 1e6:.1f} MB"
