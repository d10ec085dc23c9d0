"""Self-contained programs as a source: those that a compiler turns into a pair with its IR.

StarCoder2 (arXiv 2402.19173), section 2.6: solutions of Rosetta Code and of contests. They lie in
a folder, a checkout or an archive, told by their extensions, or in tables with a column of
languages and one of programs.
"""

import gzip
import io
import json
import lzma
import re
import stat
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from cairn.base import UserError
from cairn.sources.damage import told, unreadable
from cairn.sources.digest import digest
from cairn.sources.record import INTERMEDIATE, REGULAR, Origin, SourceFile, path_text
from cairn.sources.spec import Spec

OPTIONS = ("language", "code", "licence", "name")
TABLES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".ndjson", ".ndjson.gz", ".ndjson.zst", ".parquet")
LONGEST_LINE = 64 << 20  # bytes; a row may hold all solutions of a problem
ROWS = 16  # of a Parquet file, read at a time
# fmt: off
EXTENSIONS = frozenset({
    "c", "cpp", "cc", "cxx", "c++", "m", "rs", "d", "f90", "f95", "f03", "f08", "hs", "swift",
    "go", "py",
})
# Names of languages in lower case, as contests write them, up to a bracket; numbers are those of
# DeepMind's CodeContests (1 is Python 2, 4 Java).
NAMES = tuple((re.compile(pattern), extension) for pattern, extension in (
    (r"(?:gnu |ms |clang ?|g)?(?:c\+\+|cpp|\+\+).*|2", "cpp"),
    (r"(?:gnu |clang )?c ?(?:89|90|99|11|17|18|23)?", "c"),
    (r"objective-?c|objc", "m"),
    (r"rust(?: [\d.]+)?|rs", "rs"),
    (r"d|dlang", "d"),
    (r"fortran.*|f90", "f90"),
    (r"haskell|hs", "hs"),
    (r"swift(?: [\d.]+)?", "swift"),
    (r"go(?:lang)?(?: [\d.]+)?", "go"),
    (r"python ?3?(?:\.[\d.]+)?|pypy ?3(?:-64)?|py3?|3", "py"),
))
# fmt: on
_BROKEN = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, pa.ArrowException)


@dataclass(frozen=True)
class _Columns:
    """Where languages and programs stand in a row: names, with dots where they are nested."""

    language: str
    code: str


def read(
    spec: Spec, *, max_bytes: int, source: Callable[[str], Iterator[SourceFile]]
) -> Iterator[SourceFile]:
    """Records of `pairs:PATH?licence=SPDX` or `pairs:PATH?language=COLUMN&code=COLUMN&name=NAME`.

    A path of programs is opened by `source`: files with one of EXTENSIONS are given as
    INTERMEDIATE, others and links passed over. A JSON lines or Parquet file, or with `language` or
    `code` a folder of them, holds a program in each row, or a list of them (`solutions.solution`,
    say, for a column in a column); a record's path is `FILE#ROW.EXT` or `FILE#ROW.NUMBER.EXT`, both
    counted from 1. Programs in other languages are passed over. `licence` holds for every program.
    What is damaged is a record with a problem; UserError before anything is read for a path that is
    not there, or a Parquet file without the columns.
    """
    licences = (spec.options["licence"],) if "licence" in spec.options else ()
    path = Path(spec.path).expanduser()
    named = "language" in spec.options or "code" in spec.options
    if not spec.path or not (named or _is_table(path)):
        return _programs(source(spec.path), licences)
    columns = _Columns(spec.options.get("language", "language"), spec.options.get("code", "code"))
    found = _tables(spec, path)
    for one in found:
        _check(spec, one, columns)
    name = spec.options.get("name") or path_text(path.name.partition(".")[0].encode())
    rows = (row for one in found for row in _of_table(one, path, name, columns, max_bytes))
    return (replace(one, detected_licenses=licences) if licences else one for one in rows)


def _programs(files: Iterator[SourceFile], licences: tuple[str, ...]) -> Iterator[SourceFile]:
    for one in files:
        if one.problem is not None:
            yield one
        elif stat.S_ISREG(one.mode) and _extension(one.path) in EXTENSIONS:
            known = licences or one.detected_licenses
            yield replace(one, kind=INTERMEDIATE, detected_licenses=known)


def _extension(path: str) -> str:
    return path.rpartition(".")[2].lower() if "." in path.rpartition("/")[2] else ""


def _is_table(path: Path) -> bool:
    return path.name.lower().endswith(TABLES) and path.is_file()


def _tables(spec: Spec, path: Path) -> list[Path]:
    if not path.exists():
        raise UserError("source", spec.text, "does not exist", "give a file or a folder")
    found = sorted(filter(_is_table, path.rglob("*"))) if path.is_dir() else [path]
    if not found or not _is_table(found[0]):
        known = ", ".join(TABLES)
        raise UserError("source", spec.text, "holds no table", f"known endings: {known}")
    return found


def _check(spec: Spec, path: Path, columns: _Columns) -> None:
    """UserError for a Parquet file without the columns; a damaged one is told when it is read."""
    if path.suffix.lower() != ".parquet":
        return
    try:
        names = pq.read_schema(path).names
    except _BROKEN:
        return
    for column in (columns.language, columns.code):
        if column.partition(".")[0] not in names:
            had = ", ".join(names)
            raise UserError(
                "source", spec.text, f"{path.name} has no column {column}", f"has: {had}"
            )


def _of_table(
    path: Path, root: Path, name: str, columns: _Columns, max_bytes: int
) -> Iterator[SourceFile]:
    inside = path.relative_to(root).as_posix() if path != root else path.name
    inside = path_text(inside.encode("utf-8", "surrogateescape"))
    origin = Origin(repo_name=name, origin_url=path.resolve().as_uri(), directory_id="")
    rows = _parquet(path, columns) if path.suffix.lower() == ".parquet" else _lines(path)
    try:
        for number, row in enumerate(rows, 1):
            place = f"{inside}#{number}"
            if isinstance(row, str):
                yield unreadable(origin, row, place.encode())
                continue
            for ending, code in _of_row(row, columns):
                yield _record(origin, place + ending, code, max_bytes)
    except _BROKEN as error:  # what was read before it stays
        yield unreadable(origin, f"{inside}: cannot be read on ({told(error)})", inside.encode())


def _parquet(path: Path, columns: _Columns) -> Iterator[dict[str, Any] | str]:
    wanted = sorted({columns.language.partition(".")[0], columns.code.partition(".")[0]})
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(ROWS, columns=wanted):
            for row in range(batch.num_rows):  # one at a time: a bad string spoils its row only
                try:
                    yield batch.slice(row, 1).to_pylist()[0]
                except UnicodeDecodeError as error:
                    yield f"is no UTF-8 ({error})"


def _lines(path: Path) -> Iterator[dict[str, Any] | str]:
    """Rows, or what is wrong with a line; no more than LONGEST_LINE of one is ever held."""
    with _open(path) as file:
        while line := file.readline(LONGEST_LINE):
            if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
                while (rest := file.readline(LONGEST_LINE)) and not rest.endswith(b"\n"):
                    pass
                yield f"is a line of more than {LONGEST_LINE:,} bytes"
            elif line.strip():
                yield _parsed(line)


def _open(path: Path) -> IO[bytes]:
    if path.suffix.lower() == ".gz":
        return cast(IO[bytes], gzip.open(path, "rb"))
    if path.suffix.lower() == ".zst":
        stream = cast(io.RawIOBase, pa.input_stream(path, compression="zstd"))
        return io.BufferedReader(stream)
    return path.open("rb")


def _parsed(line: bytes) -> dict[str, Any] | str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"is no JSON ({told(error)})"
    return row if isinstance(row, dict) else "is no JSON object"


def _of_row(row: dict[str, Any], columns: _Columns) -> Iterator[tuple[str, str | None]]:
    """Endings of paths with programs, None for one that is not there."""
    languages, codes = _at(row, columns.language), _at(row, columns.code)
    if not isinstance(codes, list):
        pairs = [(languages, codes)]
    elif isinstance(languages, list):
        pairs = list(zip(languages, codes, strict=False))
        pairs += [(None, None)] * (len(languages) != len(codes))  # told, for the rest is lost
    else:
        pairs = [(languages, code) for code in codes]
    for number, (language, code) in enumerate(pairs, 1):
        count = f".{number}" if isinstance(codes, list) else ""
        if not isinstance(code, str) or not isinstance(language, str | int):
            yield count, None
        elif extension := extension_of(str(language)):
            yield f"{count}.{extension}", code


def _at(row: Any, column: str) -> Any:
    for name in column.split("."):
        row = row.get(name) if isinstance(row, dict) else None
    return row


def extension_of(language: str) -> str:
    """The extension for a language as contests name it (`GNU C++17 (64)`); empty where unknown."""
    name = language.partition("(")[0].strip().lower()
    return next((extension for pattern, extension in NAMES if pattern.fullmatch(name)), "")


def _record(origin: Origin, path: str, code: str | None, max_bytes: int) -> SourceFile:
    if code is None:
        return unreadable(origin, "has no program, or no language of it", path.encode())
    try:
        raw = code.encode("utf-8")
    except UnicodeEncodeError:
        return unreadable(origin, "holds half a surrogate pair", path.encode())
    found = digest((raw,), len(raw), keep=len(raw) < max_bytes)
    return SourceFile(
        origin=origin,
        path=path,
        content_id=found.content_id,
        blob_id=found.blob_id,
        mode=REGULAR,
        length_bytes=len(raw),
        raw=found.raw,
        kind=INTERMEDIATE,
    )
