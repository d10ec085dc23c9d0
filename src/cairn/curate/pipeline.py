"""The pipeline: stages of record batches, Parquet between them, joins in DuckDB.

    read + annotate   per source, in a process pool     -> .stages/read-N/part-M.parquet
    decide            licences, gate, exact and near duplicates  -> .stages/decided.parquet
    write             files/, ledger/, report

Two shuffles exist: by content id, and by band key. Which of several copies stays is defined by an
order over all rows, so that neither partitions nor their order can be seen in the result.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from itertools import chain, islice
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from cairn.base import UserError, Work, progress, write_json, write_text
from cairn.base.artifact import remove
from cairn.curate import decide
from cairn.curate.annotate import Rules, annotate
from cairn.curate.corpus import FILE_COLUMNS, FILES, LEDGER, LEDGER_COLUMNS
from cairn.curate.report import markdown, summarise
from cairn.sources import read_batches
from cairn.sources.record import ORIGIN_FIELDS

if TYPE_CHECKING:
    from cairn.curate import Curate

STAGES = ".stages"  # intermediate Parquet; gone when the corpus stands
PART_ROWS = 20_000
PART_BYTES = 64 * 2**20
SEEN = [*ORIGIN_FIELDS, "path", "content_id"]  # by which a part is known to be of a batch


def curate(recipe: "Curate", work: Work) -> dict[str, Any]:
    """Fill `work.out`; returns facts. Finished stages of an interrupted run are used again."""
    left = recipe.max_files
    for number in range(len(recipe.sources)):
        if left != 0:
            read = _read_source(work, recipe, number, left)
            left = None if left is None else left - read
    annotated = sorted(str(path) for path in (work.out / STAGES).glob("read-*/part-*.parquet"))
    if not annotated:
        raise UserError("sources", ", ".join(recipe.sources), "hold no files", "give others")
    if not work.has(f"{STAGES}/decided.parquet"):
        with work.part(f"{STAGES}/decided.parquet") as path:
            spill = work.out / STAGES / "spill"
            decide.decide(annotated, recipe.licenses, recipe.near_duplicates, path, spill)
    decided = work.out / STAGES / "decided.parquet"
    for name, columns, only in (
        (LEDGER, LEDGER_COLUMNS, None),
        (FILES, FILE_COLUMNS, "keep"),
    ):
        if not work.has(name):
            with work.part(name) as folder:
                folder.mkdir()
                _write_parts(annotated, decided, columns, only, folder)
    facts = summarise(work.out / LEDGER)
    if not facts["kept"]["files"]:
        rules = ", ".join(f"{row['rule']} {row['files']:,}" for row in facts["rules"])
        raise UserError("sources", ", ".join(recipe.sources), f"leave nothing ({rules})", "widen")
    write_json(work.out / "report.json", facts)
    write_text(work.out / "report.md", markdown(facts, recipe.sources))
    remove(work.out / STAGES)
    return {key: facts[key] for key in ("seen", "kept", "licences")}


def _read_source(work: Work, recipe: "Curate", number: int, max_files: int | None) -> int:
    """Annotate one source, part by part; returns how many files it has."""
    source, folder = recipe.sources[number], f"{STAGES}/read-{number:04d}"
    if not work.has(f"{folder}/done"):
        batches = read_batches(
            source, exclude=recipe.exclude, max_bytes=recipe.max_bytes, max_files=max_files
        )
        wanted = Rules(recipe.max_bytes, recipe.thresholds, recipe.redact)
        workers = recipe.workers or os.cpu_count() or 1
        with progress(f"reading {source}", unit="files") as bar:
            todo = _unfinished(batches, work, folder)
            for part, annotated in _annotated(todo, wanted, workers):
                with work.part(_part(folder, part)) as path:
                    table = pa.Table.from_batches([annotated])
                    pq.write_table(table, path, compression="zstd")
                bar.advance(annotated.num_rows)
        with work.part(f"{folder}/done") as path:
            path.touch()
    return sum(pq.read_metadata(path).num_rows for path in _parts(work, folder))


def _part(folder: str, number: int) -> str:
    return f"{folder}/part-{number:06d}.parquet"


def _parts(work: Work, folder: str) -> list[Path]:
    return sorted((work.out / folder).glob("part-*.parquet"))


def _unfinished(
    batches: Iterable[pa.RecordBatch], work: Work, folder: str
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Numbered batches, but for those that an interrupted run judged as they are now."""
    count = 0
    for count, batch in enumerate(batches, 1):
        name = _part(folder, count - 1)
        if not (
            work.has(name) and pq.read_table(work.out / name, columns=SEEN).equals(_seen(batch))
        ):
            yield count - 1, batch
    for path in _parts(work, folder):
        if path >= work.out / _part(folder, count):  # the source has shrunk since
            remove(path)


def _seen(batch: pa.RecordBatch) -> pa.Table:
    return pa.Table.from_batches([batch]).select(SEEN)


def _annotated(
    batches: Iterable[tuple[int, pa.RecordBatch]], wanted: Rules, workers: int
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """In the order given, whoever is first; few batches are not worth a pool."""
    judge = partial(annotate, wanted=wanted)
    pending = iter(batches)
    first = list(islice(pending, 2))
    if workers == 1 or len(first) < 2:
        yield from ((number, judge(batch)) for number, batch in chain(first, pending))
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        running: deque[tuple[int, Future[pa.RecordBatch]]] = deque()
        for number, batch in chain(first, pending):
            running.append((number, pool.submit(judge, batch)))
            if len(running) > 2 * workers:
                oldest, future = running.popleft()
                yield oldest, future.result()
        yield from ((number, future.result()) for number, future in running)


def _write_parts(
    annotated: list[str], decided: Path, columns: tuple[str, ...], only: str | None, folder: Path
) -> None:
    """Rows in the order of the ledger, in Parquet parts of bounded size."""
    chosen = ", ".join("row AS ledger_row" if name == "ledger_row" else name for name in columns)
    where = f"WHERE verdict = '{only}'" if only else ""
    # The columns that `decide` settled come from there, all others from the first stage.
    query = f"""
        SELECT {chosen} FROM (
            SELECT a.* EXCLUDE (verdict, rule, reason), d.row, d.verdict, d.rule, d.reason,
                d.detected_licenses, d.license_type
            FROM read_parquet($annotated, filename = true, file_row_number = true) a
            JOIN read_parquet($decided) d
            ON regexp_extract(a.filename, '{decide.PART}') = d.filename
                AND a.file_row_number = d.file_row_number
        ) {where} ORDER BY row
    """
    with decide.connect(decided.parent / "spill") as connection:
        found = connection.sql(query, params={"annotated": annotated, "decided": str(decided)})
        reader: pa.RecordBatchReader = found.to_arrow_reader(1024)
        held: list[pa.RecordBatch] = []
        parts = 0
        for batch in reader:
            held.append(batch)
            large = sum(one.nbytes for one in held) > PART_BYTES
            if large or sum(one.num_rows for one in held) >= PART_ROWS:
                parts = _write_part(held, folder, parts)
                held = []
        if held or not parts:
            _write_part(held, folder, parts, reader.schema)


def _write_part(
    held: list[pa.RecordBatch], folder: Path, number: int, schema: pa.Schema | None = None
) -> int:
    table = pa.Table.from_batches(held, schema)
    pq.write_table(table, folder / f"part-{number:05d}.parquet", compression="zstd")
    return number + 1
