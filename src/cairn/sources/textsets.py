"""Sets of texts as a source: a row of a JSON lines or Parquet file is a document.

StarCoder2 (arXiv 2402.19173), sections 2.7 and 2.8: small sets of high quality, and natural text.
"""

import gzip
import json
import lzma
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from cairn.base import UserError
from cairn.sources.damage import told, unreadable
from cairn.sources.digest import digest
from cairn.sources.record import REGULAR, TEXT, Origin, SourceFile, path_text
from cairn.sources.spec import Spec

OPTIONS = ("column", "name", "licence")
ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".ndjson", ".ndjson.gz", ".ndjson.zst")
COLUMNS = ("text", "content")  # the first of them that a row has
LICENCES = ("detected_licenses", "licence", "license")
ROWS = 64  # of a Parquet file, read at a time
CHUNK = 2**20
ESCAPED = 6  # characters that JSON may write for one byte of a text
BESIDE = 2**20  # bytes of a line that are not its text
_BROKEN = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, pa.ArrowException)


@dataclass(frozen=True)
class _Wanted:
    """column: of the texts, or empty for the first of COLUMNS."""

    column: str
    licences: tuple[str, ...]
    max_bytes: int


def read(spec: Spec, *, max_bytes: int) -> Iterator[SourceFile]:
    """Records of `text:PATH?column=text&name=NAME&licence=SPDX`, of one file or of a folder's.

    Files are JSON lines, also packed by gzip or Zstandard, or Parquet. A record's path is
    `FILE#ROW`, rows counted from 1, and `FILE#ROW:ID` where the row has an `id`. Texts of
    `max_bytes` and more have no bytes. A row without a text, a damaged line or file is a record
    with a problem. UserError where nothing of the kind lies there or a Parquet file lacks the
    column; both before anything is read.
    """
    column = spec.options.get("column", "")
    licences = (spec.options["licence"],) if "licence" in spec.options else ()
    found = _files(spec)
    for path, _ in found:
        _check(spec, path, column)
    wanted = _Wanted(column, licences, max_bytes)
    name = spec.options.get("name")
    return (one for path, inside in found for one in _read(path, inside, name, wanted))


def _files(spec: Spec) -> list[tuple[Path, str]]:
    """Files with their paths below the folder that was named."""
    root = Path(spec.path).expanduser()
    if not spec.path or not root.exists():
        raise UserError("source", spec.text, "does not exist", "give a file or a folder")
    if not root.is_dir():
        return [(root, root.name)]
    below = sorted(path for path in root.rglob("*") if path.is_file() and _is_set(path))
    if not below:
        known = ", ".join((*ENDINGS, ".parquet"))
        raise UserError("source", spec.text, "holds no sets of texts", f"known endings: {known}")
    return [(path, path.relative_to(root).as_posix()) for path in below]


def _is_set(path: Path) -> bool:
    return path.name.lower().endswith((*ENDINGS, ".parquet"))


def _check(spec: Spec, path: Path, column: str) -> None:
    """UserError for what no row could be read of; a damaged file is found when it is read."""
    if not _is_set(path):
        known = ", ".join((*ENDINGS, ".parquet"))
        raise UserError("source", spec.text, "is no set of texts", f"known endings: {known}")
    if path.suffix.lower() != ".parquet":
        return
    try:
        names = pq.read_schema(path).names
    except _BROKEN:
        return
    if not set(names) & set([column] if column else COLUMNS):
        lacking = column or " or ".join(COLUMNS)
        had = ", ".join(names)
        raise UserError("source", spec.text, f"{path.name} has no column {lacking}", f"has: {had}")


def _read(path: Path, inside: str, name: str | None, wanted: _Wanted) -> Iterator[SourceFile]:
    inside = path_text(inside.encode("utf-8", "surrogateescape"))
    stem = path.name.partition(".")[0].encode("utf-8", "surrogateescape")
    url = path.resolve().as_uri()
    origin = Origin(repo_name=name or path_text(stem), origin_url=url, directory_id="")
    rows = _parquet(path, wanted) if path.suffix.lower() == ".parquet" else _lines(path, wanted)
    try:
        for number, row in enumerate(rows, 1):
            yield _record(origin, f"{inside}#{number}", row, wanted)
    except _BROKEN as error:  # what was read before it stays
        yield unreadable(origin, f"{inside}: cannot be read on ({told(error)})", inside.encode())


def _parquet(path: Path, wanted: _Wanted) -> Iterator[dict[str, Any] | str]:
    with pq.ParquetFile(path) as file:
        asked = ({wanted.column} if wanted.column else set(COLUMNS)) | {"id", *LICENCES}
        columns = [name for name in file.schema_arrow.names if name in asked]
        for batch in file.iter_batches(ROWS, columns=columns):
            for row in range(batch.num_rows):  # one at a time: a bad string spoils its row only
                try:
                    yield batch.slice(row, 1).to_pylist()[0]
                except UnicodeDecodeError as error:
                    yield f"is no UTF-8 ({error})"


def _lines(path: Path, wanted: _Wanted) -> Iterator[dict[str, Any] | str]:
    """Rows, or what is wrong with a line."""
    bound = ESCAPED * wanted.max_bytes + BESIDE
    with closing(_open(path)) as file:
        for line in _bounded(file, bound):
            if line is None:
                yield f"is a line of more than {bound:,} bytes"
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield f"is no JSON ({told(error)})"
                continue
            yield row if isinstance(row, dict) else "is no JSON object"


def _open(path: Path) -> IO[bytes]:
    if path.suffix.lower() == ".gz":
        return cast(IO[bytes], gzip.open(path, "rb"))
    if path.suffix.lower() == ".zst":
        return cast(IO[bytes], pa.input_stream(path, compression="zstd"))
    return path.open("rb")


def _bounded(file: IO[bytes], bound: int) -> Iterator[bytes | None]:
    """Lines, None for each that is longer than `bound`, of which no more is ever held."""
    held: list[bytes] = []
    size = 0
    while chunk := file.read(CHUNK):
        *whole, rest = chunk.split(b"\n")
        for part in whole:
            size += len(part)
            line = b"".join((*held, part)) if size <= bound else None
            held, size = [], 0
            if line is None or line.strip():
                yield line
        size += len(rest)
        held = [*held, rest] if size <= bound else []
    if size > bound:
        yield None
    elif line := b"".join(held).strip():
        yield line


def _record(origin: Origin, path: str, row: dict[str, Any] | str, wanted: _Wanted) -> SourceFile:
    if isinstance(row, str):
        return unreadable(origin, row, path.encode())
    identifier = row.get("id")
    if isinstance(identifier, str | int) and not isinstance(identifier, bool):
        path += ":" + str(identifier)[:200].encode("utf-8", "backslashreplace").decode()
    names = (wanted.column,) if wanted.column else COLUMNS
    text = next((row[name] for name in names if row.get(name) is not None), None)
    if not isinstance(text, str):
        lacking = " or ".join(names)
        return unreadable(origin, f"has no text in {lacking}", path.encode())
    try:
        raw = text.encode("utf-8")
    except UnicodeEncodeError:
        return unreadable(origin, "holds half a surrogate pair", path.encode())
    found = digest((raw,), len(raw), keep=len(raw) < wanted.max_bytes)
    return SourceFile(
        origin=origin,
        path=path,
        content_id=found.content_id,
        blob_id=found.blob_id,
        mode=REGULAR,
        length_bytes=len(raw),
        raw=found.raw,
        kind=TEXT,
        detected_licenses=wanted.licences or _licences(row),
    )


def _licences(row: dict[str, Any]) -> tuple[str, ...]:
    told_of = next((row[name] for name in LICENCES if row.get(name)), ())
    several = [told_of] if isinstance(told_of, str) else told_of
    if not isinstance(several, list):
        return ()
    return tuple(one for one in several if isinstance(one, str) and one)
