"""A corpus folder: the columns of The Stack v2, and readers."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cairn.base import UserError

FILES, LEDGER = "files", "ledger"

# The columns of The Stack v2, in its order, with their types; dates are ISO 8601 texts in UTC.
STACK_SCHEMA = pa.schema(
    [
        ("blob_id", pa.string()),
        ("directory_id", pa.string()),
        ("path", pa.string()),
        ("content_id", pa.string()),
        ("detected_licenses", pa.list_(pa.string())),
        ("license_type", pa.string()),
        ("repo_name", pa.string()),
        ("snapshot_id", pa.string()),
        ("revision_id", pa.string()),
        ("branch_name", pa.string()),
        ("visit_date", pa.string()),
        ("revision_date", pa.string()),
        ("committer_date", pa.string()),
        ("github_id", pa.int64()),
        ("star_events_count", pa.int64()),
        ("fork_events_count", pa.int64()),
        ("gha_license_id", pa.string()),
        ("gha_event_created_at", pa.string()),
        ("gha_created_at", pa.string()),
        ("gha_language", pa.string()),
        ("src_encoding", pa.string()),
        ("language", pa.string()),
        ("is_vendor", pa.bool_()),
        ("is_generated", pa.bool_()),
        ("length_bytes", pa.int64()),
        ("extension", pa.string()),
    ]
)
FILE_SCHEMA = pa.schema(
    [
        *STACK_SCHEMA,
        ("origin_url", pa.string()),
        ("content", pa.string()),
        ("kind", pa.string()),
        ("ledger_row", pa.int64()),
    ]
)
FILE_COLUMNS = tuple(FILE_SCHEMA.names)
LEDGER_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        *(field for field in STACK_SCHEMA if not field.name.startswith("gha_")),
        ("origin_url", pa.string()),
        ("kind", pa.string()),
        ("redactions", pa.string()),
        ("duplicate_of", pa.int64()),  # the row of the copy that stays
        ("verdict", pa.string()),
        ("rule", pa.string()),
        ("reason", pa.string()),
    ]
)
LEDGER_COLUMNS = tuple(LEDGER_SCHEMA.names)
SINGULAR = frozenset(
    {"content", "content_id", "blob_id", "path", "ledger_row", "row", "bands", "signature"}
)


def packing(schema: pa.Schema) -> dict[str, Any]:
    """How Parquet is written: without dictionaries of columns whose values never come again."""
    repeated = [name for name in schema.names if name not in SINGULAR]
    return {"compression": "zstd", "compression_level": 1, "use_dictionary": repeated}


def read_files(folder: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Kept files in the order of their ledger rows. UserError where `folder` is no corpus."""
    return _read(folder, FILES, columns)


def read_ledger(folder: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """A row for every file seen; row r is the r-th. UserError where `folder` is no corpus."""
    return _read(folder, LEDGER, columns)


def parts_of(folder: Path, kind: str) -> list[Path]:
    """The Parquet parts of `files` or `ledger`, in order."""
    parts = sorted((folder / kind).glob("part-*.parquet"))
    if not parts:
        raise UserError("corpus", str(folder), f"has no {kind}/part-*.parquet", "give a corpus")
    return parts


def _read(folder: Path, kind: str, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
    for part in parts_of(Path(folder), kind):
        try:
            yield from pq.ParquetFile(part).iter_batches(
                columns=None if columns is None else list(columns), batch_size=1024
            )
        except (OSError, pa.ArrowException) as error:
            mend = "delete the corpus and make it again"
            raise UserError("corpus", str(part), f"is damaged ({error})", mend) from None
