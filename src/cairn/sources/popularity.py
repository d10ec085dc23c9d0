"""What GH Archive tells of a repository, joined to the files that come from it."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cairn.sources.record import Origin, SourceFile

TOLD = (
    *("github_id", "star_events_count", "fork_events_count", "gha_license_id", "gha_language"),
    *("gha_event_created_at", "gha_created_at"),
)
URL = "origin_url"
HELD = 4  # row groups of the table in memory


def with_metadata(files: Iterable[SourceFile], metadata: Path) -> Iterator[SourceFile]:
    """The files with what `metadata` tells of their origin's URL; others stay as they are.

    `metadata` is Parquet of `events.METADATA_SCHEMA`, in the order of its URLs. What an origin
    tells by itself goes first.
    """
    with pq.ParquetFile(metadata) as file:
        table = _Table(file)

        @lru_cache(maxsize=4096)
        def told(origin: Origin) -> Origin:
            rows = table.find(origin.origin_url)
            if not rows:
                return origin
            known = min(rows, key=_place)
            own = {name: getattr(origin, name) for name in TOLD}
            return replace(origin, **{name: own[name] or known[name] for name in TOLD})

        for one in files:
            yield replace(one, origin=told(one.origin))


class _Table:
    """Rows by URL, read a row group at a time: there may be hundreds of millions."""

    def __init__(self, file: pq.ParquetFile) -> None:
        self._file = file
        place = file.schema_arrow.get_field_index(URL)
        groups = map(file.metadata.row_group, range(file.metadata.num_row_groups))
        bounds = [one.column(place).statistics for one in groups if one.num_rows]
        self._first, self._last = [one.min for one in bounds], [one.max for one in bounds]
        self._group = lru_cache(maxsize=HELD)(self._read)

    def find(self, url: str) -> list[dict[str, Any]]:
        """Rows of a URL in any case, with `.git` or a last slash or without: several, seldom."""
        key = url.lower().rstrip("/").removesuffix(".git")
        found: list[dict[str, Any]] = []
        for number in range(bisect_left(self._last, key), len(self._last)):
            if self._first[number] > key:
                break
            group = self._group(number)
            found += group.filter(pc.equal(group[URL], key)).to_pylist()  # type: ignore[attr-defined]
        return found

    def _read(self, number: int) -> pa.Table:
        return self._file.read_row_group(number, columns=["repo_name", URL, *TOLD])


def _place(row: dict[str, Any]) -> tuple[int, int, str]:
    """Of names that differ by case only one counts: the one that most watched comes first."""
    return -(row["star_events_count"] or 0), -(row["fork_events_count"] or 0), row["repo_name"]
