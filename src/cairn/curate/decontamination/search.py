"""The test of a file: the report's exact rule first, then how much of any item it holds."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cairn.base.config import digest_of
from cairn.base.files import sha256_of
from cairn.curate.decontamination.benchmarks import Item, read_items
from cairn.curate.decontamination.exact import ExactSearch
from cairn.curate.decontamination.overlap import OverlapSearch

SHORTEST = 12  # bytes, without whitespace, of a part that the report searches for,
SHORTEST_OTHER = 60  # and of other benchmarks' parts
SHARE = 0.5
LEAST = 80  # letters and digits of a part that are worth comparing

_ASCII = bytes(range(256))
_LOWER = _ASCII.lower()
_SPACES = bytes(byte for byte in range(128) if chr(byte).isspace())
_MARKS = bytes(byte for byte in range(128) if not chr(byte).isalnum())
_WIDE_SPACES = re.compile("[\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+")


def without_whitespace(text: str) -> bytes:
    """Lower case without whitespace, in UTF-8: what the exact rule compares."""
    if not text.isascii():
        text = _WIDE_SPACES.sub("", text.lower())
    return text.encode("utf-8", "replace").translate(_LOWER, _SPACES)


def letters_and_digits(text: str) -> bytes:
    """Lower-case letters and digits, and all that is not ASCII, in UTF-8."""
    lowered = text if text.isascii() else text.lower()
    return lowered.encode("utf-8", "replace").translate(_LOWER, _MARKS)


@dataclass(frozen=True)
class Contamination:
    """All items of some benchmarks, ready to be searched for.

    digest: SHA-256 over the benchmarks' files and the settings; the same for the same verdicts.
    """

    items: tuple[Item, ...]
    benchmarks: tuple[str, ...]
    digest: str
    exact: ExactSearch
    exact_items: tuple[Item, ...]
    overlap: OverlapSearch | None

    @classmethod
    def build(
        cls,
        folder: Path,
        tests: Sequence[str] | None = None,
        *,
        shortest: int = SHORTEST,
        share: float | None = SHARE,
        least: int = LEAST,
    ) -> "Contamination":
        """Read the benchmarks in `folder` that `tests` names; None takes all that are there.

        shortest: bytes without whitespace below which a part is too common to be searched for.
        share: of a part's letters that a file may not hold; None leaves this test out.
        least: letters below which a part has no such test. UserError as of `read_items`.
        """
        items, files = read_items(folder, tests)
        unique: dict[bytes, Item] = {}
        for item in items:
            pattern = without_whitespace(item.text)
            if len(pattern) >= (shortest if item.reported else max(shortest, SHORTEST_OTHER)):
                unique.setdefault(pattern, item)
        return cls(
            items=tuple(items),
            benchmarks=tuple(dict.fromkeys(item.benchmark for item in items)),
            digest=_digest(folder, files, tests or (), (shortest, share, least)),
            exact=ExactSearch(list(unique)),
            exact_items=tuple(unique.values()),
            overlap=None if share is None else _overlap(items, share, least),
        )

    def find(self, text: str) -> str | None:
        """Why the file must go: benchmark, item and which part of it; None where it may stay."""
        number = self.exact.find(without_whitespace(text))
        if number is not None:
            return self.exact_items[number].name
        if self.overlap is None:
            return None
        found = self.overlap.find(letters_and_digits(text))
        return None if found is None else f"{self.items[found[0]].name} ({found[1]:.0%} of it)"


def digest_of_benchmarks(folder: Path) -> str:
    """The digest of `Contamination.build(folder)`, which need not be built for it."""
    return _digest(folder, read_items(folder, None)[1], (), (SHORTEST, SHARE, LEAST))


def _digest(
    folder: Path, files: Sequence[Path], tests: Sequence[str], settings: Sequence[float | None]
) -> str:
    digests = {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}
    return digest_of([digests, sorted(tests), *settings])


def _overlap(items: Sequence[Item], share: float, least: int) -> OverlapSearch:
    files: dict[str, int] = {}
    problems: dict[tuple[str, str], int] = {}
    texts, pairs = [], []
    seen: set[bytes] = set()
    for item in items:
        text = letters_and_digits(item.text)
        texts.append(b"" if text in seen else text)  # a twin is nothing new to compare
        seen.add(text)
        file = files.setdefault(item.benchmark, len(files))
        pairs.append((file, problems.setdefault((item.benchmark, item.id), len(problems))))
    return OverlapSearch(texts, pairs, share, least)
