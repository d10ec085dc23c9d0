"""The tables of a graph export: folders of ORC files, streamed stripe by stripe into DuckDB."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.orc as orc

from cairn.base import UserError
from cairn.sources.damage import told

MEMORY, THREADS = "2GB", 4  # of the database; what does not fit is on disk


@dataclass(frozen=True)
class Kind:
    """What a column holds: its type, what its values match, and whether they may be NULL.

    The format has no checksums, so that a value which cannot be is often all that damage shows.
    """

    type: pa.DataType
    pattern: str | None = None
    empty: bool = False


HEX = Kind(pa.string(), r"^[0-9a-f]{40}$")
HEX_OR_NONE = replace(HEX, empty=True)
NAME = Kind(pa.binary())
ENTRY = Kind(  # neither empty, `.` nor `..`, and without `/` and NUL
    pa.binary(), r"(?s)^(\.?[^./\x00][^/\x00]*|\.\.[^/\x00]+)$"
)
TEXT = Kind(pa.string())
TEXT_OR_NONE = Kind(pa.string(), empty=True)
NUMBER = Kind(pa.int64())
TIME = Kind(pa.timestamp("us"))
TIME_OR_NONE = replace(TIME, empty=True)
VISIT = Kind(pa.string(), r"^(created|ongoing|full|partial|not_found|failed)$")
TARGET = Kind(pa.string(), r"^(content|directory|revision|release|snapshot|alias)$", empty=True)
INSIDE = Kind(pa.string(), r"^(file|dir|rev)$")
STATE = Kind(pa.string(), r"^(visible|hidden|absent)$")

# The columns that are read; others may be there or not.
COLUMNS: dict[str, dict[str, Kind]] = {
    "origin_visit_status": {
        "origin": TEXT,
        "visit": NUMBER,
        "date": TIME,
        "status": VISIT,
        "snapshot": HEX_OR_NONE,
    },
    "snapshot_branch": {
        "snapshot_id": HEX,
        "name": NAME,
        "target": TEXT_OR_NONE,
        "target_type": TARGET,
    },
    "release": {"id": HEX, "target": HEX_OR_NONE, "target_type": TARGET},
    "revision": {
        "id": HEX,
        "directory": HEX,
        "date": TIME_OR_NONE,
        "committer_date": TIME_OR_NONE,
    },
    "directory_entry": {
        "directory_id": HEX,
        "name": ENTRY,
        "type": INSIDE,
        "target": HEX,
        "perms": NUMBER,
    },
    "content": {"sha1": HEX, "sha1_git": HEX, "length": NUMBER, "status": STATE},
    "skipped_content": {
        "sha1": HEX_OR_NONE,
        "sha1_git": HEX_OR_NONE,
        "length": NUMBER,
        "reason": TEXT_OR_NONE,
    },
}
OPTIONAL = frozenset({"release", "skipped_content"})  # which a small export may well not have


class Export:
    """An export's tables. `damage` tells, line by line, what of them could not be read."""

    def __init__(self, root: Path) -> None:
        """UserError that names the tables which are not there."""
        self.root = root / "orc" if (root / "orc").is_dir() else root
        self.damage: dict[str, None] = {}
        lacking = [name for name in COLUMNS if name not in OPTIONAL and not self.has(name)]
        if lacking:
            names = ", ".join(lacking)
            mend = "give a graph export: a folder with orc/TABLE/*.orc"
            raise UserError("source", str(root), f"lacks the tables {names}", mend)

    def has(self, table: str) -> bool:
        """Whether there are files of this table."""
        return bool(self._files(table))

    def _files(self, table: str) -> list[Path]:
        return sorted((self.root / table).glob("*.orc"))

    def rows(self, table: str) -> pa.RecordBatchReader:
        """The table's COLUMNS, a stripe at a time; what is damaged is left out and told."""
        columns = COLUMNS[table]
        schema = pa.schema([(name, kind.type) for name, kind in columns.items()])
        return pa.RecordBatchReader.from_batches(schema, self._stripes(table, schema))

    def _stripes(self, table: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        for path in self._files(table):
            shown = f"{table}/{path.name}"
            try:
                file = orc.ORCFile(path)
                stripes = file.nstripes
                lacking = [name for name in schema.names if name not in file.schema.names]
            except (OSError, pa.ArrowException, ValueError) as error:
                self._tell(f"{shown}: {told(error)}")
                continue
            if lacking:
                self._tell(f"{shown}: lacks {', '.join(lacking)}")
                continue
            for number in range(stripes):
                try:
                    yield self._stripe(file, table, f"{shown}, stripe {number}", number)
                except (OSError, pa.ArrowException, ValueError, MemoryError) as error:
                    self._tell(f"{shown}, stripe {number} of {stripes}: {told(error)}")

    def _stripe(self, file: orc.ORCFile, table: str, shown: str, number: int) -> pa.RecordBatch:
        columns = COLUMNS[table]
        batch = self._read(file, columns, shown, number)
        batch.validate(full=True)  # at least text is text
        made = {}
        good = None
        for name, kind in columns.items():
            column = batch.column(name)  # by name: the file's order is its own
            timely = pa.types.is_timestamp(kind.type)
            made[name] = column = column.cast(kind.type, safe=not timely)
            fit = _fit(column, kind)
            if fit is not None:
                good = fit if good is None else _call("and", good, fit)
        batch = pa.RecordBatch.from_pydict(made)
        kept = batch if good is None else batch.filter(good)
        if len(kept) < len(batch):
            self._tell(f"{shown}: {len(batch) - len(kept):,} of {len(batch):,} rows are damaged")
        return kept

    def _read(
        self, file: orc.ORCFile, columns: dict[str, Kind], shown: str, number: int
    ) -> pa.RecordBatch:
        """The columns of a stripe. One date past the library's range must not cost the others."""
        try:
            return file.read_stripe(number, columns=list(columns))
        except pa.ArrowInvalid:
            dates = [name for name, kind in columns.items() if kind == TIME_OR_NONE]
            if not dates:
                raise
        batch = file.read_stripe(number, columns=[name for name in columns if name not in dates])
        for name in dates:
            try:
                found = file.read_stripe(number, columns=[name]).column(0)
            except pa.ArrowInvalid as error:
                self._tell(f"{shown}: no {name} can be read: {told(error)}")
                found = pa.nulls(len(batch), TIME_OR_NONE.type)
            batch = batch.append_column(name, found)
        return batch

    def _tell(self, problem: str) -> None:
        self.damage[" ".join(problem.split())] = None


def _fit(column: pa.Array, kind: Kind) -> pa.Array | None:
    """Which values can be what the column holds; None where any can."""
    if kind.pattern is not None:
        options = pc.MatchSubstringOptions(kind.pattern)
        matched = _call("match_substring_regex", column, options=options)
        return _call("coalesce", matched, pa.scalar(kind.empty))
    return None if kind.empty else _call("is_valid", column)


def _call(function: str, *columns: Any, options: Any = None) -> Any:
    return pc.call_function(function, list(columns), options)


@contextmanager
def database(folder: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """DuckDB on disk in `folder`, with a bound on its memory."""
    with duckdb.connect(str(folder / "tables.duckdb")) as connection:
        connection.execute(f"SET memory_limit = '{MEMORY}'")
        connection.execute("SET temp_directory = $folder", {"folder": str(folder / "spilled")})
        connection.execute(f"SET threads = {THREADS}")
        connection.execute("SET preserve_insertion_order = false")
        yield connection


def load(connection: duckdb.DuckDBPyConnection, export: Export, table: str, query: str) -> None:
    """Run `query`, which reads the export's table once under the name `rows`."""
    connection.register("rows", export.rows(table))
    try:
        connection.execute(query)
    finally:
        connection.unregister("rows")
