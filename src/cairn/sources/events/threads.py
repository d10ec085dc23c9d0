"""Issues and pull requests out of hours of events: one record a thread."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from cairn.base import pattern_of
from cairn.sources.digest import digest
from cairn.sources.events.hours import Hour, find_hours, read_hours
from cairn.sources.events.layout import THREAD_TYPES, Event, Plain, licence_of
from cairn.sources.events.trees import Trees
from cairn.sources.record import ISSUE, PULL_REQUEST, REGULAR, Origin, SourceFile
from cairn.sources.spec import Spec
from cairn.sources.spill import Heap, Spill, database

OPTIONS = frozenset({"trees"})
MAX_BYTES = 10 * 2**20
_SCHEMA = pa.schema(
    [
        ("repository", pa.string()),  # its number, which outlives its name, or else its name
        ("repo_name", pa.string()),
        ("repo_id", pa.int64()),
        ("number", pa.int64()),
        ("pull", pa.bool_()),
        ("created_at", pa.string()),
        ("rank", pa.int8()),
        ("event_id", pa.int64()),
        ("told", pa.bool_()),  # whether the event holds the repository's object
        ("license", pa.string()),  # which that tells
        ("key", pa.string()),
        ("place", pa.int64()),  # of the event's JSON in the heap
        ("length", pa.int64()),
        ("size", pa.int64()),  # before it was packed
    ]
)
# Within a second a thread opens before it is talked of, and is closed after.
_RANKS = {"opened": 0, "closed": 2, "merged": 2, "reopened": 2}
# Issues and pull requests of a repository share their numbers: one event that shows a number to be
# a pull request's says it of all. A repository goes by the last of its names, and a pull request by
# the last licence that is told of its repository.
_THREADS = """
    WITH threads AS (
        SELECT repository, number, bool_or(pull) AS pull FROM events GROUP BY ALL
    ), repositories AS (
        SELECT repository, repo_id, repo_name AS name FROM events
        QUALIFY row_number() OVER (PARTITION BY repository
            ORDER BY created_at DESC, event_id DESC, repo_name) = 1
    ), pulls AS (
        SELECT repository, count(*) AS pulls FROM threads WHERE pull GROUP BY repository
    ), licences AS (
        SELECT repository, license FROM events WHERE told
        QUALIFY row_number() OVER (PARTITION BY repository
            ORDER BY created_at DESC, event_id DESC, license) = 1
    )
    SELECT r.name, r.repo_id, e.number, t.pull, p.pulls, l.license, e.repository, e.key, e.place,
        e.length, e.size
    FROM events e JOIN threads t USING (repository, number) JOIN repositories r USING (repository)
    LEFT JOIN pulls p USING (repository) LEFT JOIN licences l USING (repository)
    ORDER BY r.name, e.number, e.repository, e.created_at, e.rank, e.event_id, e.key, e.place
"""


def read(spec: Spec, *, max_bytes: int = MAX_BYTES) -> Iterator[SourceFile]:
    """Threads of `gharchive:PATH[?trees=FOLDER]` by repository and number, after damaged hours.

    PATH is an hour or a folder of them. A record's bytes are canonical JSON (sorted keys, UTF-8)
    with `repository`, `repository_id`, `number`, `kind` (issue or pull_request), `events` in
    order, each with type, key, actor, created_at and what `layout.thread_payload` keeps; pull
    requests also have `pull_requests_in_repository` and, where trees are given, `trees` (what
    `Trees.resolve` says of all heads that the events show). A pull request's `gha_license_id` is
    what its repository's last pull request in these hours tells: of those alone the report's rules
    ask for a licence. Of threads of `max_bytes` and more the
    bytes are not given. A damaged hour gives one record with `problem`. UserError where there is
    nothing to read.
    """
    hours = [Hour(path) for path in find_hours(Path(spec.path).expanduser())]
    trees = Trees(Path(spec.options["trees"]).expanduser()) if "trees" in spec.options else None
    return _read(hours, trees, max_bytes)


def _read(hours: list[Hour], trees: Trees | None, max_bytes: int) -> Iterator[SourceFile]:
    with tempfile.TemporaryDirectory(prefix="cairn-events-") as scratch:
        folder = Path(scratch)
        with Heap(folder / "events.heap") as heap:
            with Spill(folder / "events.parquet", _SCHEMA) as spill:
                for event in read_hours(hours):
                    if event.type in THREAD_TYPES:
                        spill.add(_row(event, heap))
            for hour in hours:
                if hour.complaint():
                    yield _damaged(hour)
            with database(folder) as connection, _closing(trees):
                connection.read_parquet(pattern_of(spill.path)).create_view("events")
                for thread in _threads(connection, heap, max_bytes):
                    yield _record(thread, trees, max_bytes)


@contextmanager
def _closing(trees: Trees | None) -> Iterator[None]:
    try:
        yield
    finally:
        if trees is not None:
            trees.close()


def _row(event: Event, heap: Heap) -> tuple[Any, ...]:
    plain = {
        "type": event.type,
        "key": event.key,
        "actor": event.actor,
        "created_at": event.created_at,
        **event.payload,
    }
    raw = _canonical(plain)
    repository = event.repo_name if event.repo_id is None else str(event.repo_id)
    rank = _RANKS.get(event.payload.get("action", ""), 1) if _opens(event) else 1
    told = event.told[0] if event.told else {}
    return (
        repository, event.repo_name, event.repo_id, event.number, event.pull, event.created_at,
        rank, event.event_id, bool(event.told), licence_of(told), event.key, *heap.put(raw),
        len(raw),
    )  # fmt: skip


def _opens(event: Event) -> bool:
    """Whether the event's action is that of its thread: comments are created."""
    return event.type in ("IssuesEvent", "PullRequestEvent")


def _canonical(plain: Plain) -> bytes:
    return json.dumps(
        plain, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False
    ).encode("utf-8")


def _threads(connection: duckdb.DuckDBPyConnection, heap: Heap, most: int) -> Iterator[Plain]:
    """Threads without their trees, each event as its JSON, and `licence` of pull requests.

    Of a thread past `most` bytes only some events, and its size in `left_out`.
    """
    thread: Plain = {}
    place: tuple[Any, ...] | None = None
    seen: set[str] = set()
    size = 0
    for batch in connection.sql(_THREADS).to_arrow_reader(2_000):
        columns = (column.to_pylist() for column in batch.columns)
        for name, repo_id, number, pull, pulls, licence, repository, key, *kept in zip(
            *columns, strict=True
        ):
            if (repository, number) != place:
                if thread:
                    yield thread
                place, seen, size = (repository, number), set(), 0
                kind = PULL_REQUEST if pull else ISSUE
                thread = {"repository": name, "number": number, "kind": kind, "events": []}
                if repo_id is not None:
                    thread["repository_id"] = repo_id
                if pull:
                    thread["pull_requests_in_repository"] = pulls
                    thread["licence"] = licence
            if key in seen:
                continue  # an event that stands in two hours
            size += kept[-1] + 1
            if size > most:
                thread["left_out"] = size
                continue
            seen.add(key)
            thread["events"].append(heap.get(*kept))
    if thread:
        yield thread


def _record(thread: Plain, trees: Trees | None, max_bytes: int) -> SourceFile:
    left_out, licence = thread.pop("left_out", 0), thread.pop("licence", None)
    pull = thread["kind"] == PULL_REQUEST
    if trees is not None and pull and not left_out:
        thread["trees"] = _resolved(thread, trees, max_bytes)
    events = b",".join(thread.pop("events"))  # canonical already; their name sorts first
    raw = b'{"events":[' + events + b"]," + _canonical(thread).removeprefix(b"{")
    length = max(len(raw), left_out)
    found = digest([raw], len(raw), keep=False)
    name = thread["repository"]
    return SourceFile(
        origin=Origin(
            repo_name=name,
            origin_url=f"https://github.com/{name}",
            directory_id="",
            github_id=thread.get("repository_id"),
            gha_license_id=licence,
        ),
        path=f"{'pull' if pull else 'issues'}/{thread['number']}",
        content_id=found.content_id,
        blob_id=found.blob_id,
        mode=REGULAR,
        length_bytes=length,
        raw=raw if length < max_bytes else None,
        src_encoding="UTF-8",
        kind=thread["kind"],
    )


def _resolved(thread: Plain, trees: Trees, most: int) -> Plain:
    """What all heads of the events changed from the first base."""
    name = thread["repository"]
    bases: list[str] = []
    heads: dict[str, str] = {}
    for event in map(json.loads, thread["events"]):
        pull = event.get("pull_request", {})
        if "base" in pull:
            bases.append(pull["base"])
        if "head" in pull:
            heads.setdefault(pull["head"], pull.get("head_repository", name))
    if not bases:
        return {"heads": [], "blobs": {}}
    return trees.resolve((name, bases[0]), [(home, head) for head, home in heads.items()], most)


def _damaged(hour: Hour) -> SourceFile:
    """A record that stands for an hour of which something is lost."""
    path = hour.path.name
    raw = path.encode("utf-8", "backslashreplace")
    found = digest([raw], len(raw), keep=False)
    url = hour.path.resolve().as_uri()
    size = hour.path.stat().st_size if hour.path.exists() else 0
    return SourceFile(
        origin=Origin(repo_name="", origin_url=url, directory_id=""),
        path=raw.decode("utf-8"),
        content_id=found.content_id,
        blob_id=found.blob_id,
        mode=REGULAR,
        length_bytes=size,
        raw=None,
        problem=f"{hour.path.name}: {hour.complaint()}",
    )
