"""The pipeline: stages of record batches, Parquet between them, joins in DuckDB.

    read + annotate   per source, in a process pool     -> .stages/read-N/part-M.parquet
    decide            licences, gate, exact and near duplicates  -> .stages/decided.parquet
    write             files/, ledger/, report

Two shuffles exist: by content id, and by band key. Which of several copies stays is defined by an
order over all rows, so that neither partitions nor their order can be seen in the result.
"""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from cairn.base import UserError, Work, progress, write_json, write_text
from cairn.base.artifact import remove
from cairn.curate import decide
from cairn.curate.annotate import Rules, annotate
from cairn.curate.corpus import FILE_COLUMNS, FILES, LEDGER, LEDGER_COLUMNS
from cairn.curate.report import markdown, summarise
from cairn.sources import read_batches

if TYPE_CHECKING:
    from cairn.curate import Curate

STAGES = ".stages"  # intermediate Parquet; gone when the corpus stands
PART_ROWS = 20_000
PART_BYTES = 64 * 2**20


def curate(recipe: "Curate", work: Work) -> dict[str, Any]:
    """Fill `work.out`; returns facts. Finished stages of an interrupted run are used again."""
    wanted = Rules(recipe.max_bytes, recipe.thresholds, recipe.redact)
    for number, source in enumerate(recipe.sources):
        name = f"{STAGES}/read-{number:04d}"
        if not work.has(name):
            with work.part(name) as folder:
                folder.mkdir()
                _read_source(source, recipe, wanted, folder)
    annotated = sorted(str(path) for path in (work.out / STAGES).glob("read-*/part-*.parquet"))
    if not annotated:
        raise UserError("sources", ", ".join(recipe.sources), "hold no files", "give others")
    if not work.has(f"{STAGES}/decided.parquet"):
        with work.part(f"{STAGES}/decided.parquet") as path:
            decide.decide(annotated, recipe.licenses, recipe.near_duplicates, path)
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


def _read_source(source: str, recipe: "Curate", wanted: Rules, folder: Path) -> None:
    batches = read_batches(source, exclude=recipe.exclude, max_bytes=recipe.max_bytes)
    workers = recipe.workers or os.cpu_count() or 1
    with progress(f"reading {source}", unit="files") as bar:
        for number, batch in enumerate(_annotated(batches, wanted, workers)):
            pq.write_table(
                pa.Table.from_batches([batch]),
                folder / f"part-{number:05d}.parquet",
                compression="zstd",
            )
            bar.advance(batch.num_rows)


def _annotated(
    batches: Iterable[pa.RecordBatch], wanted: Rules, workers: int
) -> Iterator[pa.RecordBatch]:
    """In the order given, whoever is first; few batches are not worth a pool."""
    judge = partial(annotate, wanted=wanted)
    pending = iter(batches)
    first = list(islice(pending, 2))
    if workers == 1 or len(first) < 2:
        yield from map(judge, first)
        yield from map(judge, pending)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        running: list[Future[pa.RecordBatch]] = [pool.submit(judge, batch) for batch in first]
        while running:
            following = next(pending, None)
            if following is not None:
                running.append(pool.submit(judge, following))
            if following is None or len(running) > 2 * workers:
                yield running.pop(0).result()


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
            ON a.filename = d.filename AND a.file_row_number = d.file_row_number
        ) {where} ORDER BY row
    """
    with duckdb.connect() as connection:
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
