"""A corpus folder: the columns of The Stack v2, and readers."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cairn.base import UserError

FILES, LEDGER = "files", "ledger"

STACK_COLUMNS = (
    "blob_id", "directory_id", "path", "content_id", "detected_licenses", "license_type",
    "repo_name", "snapshot_id", "revision_id", "branch_name", "visit_date", "revision_date",
    "committer_date", "github_id", "star_events_count", "fork_events_count", "gha_license_id",
    "src_encoding", "language", "is_vendor", "is_generated", "length_bytes", "extension",
)  # fmt: skip
FILE_COLUMNS = (*STACK_COLUMNS, "origin_url", "content", "kind", "ledger_row")
LEDGER_COLUMNS = (
    "row", "content_id", "blob_id", "directory_id", "revision_id", "snapshot_id", "repo_name",
    "origin_url", "path", "branch_name", "language", "extension", "src_encoding", "is_vendor",
    "is_generated", "detected_licenses", "license_type", "length_bytes", "kind", "redactions",
    "verdict", "rule", "reason",
)  # fmt: skip


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
