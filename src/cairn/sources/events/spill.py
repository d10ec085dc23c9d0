"""Rows written to a Parquet file as they come, and a database over it that may spill."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 20_000
BYTES = 32 * 2**20
MEMORY = "1GB"


class Spill:
    """A Parquet file in the making: `add` rows of (values in the schema's order)."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path, self.schema = path, schema
        self._writer = pq.ParquetWriter(path, schema, compression="zstd", compression_level=1)
        self._held: list[tuple[Any, ...]] = []
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._writer.close()

    def add(self, row: tuple[Any, ...], size: int = 0) -> None:
        """One row; `size` is about how many bytes it holds."""
        self._held.append(row)
        self._size += size
        if len(self._held) >= ROWS or self._size >= BYTES:
            self._flush()

    def _flush(self) -> None:
        if not self._held:
            return
        columns = zip(*self._held, strict=True)
        arrays = [
            pa.array(column, field.type) for column, field in zip(columns, self.schema, strict=True)
        ]
        self._writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=self.schema))
        self._held, self._size = [], 0


@contextmanager
def database(folder: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """DuckDB with a bound on its memory; what does not fit goes to `folder`."""
    with duckdb.connect() as connection:
        connection.execute(f"SET memory_limit = '{MEMORY}'")
        connection.execute("SET temp_directory = $folder", {"folder": str(folder / "spilled")})
        connection.execute("SET preserve_insertion_order = false")
        yield connection
