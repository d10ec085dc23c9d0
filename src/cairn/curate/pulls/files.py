"""The files of a pull request: which of them are kept, and what is shown of each."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cairn.curate.languages import language_of
from cairn.curate.pulls.diff import Change, changes, hunks, lines_of
from cairn.curate.pulls.limits import PullLimits, drawn, integer

DOCUMENTATION = frozenset({"Markdown", "reStructuredText", "RMarkdown", "RDoc", "AsciiDoc"})
DATA = frozenset({"JSON", "YAML"})
_ENGLISH = re.compile(r"\s(?:the|be|to|of|and|that|have|with)\s")


@dataclass(frozen=True)
class File:
    """A file that is there before and after: its text, and by commit what the heads made of it."""

    path: str
    base: str
    heads: dict[str, str]

    @cached_property
    def lines(self) -> list[str]:
        return lines_of(self.base)

    @cached_property
    def language(self) -> str:
        return language_of(self.path, self.base)

    @cached_property
    def changed(self) -> dict[str, list[Change]]:
        """By commit, what it changed."""
        return {commit: changes(self.lines, lines_of(text)) for commit, text in self.heads.items()}

    def hunks(self, commit: str, seed: int, key: str, limits: PullLimits) -> list[str]:
        """What `commit` changed, with a number of lines of context that is drawn."""
        if commit not in self.heads:
            return []
        draw = f"{key}\0context\0{self.path}\0{commit}"
        context = integer(seed, draw, limits.fewest_context, limits.most_context)
        head = lines_of(self.heads[commit])
        return hunks(self.lines, head, self.changed[commit], context)

    def shown(self, seed: int, key: str, limits: PullLimits) -> str:
        """The whole base file or, more often, the lines that any head changed and some around.

        Each stretch is widened by up to `widest` lines, drawn for either side.
        """
        draw = f"{key}\0base\0{self.path}"
        if drawn(seed, draw, limits.whole_file):
            return self.base
        spans = sorted({(a, b) for found in self.changed.values() for a, b, _, _ in found})
        wide: list[tuple[int, int]] = []
        for a, b in spans:
            before = integer(seed, f"{draw}\0{a}\0{b}\0before", 1, limits.widest)
            after = integer(seed, f"{draw}\0{a}\0{b}\0after", 1, limits.widest)
            wide.append((max(a - before, 0), min(b + after, len(self.lines))))
        place, parts = 0, []
        for start, end in sorted(wide):
            parts += self.lines[max(start, place) : end]
            place = max(place, end)
        return "".join(parts)


def select(trees: dict[str, Any], limits: PullLimits) -> tuple[list[File], Counter[str]]:
    """The files that are kept, by path, and of those that are not how many for which reason.

    Additions and deletions of whole files are not kept; other files are tested as they were before.
    """
    blobs: dict[str, str | None] = trees["blobs"]
    before: dict[str, str | None] = {}
    after: dict[str, dict[str, str]] = {}
    for head in trees["heads"]:
        for path, old, new in head.get("files", ()):
            before[path] = old
            if old and new and blobs[new] is not None:
                after.setdefault(path, {})[head["commit"]] = blobs[new] or ""
    kept: list[File] = []
    dropped: Counter[str] = Counter()
    for path in sorted(before):
        old = before[path]
        base = blobs.get(old) if old else None
        if not old:
            reason = "addition"
        elif path not in after:
            reason = "deletion" if old not in blobs else "not text"
        elif base is None:
            reason = "not text"
        else:
            file = File(path, base, after[path])
            reason = next(_reasons(file, limits), "")
            if not reason:
                kept.append(file)
        if reason:
            dropped[reason] += 1
    return kept, dropped


def _reasons(file: File, limits: PullLimits) -> Iterator[str]:
    """Why a file is not kept."""
    text = file.base
    if len(text) > limits.longest_file:
        yield "too large"
    length = max(len(text), 1)
    if text and sum(map(str.isalnum, text)) / length < limits.alphanumeric_share:
        yield "few letters"
    if text.count("\\x") * 2 / length > limits.hexadecimal_share:
        yield "escapes"
    lengths = [len(line.removesuffix("\n")) for line in file.lines]
    if len(lengths) > limits.most_lines:
        yield "many lines"
    if file.language not in DOCUMENTATION:
        average = sum(lengths) / max(len(lengths), 1)
        if average > limits.average_line or max(lengths, default=0) > limits.longest_line:
            yield "long lines"
    if file.language == "Markdown" and not _ENGLISH.search(text):
        yield "not English"


def is_data(files: list[File], limits: PullLimits) -> str:
    """Why the pull request counts as one of data files, or an empty string."""
    data = [file for file in files if file.language in DATA]
    whole = sum(len(file.base) for file in files)
    share = sum(len(file.base) for file in data) / max(whole, 1)
    if share > limits.data_share:
        return f"{share:.0%} of the base files is YAML or JSON"
    for file in data:
        word = next((word for word in limits.data_words if word in file.path.lower()), "")
        if word:
            return f"{file.path} has {word!r} in its path"
    return ""
