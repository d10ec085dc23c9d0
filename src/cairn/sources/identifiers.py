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
from cairn.sources.record import KINDS, REGULAR, SOURCE, Origin, SourceFile
from cairn.sources.spec import Spec

OPTIONS = ("objects", "cache", "from")
ROWS = 512  # read at a time
NEEDED = ("blob_id", "content_id", "path", "length_bytes")
OF_REPOSITORY = ("repo_name", "directory_id")


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

    UserError where the folder is none, or its columns are not The Stack v2's. A part that cannot
    be read is one record with a problem, and so is a row without what tells of a file.
    """
    for path in _parts(spec):
        try:
            file = pq.ParquetFile(path)
            lacking = ", ".join(_lacking(file.schema_arrow))
            if lacking:
                raise UserError("source", spec.text, f"{path.name} lacks {lacking}", "see the docs")
            for batch in file.iter_batches(ROWS):
                for row in batch.to_pylist():
                    for inside in row.pop("files", [{}]) or ():
                        yield _record(row | (inside or {}), path)
        except (OSError, pa.ArrowException) as error:
            yield whole(path.as_uri(), path.as_uri(), f"{path.name}: {error}")


def _lacking(schema: pa.Schema) -> list[str]:
    """Columns without which a row tells of no file; with `files`, those of its entries."""
    names = set(schema.names)
    if "files" in names:
        entries = schema.field("files").type
        if isinstance(entries, pa.ListType) and isinstance(entries.value_type, pa.StructType):
            names |= {one.name for one in entries.value_type}
    return [name for name in (*NEEDED, *OF_REPOSITORY) if name not in names]


def _parts(spec: Spec) -> list[Path]:
    root = Path(spec.path).expanduser()
    found = sorted((root / "data").glob("*.parquet")) or sorted(root.glob("*.parquet"))
    if not found:
        raise UserError("source", spec.text, "holds no Parquet files", "give an id-only release")
    return found


def _record(row: dict[str, Any], part: Path) -> SourceFile:
    lacking = ", ".join(name for name in (*NEEDED, "repo_name") if row[name] is None)
    kind = row.get("kind") or SOURCE
    if lacking or kind not in KINDS:
        wrong = f"a row without {lacking}" if lacking else f"a row of the unknown kind {kind}"
        return whole(part.as_uri(), part.as_uri(), f"{part.name}: {wrong}")
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
