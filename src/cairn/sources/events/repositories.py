"""What events tell of repositories: default branch, licence, language, stars, forks."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cairn.base import pattern_of
from cairn.sources.events.hours import Hour, read_hours
from cairn.sources.events.layout import (
    COUNTED_TYPES,
    NAME,
    Event,
    Plain,
    integer_of,
    licence_of,
    text_of,
    utc,
)
from cairn.sources.spill import ROWS, Spill, database

METADATA_SCHEMA = pa.schema(
    [
        ("repo_name", pa.string()),
        ("origin_url", pa.string()),
        ("github_id", pa.int64()),
        ("default_branch", pa.string()),
        ("gha_license_id", pa.string()),
        ("gha_language", pa.string()),
        ("gha_created_at", pa.string()),
        ("gha_event_created_at", pa.string()),
        ("star_events_count", pa.int64()),
        ("fork_events_count", pa.int64()),
    ]
)
_SEEN = pa.schema(
    [
        ("repo_name", pa.string()),
        ("github_id", pa.int64()),
        ("created_at", pa.string()),
        ("event_id", pa.int64()),
        ("key", pa.string()),
        ("counts", pa.string()),  # the event's type where it counts for this repository
        ("told", pa.bool_()),  # whether the event holds the repository's object
        ("default_branch", pa.string()),
        ("license", pa.string()),
        ("language", pa.string()),
        ("repo_created_at", pa.string()),
    ]
)
# An event may stand in two hours: it counts once. Of two objects of one time the one of the later
# event wins, and then the greater by all its values, so that no order of files matters.
_COLLAPSE = """
    WITH told AS (
        SELECT * FROM seen WHERE told QUALIFY row_number() OVER (PARTITION BY repo_name ORDER BY
            created_at DESC, event_id DESC, github_id DESC NULLS LAST, default_branch, license,
            language, repo_created_at, key) = 1
    ), numbered AS (
        SELECT repo_name, github_id FROM seen QUALIFY row_number() OVER (PARTITION BY repo_name
            ORDER BY github_id IS NULL, created_at DESC, event_id DESC, github_id) = 1
    ), counted AS (
        SELECT repo_name, count(*) FILTER (counts = 'WatchEvent') AS stars,
            count(*) FILTER (counts = 'ForkEvent') AS forks
        FROM (SELECT DISTINCT repo_name, counts, key FROM seen) GROUP BY repo_name
    )
    SELECT repo_name, 'https://github.com/' || lower(repo_name) AS origin_url,
        coalesce(t.github_id, n.github_id), t.default_branch, t.license, t.language,
        t.repo_created_at, t.created_at, stars, forks
    FROM counted JOIN numbered n USING (repo_name) LEFT JOIN told t USING (repo_name)
    ORDER BY origin_url, repo_name
"""


@dataclass(frozen=True)
class Metadata:
    """How many repositories were written, and the hours with what was wrong in them."""

    repositories: int
    hours: list[Hour]


def repository_metadata(hours: Sequence[Path], out: Path) -> Metadata:
    """Collapse hours of events to one row of METADATA_SCHEMA a repository, in the order of URLs.

    As The Stack v2 has it: the latest base repository of a PullRequestEvent or object of a
    ForkEvent tells of a repository (the forkee, and before 2015 the one that was forked); stars are
    WatchEvents and forks ForkEvents, each event once. A repository is known by its name, so that
    one that was renamed has two rows. URLs are in lower case, by which they are found, dates ISO
    8601 in UTC. Damage is counted, not fatal.
    """
    read = [Hour(path) for path in hours]
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".events-") as scratch:
        folder = Path(scratch)
        with Spill(folder / "seen.parquet", _SEEN) as seen:
            for event in read_hours(read):
                for row in _rows(event):
                    seen.add(row)
        made = folder / "metadata.parquet"
        count = 0
        with database(folder) as connection, pq.ParquetWriter(made, METADATA_SCHEMA) as writer:
            connection.read_parquet(pattern_of(seen.path)).create_view("seen")
            reader = connection.sql(_COLLAPSE).to_arrow_reader(ROWS)  # each a row group
            for batch in reader:
                columns = [
                    column.cast(field.type)
                    for column, field in zip(batch.columns, METADATA_SCHEMA, strict=True)
                ]
                writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=METADATA_SCHEMA))
                count += batch.num_rows
        made.replace(out)
    return Metadata(count, read)


def _rows(event: Event) -> list[tuple[Any, ...]]:
    """Rows of _SEEN: the event as it counts, and each repository that it tells of."""
    common = (event.created_at, event.event_id, event.key)
    rows: list[tuple[Any, ...]] = []
    if event.type in COUNTED_TYPES:
        own = (event.repo_name, event.repo_id, *common, event.type, False)
        rows.append((*own, None, None, None, None))
    for told in event.told:
        name = told.get("full_name")
        if isinstance(name, str) and NAME.fullmatch(name):
            rows.append((name, integer_of(told, "id"), *common, None, True, *_said(told)))
    return rows


def _said(told: Plain) -> tuple[str | None, str | None, str | None, str | None]:
    """Default branch, SPDX licence, language and when it was created."""
    branch = text_of(told.get("default_branch")) or text_of(told.get("master_branch"))
    try:
        born = utc(told.get("created_at"))
    except (ValueError, OverflowError):
        born = None
    return branch, licence_of(told), text_of(told.get("language")), born
