"""A CSV table as a notebook meets it: columns with their types, how much is there, a few rows."""

from dataclasses import dataclass
from pathlib import Path

import duckdb

from cairn.base import pattern_of
from cairn.sources.damage import Damaged

EXAMPLES = 4
LARGEST = 256 * 2**20  # bytes of a table that is read
MOST_COLUMNS = 200
LONGEST_VALUE = 200  # characters of an example that are kept
MEMORY = "512MB"
# What pandas takes for a value that is missing.
MISSING = ("", "#N/A", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null")
TYPES = {"BIGINT": "int64", "DOUBLE": "float64", "BOOLEAN": "bool"}


@dataclass(frozen=True)
class Table:
    """rows: how many; columns: (name, values that are there, type as pandas calls it) of each;
    examples: the first rows, each (name, value) pairs of what is there, as text."""

    rows: int
    columns: list[tuple[str, int, str]]
    examples: list[list[tuple[str, str]]]


def read_table(path: Path) -> Table:
    """The table of a CSV file with a header. Damaged where it is none, or too large."""
    if path.stat().st_size > LARGEST:
        raise Damaged(f"has more than {LARGEST:,} bytes: no table is told")
    config: dict[str, str | bool | int | float | list[str]] = {"memory_limit": MEMORY, "threads": 1}
    try:
        with duckdb.connect(config=config) as connection:
            rows = connection.read_csv(
                pattern_of(path),
                header=True,
                sample_size=-1,
                delimiter=",",
                quotechar='"',
                na_values=list(MISSING),
            )
            return _table(rows)
    except duckdb.Error as error:
        raise Damaged(f"is no table that can be read ({str(error).splitlines()[0]})") from None


def _table(rows: duckdb.DuckDBPyRelation) -> Table:
    names = rows.columns
    if len(names) > MOST_COLUMNS:
        raise Damaged(f"has {len(names):,} columns: no table is told")
    quoted = ['"' + name.replace('"', '""') + '"' for name in names]
    counts = ", ".join(["count(*)", *(f"count({name})" for name in quoted)])
    total, *there = rows.aggregate(counts).fetchall()[0]
    columns = [
        (name, count, _type(str(kind), count < total))
        for name, count, kind in zip(names, there, rows.types, strict=True)
    ]
    shown = rows.limit(EXAMPLES).project(", ".join(f"{one}::VARCHAR" for one in quoted)).fetchall()
    examples = [
        [
            (name, value[:LONGEST_VALUE])
            for name, value in zip(names, row, strict=True)
            if value is not None
        ]
        for row in shown
    ]
    return Table(total, columns, examples)


def _type(kind: str, missing: bool) -> str:
    """As pandas has it, in which a column of whole numbers with gaps is one of fractions."""
    found = TYPES.get(kind, "object")
    if not missing:
        return found
    return {"int64": "float64", "bool": "object"}.get(found, found)
