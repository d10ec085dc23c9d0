"""Rows and bytes written to files as they come, and a database over the rows that may spill."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 20_000
BYTES = 32 * 2**20
MEMORY, THREADS = "1GB", 2


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


class Heap:
    """Pieces of bytes in one file, packed one by one: too large for a database to sort."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b")
        self._end = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def put(self, raw: bytes) -> tuple[int, int]:
        """Where the bytes are kept. All are put before the first is got."""
        packed = pa.compress(raw, codec="lz4_raw", asbytes=True)
        place = self._end
        self._file.write(packed)
        self._end += len(packed)
        return place, len(packed)

    def get(self, place: int, length: int, size: int) -> bytes:
        """The bytes that were put; `size` is their number."""
        self._file.flush()
        packed = os.pread(self._file.fileno(), length, place)
        return pa.decompress(packed, decompressed_size=size, codec="lz4_raw", asbytes=True)


@contextmanager
def database(folder: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """DuckDB with a bound on its memory; what does not fit goes to `folder`."""
    with duckdb.connect() as connection:
        connection.execute(f"SET memory_limit = '{MEMORY}'")
        connection.execute("SET temp_directory = $folder", {"folder": str(folder / "spilled")})
        connection.execute(f"SET threads = {THREADS}")
        connection.execute("SET preserve_insertion_order = false")
        yield connection
