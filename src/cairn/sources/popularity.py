"""What GH Archive tells of a repository, joined to the files that come from it."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import duckdb

from cairn.base import pattern_of
from cairn.sources.record import Origin, SourceFile

TOLD = (
    *("github_id", "star_events_count", "fork_events_count", "gha_license_id", "gha_language"),
    *("gha_event_created_at", "gha_created_at"),
)
# Of names that differ by case only one counts: the one that most watched.
QUERY = f"""
    SELECT {", ".join(TOLD)} FROM repositories WHERE url = lower($url)
    ORDER BY star_events_count DESC, fork_events_count DESC, origin_url LIMIT 1
"""


def with_metadata(files: Iterable[SourceFile], metadata: Path) -> Iterator[SourceFile]:
    """The files with what `metadata` tells of their origin's URL; others stay as they are.

    `metadata` is Parquet of `events.METADATA_SCHEMA`. What an origin tells by itself goes first.
    """
    with duckdb.connect() as connection:
        connection.execute(
            "CREATE TABLE repositories AS SELECT *, lower(origin_url) AS url "
            "FROM read_parquet($path, hive_partitioning = false)",
            {"path": pattern_of(metadata)},
        )
        connection.execute("CREATE INDEX urls ON repositories (url)")

        @lru_cache(maxsize=4096)
        def told(origin: Origin) -> Origin:
            rows = connection.execute(QUERY, {"url": origin.origin_url}).fetchall()
            if not rows:
                return origin
            known = dict(zip(TOLD, rows[0], strict=True))
            own = {name: getattr(origin, name) for name in TOLD}
            return replace(origin, **{name: own[name] or known[name] for name in TOLD})

        for file in files:
            yield replace(file, origin=told(file.origin))
