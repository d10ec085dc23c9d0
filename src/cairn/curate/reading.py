"""Sources to annotated Parquet parts: what the first stage reads and writes.

    resume/read-0007/part-000003.parquet   the fourth batch of the eighth source
    resume/read-0007/done                  that source was read whole

A small source is one task of a worker. A large one is read here, and its batches are the tasks.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cairn.base import Work, progress
from cairn.base.artifact import remove
from cairn.curate.annotate import ANNOTATED, Annotation, annotate
from cairn.curate.corpus import packing
from cairn.sources import read_batches
from cairn.sources.record import SOURCE_SCHEMA

STAGES = "resume"  # intermediate Parquet; `make` removes it once the corpus stands
# By which a part is known to be of a batch: what could not be read may be readable now.
SEEN = [name for name in SOURCE_SCHEMA.names if name != "raw"]
BATCH = b"cairn.batch"  # where a part says of which
LARGE = 64 * 2**20  # bytes on disk from which the batches of a source are tasks of their own
FEW = 4  # small sources that are not worth their own tasks


@dataclass(frozen=True)
class Reading:
    """One source and how it is read."""

    number: int
    spec: str
    exclude: tuple[str, ...]
    max_bytes: int
    max_files: int | None
    metadata: Path | None

    @property
    def folder(self) -> str:
        """Where its parts stand, relative to the artifact."""
        return f"{STAGES}/read-{self.number:04d}"

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The source's records in batches."""
        return read_batches(
            self.spec,
            exclude=self.exclude,
            max_bytes=self.max_bytes,
            max_files=self.max_files,
            metadata=self.metadata,
        )


Mapping = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[tuple[Any, Any]]]


def read_sources(
    work: Work, sources: Sequence[Reading], wanted: Annotation, run: Mapping, whole: bool
) -> list[tuple[int, Path]]:
    """Annotate every source that is not done; returns each part with its source's number.

    `whole`: every source is one task, however large.
    """
    todo = [one for one in sources if not work.has(f"{one.folder}/done")]
    sizes = {one.number: _size(one.spec) for one in todo}
    small = [one for one in todo if whole or (one.max_files is None and sizes[one.number] < LARGE)]
    # The largest first, so that no worker is left alone with one at the end.
    small.sort(key=lambda one: (-sizes[one.number], one.number))
    if len(small) < FEW and not whole:
        small = []
    with progress("reading", unit="files") as bar:
        task = partial(read_source, out=work.out, wanted=wanted)
        for _, count in run(task, small):
            bar.advance(count)
        for one in todo:
            if one not in small:
                _read_large(work, one, wanted, run, bar.advance)
    return [(one.number, path) for one in sources for path in parts_of(work.out, one)]


def read_source(one: Reading, out: Path, wanted: Annotation) -> int:
    """Read, annotate and write one source; returns how many rows it has."""
    work = Work(out, {})
    for task in _unfinished(one.batches(), work, one):
        _make_part(task, out, one, wanted)
    return _finish(work, one)


def _read_large(
    work: Work, one: Reading, wanted: Annotation, run: Mapping, advance: Callable[[int], object]
) -> int:
    part = partial(_make_part, out=work.out, one=one, wanted=wanted)
    for _, count in run(part, _unfinished(one.batches(), work, one)):
        advance(count)
    return _finish(work, one)


def _make_part(
    task: tuple[int, pa.RecordBatch], out: Path, one: Reading, wanted: Annotation
) -> int:
    """Annotate and write a numbered batch; returns how many rows that makes."""
    number, batch = task
    table = pa.Table.from_batches([annotate(batch, wanted)])
    table = table.replace_schema_metadata({BATCH: _fingerprint(batch)})
    with Work(out, {}).part(_part(one, number)) as path:
        # Read twice and removed: quick to pack is worth more than small.
        pq.write_table(
            table, path, **packing(ANNOTATED) | {"compression": "lz4", "compression_level": None}
        )
    return table.num_rows


def _fingerprint(batch: pa.RecordBatch) -> bytes:
    """What a batch holds, by its files' identifiers."""
    seen = json.dumps(batch.select(SEEN).to_pydict(), sort_keys=True)
    return hashlib.sha256(seen.encode("utf-8")).hexdigest().encode("ascii")


def _finish(work: Work, one: Reading) -> int:
    with work.part(f"{one.folder}/done") as path:
        path.touch()
    return sum(pq.read_metadata(path).num_rows for path in parts_of(work.out, one))


def _part(one: Reading, number: int) -> str:
    return f"{one.folder}/part-{number:06d}.parquet"


def parts_of(out: Path, one: Reading) -> list[Path]:
    """The parts of a source that stand, in order."""
    return sorted((out / one.folder).glob("part-*.parquet"))


def _unfinished(
    batches: Iterable[pa.RecordBatch], work: Work, one: Reading
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Numbered batches, but for those that an interrupted run judged as they are now."""
    count = 0
    for count, batch in enumerate(batches, 1):
        if not _stands(work.out / _part(one, count - 1), batch):
            yield count - 1, batch
    for path in parts_of(work.out, one):
        if path >= work.out / _part(one, count):  # the source has shrunk since
            remove(path)


def _stands(part: Path, batch: pa.RecordBatch) -> bool:
    """Whether a part is whole and of this batch. A file that a crash cut short is not."""
    if not part.exists():
        return False
    try:
        found = pq.read_schema(part).metadata or {}
    except (OSError, pa.ArrowException):
        return False
    return found.get(BATCH) == _fingerprint(batch)


def _size(spec: str) -> int:
    """Bytes of a plain file on disk; a directory or anything else counts as large."""
    path = Path(spec).expanduser()
    return path.stat().st_size if path.is_file() else LARGE
