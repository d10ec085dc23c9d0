"""Which tree of each origin is read: the last full visit, one branch, its revision's directory.

StarCoder2 (arXiv 2402.19173), section 2.1. The published code may keep several roots of an origin
whose HEAD, main and master differ; here one branch is chosen and aliases are followed.
"""

from pathlib import Path

import duckdb

from cairn.base import pattern_of
from cairn.sources.heritage.tables import Export, load

HOPS = 16  # aliases of aliases, and releases of releases
DEFAULTS = (b"HEAD", b"refs/heads/main", b"refs/heads/master")

_VISITED = """
    CREATE TABLE visited AS SELECT origin, last.date AS date, last.snapshot AS snapshot FROM (
        SELECT origin, max({'visit': visit, 'date': date, 'snapshot': snapshot}) AS last
        FROM rows WHERE status = 'full' AND snapshot IS NOT NULL GROUP BY origin
    )
"""
# What an alias points to is written in hex, as if it were a hash.
_BRANCH = """
    CREATE TABLE branch AS SELECT snapshot_id, name, target_type, target,
        CASE WHEN target_type <> 'alias' THEN NULL
            WHEN regexp_full_match(target, '([0-9a-f]{2})+') THEN unhex(target)
            ELSE encode(target) END AS points_to
    FROM rows SEMI JOIN visited ON snapshot_id = snapshot
    WHERE target IS NOT NULL AND target_type IS NOT NULL
"""
# GH Archive's word goes before the others; of names that differ by case only one counts.
_DECLARED = """
    INSERT INTO candidate SELECT origin, -1, encode('refs/heads/' || min(default_branch))
    FROM visited JOIN read_parquet($metadata, hive_partitioning = false) AS told
        ON lower(told.origin_url) = regexp_replace(lower(rtrim(origin, '/')), '[.]git$', '')
    WHERE default_branch IS NOT NULL GROUP BY origin
"""
_FOLLOWED = """
    INSERT INTO resolved SELECT origin, rank, name, target, target_type
    FROM candidate JOIN branch USING (name) JOIN visited USING (origin)
    WHERE snapshot_id = snapshot AND target_type <> 'alias'
"""
_NEXT = """
    CREATE OR REPLACE TABLE candidate AS SELECT origin, rank, points_to AS name
    FROM candidate JOIN branch USING (name) JOIN visited USING (origin)
    WHERE snapshot_id = snapshot AND target_type = 'alias'
"""
# A HEAD that is no alias has the name of the branch which is at the same place, if one is.
_CHOSEN = """
    CREATE TABLE chosen AS SELECT origin, target, target_type,
        coalesce(min_by(name, rank) FILTER (name <> 'HEAD'::BLOB), 'HEAD'::BLOB) AS name
    FROM resolved SEMI JOIN (
        SELECT origin, min_by((target, target_type), rank) AS best FROM resolved GROUP BY origin
    ) AS bests ON resolved.origin = bests.origin AND (target, target_type) = best
    GROUP BY origin, target, target_type
"""
_RELEASED = """
    CREATE OR REPLACE TABLE released AS SELECT * FROM rows SEMI JOIN (
        SELECT target AS id FROM chosen WHERE target_type = 'release'
    ) AS wanted USING (id)
"""
_REVISION = """
    CREATE TABLE revised AS SELECT DISTINCT ON (id) * FROM rows SEMI JOIN (
        SELECT target AS id FROM chosen WHERE target_type = 'revision'
    ) AS wanted USING (id)
"""
# Ordered by URL: `number` is the place of the origin in what is given.
_ROOT = """
    CREATE TABLE root AS SELECT row_number() OVER (ORDER BY visited.origin) AS number,
        visited.origin, visited.date AS visit_date, snapshot, name AS branch,
        revised.id AS revision, revised.date AS revision_date, committer_date,
        unhex(CASE target_type WHEN 'directory' THEN target ELSE directory END) AS directory,
        target, target_type
    FROM visited LEFT JOIN chosen USING (origin)
        LEFT JOIN revised ON target_type = 'revision' AND target = revised.id
"""


def find_roots(
    connection: duckdb.DuckDBPyConnection,
    export: Export,
    branch: str | None = None,
    metadata: Path | None = None,
) -> None:
    """The table `root`: an origin each, with `directory` (20 bytes) NULL where none is known.

    Without `branch` the first that leads somewhere is taken of the default branch that `metadata`
    (of `events.METADATA_SCHEMA`) tells of, HEAD, main and master.
    """
    names = DEFAULTS
    if branch is not None:
        written = branch.encode("utf-8", "surrogateescape")
        names = (written, b"refs/heads/" + written)
    load(connection, export, "origin_visit_status", _VISITED)
    load(connection, export, "snapshot_branch", _BRANCH)
    connection.execute("CREATE TABLE preference (rank INTEGER, name BLOB)")
    connection.executemany("INSERT INTO preference VALUES (?, ?)", list(enumerate(names)))
    connection.execute(
        "CREATE TABLE candidate AS SELECT origin, rank, name FROM visited, preference"
    )
    if metadata is not None and branch is None:
        connection.execute(_DECLARED, {"metadata": pattern_of(metadata)})
    connection.execute(
        "CREATE TABLE resolved (origin VARCHAR, rank INTEGER, name BLOB, "
        "target VARCHAR, target_type VARCHAR)"
    )
    for _ in range(HOPS):
        connection.execute(_FOLLOWED)
        connection.execute(_NEXT)
        if not _count(connection, "candidate"):
            break
    connection.execute(_CHOSEN)
    _follow_releases(connection, export)
    load(connection, export, "revision", _REVISION)
    connection.execute(_ROOT)
    for table in ("branch", "candidate", "resolved", "chosen", "revised", "visited"):
        connection.execute(f"DROP TABLE {table}")


def _follow_releases(connection: duckdb.DuckDBPyConnection, export: Export) -> None:
    """Put what releases are of in their place. One that is not in the export stays."""
    for _ in range(HOPS):
        if not export.has("release") or not _count(
            connection, "chosen WHERE target_type = 'release'"
        ):
            return
        load(connection, export, "release", _RELEASED)
        connection.execute(
            "UPDATE chosen SET target = released.target, target_type = released.target_type "
            "FROM released WHERE chosen.target_type = 'release' AND chosen.target = released.id "
            "AND released.target IS NOT NULL AND released.target_type IS NOT NULL"
        )
        if not _count(connection, "released"):
            return


def _count(connection: duckdb.DuckDBPyConnection, what: str) -> int:
    return connection.execute(f"SELECT count(*) FROM {what}").fetchall()[0][0]
