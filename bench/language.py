"""Compare cairn's languages with decisions of go-enry on files of real packages.

    python bench/language.py PACKAGES DECISIONS

PACKAGES is a folder that bench/packages.py filled; DECISIONS a (gzipped) table of package, path,
git blob id and language. Files are matched by their blob ids. Prints the share that agrees, every
pair that does not with its count and an example, and the speed over all text of the packages.
"""

import argparse
import gzip
import hashlib
import sys
import tarfile
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from cairn.curate import languages

FLOOR = 0.98  # of the decisions whose file was found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("packages", type=Path)
    parser.add_argument("decisions", type=Path)
    arguments = parser.parse_args()
    decisions = read(arguments.decisions)
    wrong: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], str] = {}
    seen: set[str] = set()
    agreed = compared = files = size = 0
    seconds = {"language_of": 0.0, "is_generated": 0.0}
    for path, raw in members(arguments.packages):
        if b"\0" not in raw:
            text = raw.decode("utf-8", "replace")
            begin = time.perf_counter()
            languages.language_of(path, text)
            middle = time.perf_counter()
            languages.is_generated(path, text)
            seconds["language_of"] += middle - begin
            seconds["is_generated"] += time.perf_counter() - middle
            files, size = files + 1, size + len(raw)
        blob = hashlib.sha1(b"blob %d\0" % len(raw) + raw, usedforsecurity=False).hexdigest()
        if blob in decisions and blob not in seen:
            seen.add(blob)
            for name, expected in decisions[blob]:
                found = languages.language_of(name, raw.decode("utf-8", "replace"))
                compared, agreed = compared + 1, agreed + (found == expected)
                if found != expected:
                    wrong[expected, found] += 1
                    examples.setdefault((expected, found), name)
    report(wrong, examples, seconds, files, size)
    total = sum(map(len, decisions.values()))
    print(
        f"{agreed:,} of {compared:,} agree ({agreed / max(1, compared):.4%}); {total:,} decisions"
    )
    return 0 if compared and agreed >= FLOOR * compared else 1


def read(path: Path) -> dict[str, list[tuple[str, str]]]:
    """(path, language) of every decision by git blob id."""
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    found: dict[str, list[tuple[str, str]]] = {}
    for line in text.splitlines()[1:]:
        _, name, blob, language = line.split("\t")
        found.setdefault(blob, []).append((name, language))
    return found


def members(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Path and bytes of every regular file in the folder's archives."""
    for path in sorted(folder.iterdir()):
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                for one in archive.infolist():
                    if not one.is_dir():
                        yield one.filename, archive.read(one)
        elif path.is_file() and not path.name.startswith(".") and path.suffix != ".json":
            with tarfile.open(path) as archive:
                for one in archive:
                    content = archive.extractfile(one) if one.isreg() else None
                    if content:
                        yield one.name, content.read()


def report(
    wrong: Counter[tuple[str, str]],
    examples: dict[tuple[str, str], str],
    seconds: dict[str, float],
    files: int,
    size: int,
) -> None:
    for (expected, found), count in wrong.most_common():
        name = examples[expected, found]
        print(f"{count:5} {expected or '(none)'} taken for {found or '(none)'}: {name}")
    for name, one in seconds.items():
        rate = f"{files / one:,.0f} files/s, {size / one / 1e6:,.0f} MB/s"
        print(f"{name}: {rate} over {files:,} files, {size / 1e6:,.0f} MB")


if __name__ == "__main__":
    sys.exit(main())
