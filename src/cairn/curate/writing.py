"""Annotated parts and what was decided become files/ and ledger/, part by part."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cairn.base import Work
from cairn.curate.corpus import (
    FILE_COLUMNS,
    FILE_SCHEMA,
    FILES,
    LEDGER,
    LEDGER_COLUMNS,
    LEDGER_SCHEMA,
    packing,
)
from cairn.curate.finish import Finishing, finish

PART_ROWS = 20_000
PART_BYTES = 64 * 2**20
BATCH_ROWS = 256  # files whose contents are held twice at a time


@dataclass(frozen=True)
class Group:
    """Annotated parts that make one part of the corpus; `first` is the first one's first row."""

    number: int
    parts: tuple[Path, ...]
    first: int
    decided: Path

    @property
    def names(self) -> tuple[str, str]:
        """Of the parts that are made, relative to the artifact: files and ledger."""
        part = f"part-{self.number:05d}.parquet"
        return f"{FILES}/{part}", f"{LEDGER}/{part}"


def grouped(annotated: list[Path], decided: Path) -> Iterator[Group]:
    """Consecutive parts until their kept files are about PART_BYTES, or PART_ROWS were seen."""
    only = [("verdict", "=", "keep")]
    rows = pq.read_table(decided, columns=["row"], filters=only)["row"].to_numpy()
    kept = np.zeros(pq.read_metadata(decided).num_rows, bool)
    kept[rows] = True
    held: list[Path] = []
    begin = row = size = number = 0
    for path in annotated:
        lengths = pq.read_table(path, columns=["length_bytes"])["length_bytes"].to_numpy()
        held.append(path)
        size += int(lengths[kept[row : row + len(lengths)]].sum())
        row += len(lengths)
        if size >= PART_BYTES or row - begin >= PART_ROWS:
            yield Group(number, tuple(held), begin, decided)
            held, begin, size, number = [], row, 0, number + 1
    if held or not number:
        yield Group(number, tuple(held), begin, decided)


def write_group(group: Group, out: Path, wanted: Finishing) -> int:
    """Write a group's part of files/ and of ledger/; returns the rows of the ledger."""
    work = Work(out, {})
    files, ledger = group.names
    row = group.first
    with (
        work.part(files) as files_path,
        work.part(ledger) as ledger_path,
        pq.ParquetWriter(files_path, FILE_SCHEMA, **packing(FILE_SCHEMA)) as files_writer,
        pq.ParquetWriter(ledger_path, LEDGER_SCHEMA, **packing(LEDGER_SCHEMA)) as ledger_writer,
    ):
        decided = _decided(group)
        for path in group.parts:
            table = _joined(path, decided, row - group.first)
            row += table.num_rows
            for batch in table.to_batches(max_chunksize=BATCH_ROWS):
                done = _finished(pa.Table.from_batches([batch]), wanted)
                ledger_writer.write_table(done.select(LEDGER_COLUMNS).cast(LEDGER_SCHEMA))
                kept = done.filter(_keeps(done))
                kept = kept.append_column("ledger_row", kept["row"])
                files_writer.write_table(kept.select(FILE_COLUMNS).cast(FILE_SCHEMA))
    return row - group.first


def _decided(group: Group) -> pa.Table:
    """What was decided of a group's rows, in their order."""
    stop = group.first + sum(pq.read_metadata(path).num_rows for path in group.parts)
    only = [("row", ">=", group.first), ("row", "<", stop)]
    found = pq.read_table(group.decided, filters=only)
    if found["row"].to_pylist() != list(range(group.first, stop)):
        raise ValueError(f"{group.decided} does not tell of rows {group.first} to {stop}")
    return found


def _joined(path: Path, decided: pa.Table, place: int) -> pa.Table:
    """An annotated part with what was decided of its rows, which begin at `place` there."""
    table = pq.read_table(path).drop_columns(["verdict", "rule", "reason"])
    found = decided.slice(place, table.num_rows)
    for name in found.column_names:
        table = table.append_column(name, found[name])
    return table


def _finished(table: pa.Table, wanted: Finishing) -> pa.Table:
    """The table with redacted contents; what the third stage drops has its verdict changed."""
    keep = _keeps(table).to_numpy(zero_copy_only=False)
    chosen = table.filter(pa.array(keep)).select(["content", "kind", "src_encoding"])
    batches = chosen.combine_chunks().to_batches()
    found = iter(row for batch in batches for row in finish(batch, wanted).to_pylist())
    rows = table.select(["rule", "reason"]).to_pylist()
    late = [next(found) if stays else None for stays in keep]
    pairs = list(zip(rows, late, strict=True))
    dropped = [bool(one and one["rule"]) for one in late]
    verdicts = [
        "drop" if gone or not stays else "keep" for gone, stays in zip(dropped, keep, strict=True)
    ]
    values = {
        "content": pa.array([one and one["content"] for one in late], pa.string()),
        "redactions": pa.array([one and one["redactions"] for one in late], pa.string()),
        "verdict": pa.array(verdicts, pa.string()),
        "rule": pa.array([(one and one["rule"]) or row["rule"] for row, one in pairs], pa.string()),
        "reason": pa.array(
            [(one and one["reason"]) or row["reason"] for row, one in pairs], pa.string()
        ),
    }
    for name, value in values.items():
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, value)
        else:
            table = table.append_column(name, value)
    return table


def _keeps(table: pa.Table) -> pa.BooleanArray:
    return pa.array([verdict == "keep" for verdict in table["verdict"].to_pylist()], pa.bool_())
