"""The second stage: what can only be said of a file beside the others. Joins in DuckDB."""

from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from cairn.curate.licences import NON_PERMISSIVE, PERMISSIVE, classify
from cairn.curate.near import components

# A part by its place in the artifact: a continued run may spell the folder above otherwise.
PART = "read-[0-9]+/part-[0-9]+[.]parquet$"
ROWS = f"""
    CREATE TABLE files AS
    SELECT row_number() OVER (
            ORDER BY repo_name, origin_url, path, content_id, filename, file_row_number
        ) - 1 AS row,
        regexp_extract(filename, '{PART}') AS filename, file_row_number, repo_name, origin_url,
        path, content_id, language, said_here, carrier_of, gha_license_id,
        star_events_count, fork_events_count, revision_date, visit_date, bands,
        verdict, rule, reason
    FROM read_parquet($annotated, filename = true, file_row_number = true)
"""
# A file has what it says itself, and what the licence files of all directories above it say.
LICENCES = """
    CREATE TABLE licensed AS
    SELECT row, list_sort(list_distinct(flatten(list(said)))) AS detected_licenses,
        any_value(gha_license_id) AS declared
    FROM (
        SELECT row, gha_license_id, said_here AS said FROM files
        UNION ALL
        SELECT f.row, f.gha_license_id, c.said_here FROM files f JOIN files c
        ON c.carrier_of IS NOT NULL AND f.repo_name = c.repo_name
            AND f.origin_url = c.origin_url AND starts_with(f.path, c.carrier_of)
    ) GROUP BY row
"""
CLASSES = """
    CREATE TABLE settled AS
    SELECT f.* EXCLUDE (verdict, rule, reason), l.detected_licenses, c.license_type,
        CASE WHEN verdict = 'drop' THEN verdict
            WHEN list_contains($classes, c.license_type) THEN 'keep' ELSE 'drop' END AS verdict,
        CASE WHEN verdict = 'drop' THEN rule
            WHEN list_contains($classes, c.license_type) THEN NULL ELSE 'licence' END AS rule,
        CASE WHEN verdict = 'drop' THEN reason
            WHEN list_contains($classes, c.license_type) THEN NULL
            ELSE concat(c.license_type, ': ', array_to_string(l.detected_licenses, ', '))
            END AS reason
    FROM files f JOIN licensed l USING (row)
    JOIN classes c ON c.detected_licenses = l.detected_licenses
        AND c.declared IS NOT DISTINCT FROM l.declared
"""
# Which of several copies stays (the report's order for files), smallest path last to settle ties.
PREFERENCE = f"""
    license_type = '{PERMISSIVE}' DESC, license_type = '{NON_PERMISSIVE}' ASC,
    star_events_count DESC, fork_events_count DESC, revision_date DESC NULLS LAST,
    visit_date DESC NULLS LAST, path, repo_name, row
"""
EXACT = f"""
    CREATE TABLE unique_files AS
    SELECT *, row_number() OVER (PARTITION BY content_id ORDER BY {PREFERENCE}) AS place,
        first_value(row) OVER (PARTITION BY content_id ORDER BY {PREFERENCE}) AS kept_row
    FROM settled WHERE verdict = 'keep'
"""
RANKED = f"""
    CREATE TABLE ranked AS
    SELECT row, language, bands, row_number() OVER (ORDER BY {PREFERENCE}) - 1 AS rank
    FROM unique_files WHERE place = 1 AND bands IS NOT NULL
"""
# Per language, never across languages. Members of a bucket are linked to its best.
EDGES = """
    SELECT DISTINCT least_rank, rank FROM (
        SELECT rank, min(rank) OVER (PARTITION BY language, band, key) AS least_rank FROM (
            SELECT rank, language, unnest(bands) AS key, generate_subscripts(bands, 1) AS band
            FROM ranked
        )
    ) WHERE rank > least_rank ORDER BY ALL
"""
DECIDED = """
    COPY (
        SELECT s.row, s.filename, s.file_row_number, s.detected_licenses, s.license_type,
            CASE WHEN u.place > 1 OR n.row IS NOT NULL THEN 'drop' ELSE s.verdict END AS verdict,
            CASE WHEN u.place > 1 THEN 'exact_duplicate'
                WHEN n.row IS NOT NULL THEN 'near_duplicate' ELSE s.rule END AS rule,
            CASE WHEN u.place > 1 THEN concat('of ', e.repo_name, ':', e.path)
                WHEN n.row IS NOT NULL THEN concat('of ', k.repo_name, ':', k.path)
                ELSE s.reason END AS reason
        FROM settled s
        LEFT JOIN unique_files u ON u.row = s.row
        LEFT JOIN files e ON e.row = u.kept_row
        LEFT JOIN near n ON n.row = s.row
        LEFT JOIN files k ON k.row = n.kept_row
        ORDER BY s.row
    ) TO '{path}' (FORMAT parquet)
"""


def connect(spill: Path) -> duckdb.DuckDBPyConnection:
    """DuckDB in memory; what does not fit goes to the folder `spill` (not to where one stands)."""
    return duckdb.connect(config={"temp_directory": str(spill)})


def decide(
    annotated: list[str], classes: tuple[str, ...], near: bool, path: Path, spill: Path
) -> None:
    """Settle licence, gate and duplicates of every annotated row; write Parquet to `path`.

    Columns: row (of the ledger), filename and file_row_number (of the annotated part),
    detected_licenses, license_type, verdict, rule, reason.
    """
    with connect(spill) as connection:
        connection.execute(ROWS, {"annotated": annotated})
        connection.execute(LICENCES)
        _classify(connection)
        connection.execute(CLASSES, {"classes": list(classes)})
        connection.execute(EXACT)
        _near(connection, near)
        connection.execute(DECIDED.format(path=str(path).replace("'", "''")))


def _classify(connection: duckdb.DuckDBPyConnection) -> None:
    """The class of each combination of licences that occurs."""
    query = "SELECT DISTINCT detected_licenses, declared FROM licensed ORDER BY ALL"
    found = connection.execute(query).fetchall()
    classes = pa.table(  # noqa: F841 (DuckDB finds it by name)
        {
            "detected_licenses": pa.array([row[0] for row in found], pa.list_(pa.string())),
            "declared": pa.array([row[1] for row in found], pa.string()),
            "license_type": [classify(row[0], row[1]) for row in found],
        }
    )
    connection.execute("CREATE TABLE classes AS SELECT * FROM classes")


def _near(connection: duckdb.DuckDBPyConnection, wanted: bool) -> None:
    """The table `near`: rows to drop, each with the row of its component that stays."""
    connection.execute(RANKED)
    rows = connection.execute("SELECT row FROM ranked ORDER BY rank").fetchnumpy()["row"]
    edges = connection.execute(EDGES).fetchnumpy() if wanted else {"least_rank": [], "rank": []}
    pairs = np.stack([np.asarray(edges[name], np.int64) for name in ("least_rank", "rank")], 1)
    best = components(pairs, len(rows))
    dropped = np.flatnonzero(best != np.arange(len(rows)))
    rows = np.asarray(rows, np.int64)
    found = pa.table({"row": rows[dropped], "kept_row": rows[best[dropped]]})  # noqa: F841
    connection.execute("CREATE TABLE near AS SELECT * FROM found")
