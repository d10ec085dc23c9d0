"""Identifiers back to contents: an id-only release, and an object store or a source to read again.

Any folder of Parquet with The Stack v2's columns is read, the published sets among them: files by
row, or repositories with their files in a list.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cairn.base import UserError
from cairn.sources.damage import whole
from cairn.sources.objects import Folder, Store, open_store, with_contents
from cairn.sources.record import KINDS, ORIGIN_FIELDS, REGULAR, SOURCE, Origin, SourceFile
from cairn.sources.spec import Spec

OPTIONS = ("objects", "cache", "from")
ROWS = 512  # read at a time
NEEDED = ("blob_id", "content_id", "path", "length_bytes")
OF_REPOSITORY = ("repo_name", "directory_id")
NUMBERS = frozenset({"length_bytes", "github_id", "star_events_count", "fork_events_count"})
DATES = frozenset(name for name in ORIGIN_FIELDS if name.endswith(("_date", "_created_at")))
TEXTS = frozenset(
    {"blob_id", "content_id", "path", "kind", "src_encoding", "repo_url", *ORIGIN_FIELDS}
    - NUMBERS - DATES
)  # fmt: skip
LICENCES = "detected_licenses"


def read(
    spec: Spec, *, max_bytes: int, source: Callable[[str], Iterator[SourceFile]]
) -> Iterator[SourceFile]:
    """`records` with their bytes, each checked against its SHA-1 and its SWHID.

    They come from the store `objects`, or from the files of another source, `from`, which `source`
    opens; `cache` is a folder that keeps what was fetched. A content that is not there is a record
    with a problem. UserError, before anything is read, for a release that is none, or where not
    exactly one of `objects` and `from` is given.
    """
    _parts(spec)
    given = spec.options
    if ("objects" in given) == ("from" in given):
        mend = "add ?objects=LOCATION (s3://softwareheritage/content, say) or ?from=SOURCE"
        raise UserError("source", spec.text, "does not say where contents are", mend)
    cache = Path(given["cache"]).expanduser() if "cache" in given else None
    if "objects" in given:
        store = open_store(given["objects"], cache, most_bytes=max_bytes)
        return _filled(spec, store, max_bytes)
    return _refilled(spec, source(given["from"]), cache, max_bytes)


def _filled(spec: Spec, store: Store, max_bytes: int) -> Iterator[SourceFile]:
    with store:
        yield from with_contents(records(spec), store, max_bytes)


def _refilled(
    spec: Spec, files: Iterator[SourceFile], cache: Path | None, max_bytes: int
) -> Iterator[SourceFile]:
    """Contents of another source: what the release names of them is laid into a folder first."""
    wanted = {one.blob_id for one in records(spec) if one.problem is None}
    with ExitStack() as stack:
        if cache is None:
            cache = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="contents-")))
        cache.mkdir(parents=True, exist_ok=True)
        folder = Folder(cache, max_bytes)
        for one in files:
            if one.raw is not None and one.blob_id in wanted:
                wanted.discard(one.blob_id)
                folder.put(one.blob_id, one.raw)
        yield from _filled(spec, Store(folder, None, max_bytes), max_bytes)


def records(spec: Spec) -> Iterator[SourceFile]:
    """Every file that the release names, without its bytes; `raw` is None.

    UserError where the folder is none, or its columns are not The Stack v2's, by name and by type.
    A part that cannot be read is one record with a problem, and so is a row without what tells of
    a file.
    """
    for path in _parts(spec):
        try:
            file = pq.ParquetFile(path)
            _check(spec, path.name, file.schema_arrow)
            for batch in file.iter_batches(ROWS):
                yield from _of_batch(batch, path)
        except (OSError, pa.ArrowException) as error:
            yield _spoiled(path, str(error))


def _of_batch(batch: pa.RecordBatch, part: Path) -> Iterator[SourceFile]:
    """The files of some rows; text that is no UTF-8 or a date that is none spoils its row."""
    try:
        rows = batch.to_pylist()
        made = [_record(one, part) for row in rows for one in _files(row)]
    except (ValueError, OverflowError) as error:
        if batch.num_rows == 1:
            made = [_spoiled(part, f"a row that cannot be read ({error})")]
        else:
            single = (batch.slice(number, 1) for number in range(batch.num_rows))
            made = [one for row in single for one in _of_batch(row, part)]
    yield from made


def _files(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A row a file, also of a row that tells of a repository."""
    inside = row.pop("files", [{}]) or ()
    return (row | (one or {}) for one in inside)


def _spoiled(part: Path, problem: str) -> SourceFile:
    return whole(part.as_uri(), part.as_uri(), f"{part.name}: {problem}")


def _check(spec: Spec, part: str, schema: pa.Schema) -> None:
    """UserError where columns lack without which a row tells of no file, or hold something else.

    With `files`, its entries have the columns of a file.
    """
    fields = list(schema)
    if "files" in schema.names:
        entries = schema.field("files").type
        if not (_is_list(entries) and pa.types.is_struct(entries.value_type)):
            problem = f"{part} has the column files of {entries}, which holds no files"
            raise UserError("source", spec.text, problem, "see the docs")
        fields += list(entries.value_type)
    names = {one.name for one in fields}
    lacking = ", ".join(name for name in (*NEEDED, *OF_REPOSITORY) if name not in names)
    if lacking:
        raise UserError("source", spec.text, f"{part} lacks {lacking}", "see the docs")
    wrong = next((one for one in fields if not _fits(one)), None)
    if wrong is not None:
        problem = f"{part} has the column {wrong.name} of {wrong.type}, which is another thing"
        raise UserError("source", spec.text, problem, "give The Stack v2's columns")


def _fits(field: pa.Field) -> bool:
    """Whether a column that is read holds what it should."""
    kind = field.type
    if field.name == LICENCES:
        return pa.types.is_null(kind) or (_is_list(kind) and _is_text(kind.value_type))
    if field.name in NUMBERS:
        return kind != pa.uint64() and (pa.types.is_integer(kind) or pa.types.is_null(kind))
    if field.name in DATES:
        return _is_text(kind) or pa.types.is_timestamp(kind)
    return field.name not in TEXTS or _is_text(kind)


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _parts(spec: Spec) -> list[Path]:
    root = Path(spec.path).expanduser().resolve()  # damage is told by URLs, which are whole
    found = sorted((root / "data").glob("*.parquet")) or sorted(root.glob("*.parquet"))
    if not found:
        raise UserError("source", spec.text, "holds no Parquet files", "give an id-only release")
    return found


def _record(row: dict[str, Any], part: Path) -> SourceFile:
    lacking = ", ".join(name for name in (*NEEDED, "repo_name") if row[name] is None)
    kind = row.get("kind") or SOURCE
    if lacking or kind not in KINDS:
        wrong = f"a row without {lacking}" if lacking else f"a row of the unknown kind {kind}"
        return _spoiled(part, wrong)
    known = {field.name for field in fields(Origin)}
    origin = {key: _plain(value) for key, value in row.items() if key in known}
    origin["directory_id"] = origin["directory_id"] or ""
    if not origin.get("origin_url"):
        origin["origin_url"] = row.get("repo_url") or f"https://github.com/{row['repo_name']}"
    for name in ("star_events_count", "fork_events_count"):
        origin[name] = origin.get(name) or 0
    return SourceFile(
        origin=Origin(**origin),
        path=row["path"].lstrip("/"),  # the published sets begin paths with a slash
        content_id=row["content_id"],
        blob_id=row["blob_id"],
        mode=REGULAR,
        length_bytes=row["length_bytes"],
        raw=None,
        src_encoding=row.get("src_encoding"),
        kind=kind,
        detected_licenses=tuple(one for one in row.get("detected_licenses") or () if one),
    )


def _plain(value: Any) -> Any:
    """ISO 8601 in UTC for dates, which published sets hold without a zone."""
    if not isinstance(value, datetime):
        return value
    return (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC).isoformat()
