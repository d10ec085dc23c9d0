"""`swh:EXPORT?objects=LOCATION`: a graph export and an object store become records."""

import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from cairn.base import UserError
from cairn.sources.damage import unreadable, whole
from cairn.sources.heritage.roots import find_roots
from cairn.sources.heritage.tables import Export, database
from cairn.sources.heritage.walk import walk
from cairn.sources.objects import Store, open_store, with_contents
from cairn.sources.record import (
    EXECUTABLE,
    LINK,
    REGULAR,
    Origin,
    SourceFile,
    path_text,
)
from cairn.sources.remote import path_name, public_url
from cairn.sources.spec import Spec

OPTIONS = ("objects", "cache", "depth", "branch")
DEPTH, MOST_DEPTH = 64, 1000  # levels of folders; the report's code has 64
ROWS = 2048  # fetched from the database at a time

_ORIGINS = "SELECT * FROM root ORDER BY number"
_FILES = """
    SELECT number, path, perms, hex(file.target), sha1, length, status, reason
    FROM root JOIN file ON directory = file.root LEFT JOIN blob ON file.target = blob.target
    ORDER BY number, path
"""
_TROUBLE = "SELECT number, why, times, path FROM root JOIN trouble ON directory = trouble.root"


class Roots(NamedTuple):
    """What says which branch of an origin is read: the user, and what GH Archive tells."""

    branch: str | None
    metadata: Path | None


class Row(NamedTuple):
    """A file, as the database gives it; of a content that is in no table the last four are None."""

    number: int
    path: bytes
    perms: int
    content_id: str
    sha1: str | None
    length: int | None
    status: str | None
    reason: str | None


def read(spec: Spec, *, max_bytes: int, metadata: Path | None = None) -> Iterator[SourceFile]:
    """Files of every origin in the export, by URL and then by path.

    Of an origin the last full visit counts, and of it one branch (`branch`, or else the default
    branch that `metadata` tells of, HEAD, main or master). Contents come from the store `objects`,
    kept in the folder `cache`; of those of `max_bytes` and more the bytes are not asked for.
    Folders are read `depth` levels deep.

    UserError, before anything is read, for an export without its tables, an unknown place of
    objects, or a depth that is none. What is damaged or missing is told by records with a problem:
    of an empty path first those of the tables, then of each origin.
    """
    root = Path(spec.path).expanduser()
    if not root.is_dir():
        raise UserError("source", spec.text, "is no folder", "give a graph export")
    export = Export(root)
    if "objects" not in spec.options:
        mend = "add ?objects=LOCATION (s3://softwareheritage/content, say)"
        raise UserError("source", spec.text, "names no store of contents", mend)
    cache = Path(spec.options["cache"]).expanduser() if "cache" in spec.options else None
    depth = _depth(spec)
    store = open_store(spec.options["objects"], cache, most_bytes=max_bytes)
    roots = Roots(spec.options.get("branch"), metadata)
    return _read(export, store, cache, depth, roots, max_bytes)


def _depth(spec: Spec) -> int:
    text = spec.options.get("depth", str(DEPTH))
    if not text.isdecimal() or not 1 <= int(text[:9]) <= MOST_DEPTH:
        mend = f"give 1 to {MOST_DEPTH:,} levels"
        raise UserError("source", spec.text, f"has the depth {text!r}", mend)
    return int(text)


def _read(
    export: Export,
    store: Store,
    cache: Path | None,
    depth: int,
    roots: Roots,
    max_bytes: int,
) -> Iterator[SourceFile]:
    scratch = tempfile.TemporaryDirectory(prefix=".tables-", dir=cache)
    with scratch as folder, store, database(Path(folder)) as connection:
        find_roots(connection, export, roots.branch, roots.metadata)
        walk(connection, export, depth)
        where = export.root.resolve().as_uri()
        for problem in export.damage:
            yield whole(where, where, f"graph export: {problem}")
        origins = _Origins(connection)
        yield from origins.troubles(roots.branch, depth)
        rows = _rows(connection)
        records = (_record(origins[row.number], row, max_bytes) for row in rows)
        yield from with_contents(records, store, max_bytes)


def _rows(connection: duckdb.DuckDBPyConnection) -> Iterator[Row]:
    found = connection.cursor().execute(_FILES)
    while rows := found.fetchmany(ROWS):
        yield from map(Row._make, rows)


class _Origins:
    """Origins by number, asked for in order."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._cursor = connection.cursor().execute(_ORIGINS)
        self._last: tuple[int, Origin] | None = None

    def __getitem__(self, number: int) -> Origin:
        while self._last is None or self._last[0] < number:
            row = _next(self._cursor)
            assert row is not None, "files are of origins"
            self._last = row["number"], _origin(row)
        return self._last[1]

    def troubles(self, branch: str | None, depth: int) -> Iterator[SourceFile]:
        """A record for each origin that has no tree, and for what is left out of a tree."""
        lost = self._connection.cursor().execute(
            f"SELECT * FROM ({_ORIGINS}) WHERE directory IS NULL"
        )
        while row := _next(lost):
            yield unreadable(_origin(row), _rootless(row, branch))
        found = self._connection.cursor().execute(
            f"SELECT * FROM ({_TROUBLE}) JOIN root USING (number) ORDER BY number, why, path"
        )
        while row := _next(found):
            yield unreadable(_origin(row), _left_out(row, depth))


def _next(cursor: duckdb.DuckDBPyConnection) -> dict[str, Any] | None:
    row = cursor.fetchone()
    if row is None:
        return None
    return dict(zip((column[0] for column in cursor.description or ()), row, strict=True))


def _rootless(row: dict[str, Any], branch: str | None) -> str:
    if row["target"] is None:
        sought = f"the branch {branch}" if branch else "HEAD, main and master"
        return f"its snapshot {row['snapshot']} has nothing at {sought}"
    if row["target_type"] in ("revision", "release"):
        return f"the {row['target_type']} {row['target']} is not in the export"
    return f"its branch is a {row['target_type']}, not a revision"


def _left_out(row: dict[str, Any], depth: int) -> str:
    times, path = row["times"], path_text(row["path"] or b"")
    if row["why"] == "many":
        return f"names {times:,} files and folders: none are read"
    said = {
        "missing": "folders are not in the export",
        "long": "paths are too long",
        "deep": f"folders are deeper than {depth} levels",
    }[row["why"]]
    return f"{times:,} {said}, {path or '/'} the first of them"


def _origin(row: dict[str, Any]) -> Origin:
    url = row["origin"]
    public = public_url(url)
    branch = row["branch"]
    return Origin(
        repo_name=path_name(public) or public or "unknown",
        origin_url=url if "@" not in url else public or "unknown",  # no credentials
        directory_id=(row["directory"] or b"").hex(),
        snapshot_id=row["snapshot"],
        revision_id=row["revision"],
        branch_name=None if branch is None else path_text(branch),
        visit_date=_iso(row["visit_date"]),
        revision_date=_iso(row["revision_date"]),
        committer_date=_iso(row["committer_date"]),
    )


def _iso(date: datetime | None) -> str | None:
    return date.replace(tzinfo=UTC).isoformat() if isinstance(date, datetime) else None


def _record(origin: Origin, row: Row, max_bytes: int) -> SourceFile:
    """The record without its bytes, and with a problem where it can have none."""
    problem = None
    if row.length is None:
        problem = "the content is in no table of the export"
    elif row.status != "visible" and (row.length < max_bytes or row.sha1 is None):
        problem = f"the content is {row.status} in the archive"
        problem += f" ({row.reason})" if row.reason else ""
    mode = LINK if row.perms & 0o170000 == LINK & 0o170000 else REGULAR
    if mode == REGULAR and row.perms & 0o111:
        mode = EXECUTABLE
    return SourceFile(
        origin=origin,
        path=path_text(row.path),
        content_id=row.content_id.lower(),
        blob_id=row.sha1 or "",
        mode=mode,
        length_bytes=row.length or 0,
        raw=None,
        problem=problem and " ".join(problem.split()),
    )
