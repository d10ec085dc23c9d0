"""The second stage: what can only be said of a file beside the others. Joins in DuckDB.

Rules in order, each over what the ones before it left: licence, opt-out, extension, copies of whole
repositories, exact duplicates, near duplicates, quality, selection of languages, caps.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cairn.base import pattern_of
from cairn.curate import languages, shuffles
from cairn.curate.licences import NON_PERMISSIVE, PERMISSIVE, classify, permissive_ids
from cairn.curate.near import PERMUTATIONS, components, links
from cairn.curate.optout import COVERED, OptOut
from cairn.curate.selection import SMOL_NAMES
from cairn.curate.shuffles import connect


class Shuffles(Protocol):
    """Who brings rows with one key together; every driver has its own."""

    def best_copies(self, connection: duckdb.DuckDBPyConnection) -> None:
        """From `alive` (kind, content_id, rank) the table `best`: of each content the least."""

    def buckets(self, connection: duckdb.DuckDBPyConnection) -> np.ndarray:
        """From `ranked` (kind, language, bands, rank) who shares a band, as `near.links` has it."""
        ...


@dataclass(frozen=True)
class Decision:
    """What the second stage needs of the recipe."""

    classes: tuple[str, ...]
    near: bool
    repository_duplicates: bool
    opt_out: OptOut
    excluded_extensions: bool
    smol: bool
    caps: dict[str, int]
    near_similarity: float = 0.0


COLUMNS = """
    repo_name, origin_url, directory_id, revision_id, snapshot_id, path, content_id, blob_id,
    github_id, kind, language, extension, length_bytes, said_here, carrier_of, link_to,
    gha_license_id, star_events_count, fork_events_count, revision_date, visit_date, bands,
    verdict, rule, reason, quality_rule, quality_reason
"""
# A row's number is its place in the order of the sources and of the files in them, which does not
# depend on how many processes read.
ROWS = f"""
    CREATE TABLE files AS
    SELECT p.first + a.file_row_number AS row, p.source,
        regexp_extract(path, '(?s)^(.*/)?') AS folder, {COLUMNS}
    FROM read_parquet($annotated, filename = true, file_row_number = true,
        hive_partitioning = false) a
    JOIN parts p USING (filename)
"""
REPOSITORIES = """
    CREATE TABLE repositories AS
    SELECT row_number() OVER (ORDER BY min(row)) AS repository, source, repo_name, origin_url,
        directory_id, revision_id, bool_or(kind = 'source') AS has_source,
        arg_min(gha_license_id, row) AS gha_license_id, arg_min(star_events_count, row) AS stars,
        arg_min(fork_events_count, row) AS forks, arg_min(revision_date, row) AS revision_date,
        arg_min(github_id, row) AS github_id, arg_min(visit_date, row) AS visit_date
    FROM files GROUP BY source, repo_name, origin_url, directory_id, revision_id
"""
NUMBERED = """
    CREATE TABLE numbered AS
    SELECT f.*, r.repository FROM files f JOIN repositories r
    ON r.source = f.source AND r.repo_name IS NOT DISTINCT FROM f.repo_name
        AND r.origin_url IS NOT DISTINCT FROM f.origin_url
        AND r.directory_id IS NOT DISTINCT FROM f.directory_id
        AND r.revision_id IS NOT DISTINCT FROM f.revision_id
"""
# What a licence file in a folder says, or the file that a link with such a name leads to.
SAID = """
    CREATE TABLE said AS
    SELECT repository, carrier_of AS folder, said_here AS said FROM numbered
    WHERE carrier_of IS NOT NULL
    UNION ALL
    SELECT l.repository, l.folder, t.said_here FROM numbered l
    JOIN numbered t ON t.repository = l.repository AND t.path = l.link_to
    WHERE l.link_to IS NOT NULL AND len(t.said_here) > 0
"""
# A file has what it says itself, and what the licence files of all directories above it say: of
# the first 256, or one path of a million directories would fill the disk.
LICENCES = """
    CREATE TABLE inherited AS
    WITH folders AS (
        SELECT repository, folder, unnest(list_concat([''], list_transform(
            range(1, least(len(string_split(folder, '/')), 257)),
            lambda n: array_to_string(string_split(folder, '/')[1:n], '/') || '/'))) AS above
        FROM (SELECT DISTINCT repository, folder FROM numbered)
    )
    SELECT f.repository, f.folder, list_distinct(flatten(list(s.said))) AS said
    FROM folders f JOIN said s ON s.repository = f.repository AND s.folder = f.above
    GROUP BY f.repository, f.folder;
    CREATE TABLE licensed AS
    SELECT n.row, n.gha_license_id AS declared,
        list_sort(list_distinct(list_concat(n.said_here, coalesce(i.said, [])))) AS detected
    FROM numbered n
    LEFT JOIN inherited i ON i.repository = n.repository AND i.folder = n.folder
"""
# The oldest, most popular copy of a tree with a known licence (A.3 of the report's code): the
# choice comes before the gate, or a copy without a declared licence would pass for the original.
# One repository in two sources may be told in two halves, each of other files: no copies.
TREES = """
    CREATE TABLE copies AS
    SELECT repository, first_value(repo_name) OVER best AS original
    FROM repositories WHERE has_source AND directory_id <> '' AND repository NOT IN (
        SELECT repository FROM numbered WHERE row IN (SELECT row FROM opted_out)
    )
    WINDOW best AS (PARTITION BY directory_id ORDER BY gha_license_id IS NOT NULL DESC, stars DESC,
        forks DESC, revision_date ASC NULLS LAST, github_id ASC NULLS LAST,
        visit_date ASC NULLS LAST, origin_url, repo_name, repository)
    QUALIFY repository <> first_value(repository) OVER best
        AND (repo_name <> first_value(repo_name) OVER best
            OR origin_url <> first_value(origin_url) OVER best
            OR revision_id IS DISTINCT FROM first_value(revision_id) OVER best)
"""
GATES = """
    CREATE TABLE gated AS
    SELECT n.*, l.detected AS detected_licenses, c.license_type, CASE
            WHEN n.verdict = 'drop' THEN n.rule
            WHEN NOT list_contains($classes, c.license_type) THEN 'licence'
            WHEN o.row IS NOT NULL THEN 'opt_out'
            WHEN e.extension IS NOT NULL THEN 'extension'
            WHEN t.repository IS NOT NULL THEN 'repository_duplicate'
        END AS gate, CASE
            WHEN n.verdict = 'drop' THEN n.reason
            WHEN NOT list_contains($classes, c.license_type)
                THEN concat(c.license_type, ': ', array_to_string(l.detected, ', '),
                    CASE WHEN l.declared IS NULL THEN '' WHEN len(l.detected) > 0
                        THEN concat(' (', l.declared, ')') ELSE concat('declared ', l.declared) END)
            WHEN o.row IS NOT NULL THEN o.reason
            WHEN e.extension IS NOT NULL
                THEN concat(CASE WHEN e.extension = '' THEN '' ELSE concat('.', e.extension, ' of ')
                    END, e.language, ' is left out')
            WHEN t.repository IS NOT NULL THEN concat('the same tree as ', t.original)
        END AS why
    FROM numbered n
    JOIN licensed l USING (row)
    JOIN classes c ON c.detected = l.detected AND c.declared IS NOT DISTINCT FROM l.declared
    LEFT JOIN opted_out o ON o.row = n.row
    LEFT JOIN extensions e ON e.language = n.language AND e.extension = n.extension
        AND n.kind = 'source'
    LEFT JOIN copies t ON t.repository = n.repository AND n.kind = 'source'
"""
# Which of several copies stays. The report's order for exact copies begins with the licence that
# GH Archive declares, that for near copies with the class; what follows makes the orders total.
_TOTAL = f"""
    star_events_count DESC, fork_events_count DESC, revision_date DESC NULLS LAST,
    visit_date DESC NULLS LAST, license_type = '{PERMISSIVE}' DESC, path, repo_name, origin_url,
    row
"""
EXACT_ORDER = f"coalesce(list_contains($whitelist, gha_license_id), false) DESC, {_TOTAL}"
NEAR_ORDER = f"""
    license_type = '{PERMISSIVE}' DESC, license_type = '{NON_PERMISSIVE}' ASC, {_TOTAL}
"""
ALIVE = f"""
    CREATE TABLE alive AS
    SELECT row, kind, content_id, row_number() OVER (ORDER BY {EXACT_ORDER}) - 1 AS rank
    FROM gated WHERE gate IS NULL
"""
UNIQUE = """
    CREATE TABLE unique_files AS
    SELECT a.row, a.rank <> b.rank AS is_copy, k.row AS kept_row FROM alive a
    JOIN best b ON b.kind = a.kind AND b.content_id = a.content_id
    JOIN alive k ON k.rank = b.rank
"""
RANKED = f"""
    CREATE TABLE ranked AS
    SELECT row, kind, language, bands, row_number() OVER (ORDER BY {NEAR_ORDER}) - 1 AS rank
    FROM gated WHERE bands IS NOT NULL AND row IN (SELECT row FROM unique_files WHERE NOT is_copy)
"""
SIGNATURES = """
    SELECT r.rank, a.signature
    FROM read_parquet($annotated, filename = true, file_row_number = true,
        hive_partitioning = false) a
    JOIN parts p USING (filename)
    JOIN ranked r ON r.row = p.first + a.file_row_number
"""
CHOSEN = """
    CREATE TABLE chosen AS
    SELECT g.row, g.language, g.kind, g.content_id, g.length_bytes, g.detected_licenses,
        g.license_type, CASE
            WHEN g.gate IS NOT NULL THEN g.gate
            WHEN u.is_copy THEN 'exact_duplicate'
            WHEN n.row IS NOT NULL THEN 'near_duplicate'
            WHEN g.quality_rule IS NOT NULL THEN g.quality_rule
            WHEN g.language NOT IN (SELECT * FROM selected) AND g.kind = 'source'
                AND string_split(g.path, '/')[-1] NOT IN (SELECT * FROM selected)
                THEN 'selection'
        END AS rule, CASE
            WHEN g.gate IS NOT NULL THEN g.why
            WHEN u.is_copy THEN concat('of ', e.repo_name, ':', e.path)
            WHEN n.row IS NOT NULL THEN concat('of ', k.repo_name, ':', k.path)
            WHEN g.quality_rule IS NOT NULL THEN g.quality_reason
            WHEN g.language NOT IN (SELECT * FROM selected) AND g.kind = 'source'
                AND string_split(g.path, '/')[-1] NOT IN (SELECT * FROM selected)
                THEN concat(g.language, ' is not in the small selection')
        END AS reason,
        CASE WHEN u.is_copy THEN u.kept_row ELSE n.kept_row END AS duplicate_of
    FROM gated g
    LEFT JOIN unique_files u ON u.row = g.row
    LEFT JOIN files e ON e.row = u.kept_row
    LEFT JOIN near n ON n.row = g.row
    LEFT JOIN files k ON k.row = n.kept_row
"""
# In an order that the content alone decides, until a language has what its cap allows.
DECIDED = """
    COPY (
        SELECT row, detected_licenses, license_type, duplicate_of,
            CASE WHEN rule IS NOT NULL OR taken > cap THEN 'drop' ELSE 'keep' END AS verdict,
            CASE WHEN rule IS NULL AND taken > cap THEN 'cap' ELSE rule END AS rule,
            CASE WHEN rule IS NULL AND taken > cap
                THEN format('{{:,}} bytes of {{}} are enough', cap, language)
                ELSE reason END AS reason
        FROM (
            SELECT c.*, m.cap, CASE WHEN m.cap IS NOT NULL AND c.rule IS NULL THEN
                sum(length_bytes) OVER (PARTITION BY c.language, c.rule IS NULL, c.kind
                    ORDER BY sha256(content_id), row) END AS taken
            FROM chosen c LEFT JOIN caps m ON m.language = c.language AND c.kind = 'source'
        ) ORDER BY row
    ) TO '{path}' (FORMAT parquet)
"""


def decide(
    annotated: list[tuple[int, Path]],
    wanted: Decision,
    path: Path,
    spill: Path,
    shuffles: Shuffles = shuffles,
) -> None:
    """Settle licence, gates and duplicates of every annotated row; write Parquet to `path`.

    `annotated`: number of the source and path of each part, in order. Columns written: row (of the
    ledger), detected_licenses, license_type, duplicate_of, verdict, rule, reason; ordered by row.
    """
    with connect(spill) as connection:
        _read(connection, annotated)
        _opt_out(connection, wanted.opt_out)
        _licence_classes(connection)
        _extensions(connection, wanted.excluded_extensions)
        connection.execute(TREES)
        if not wanted.repository_duplicates:
            connection.execute("DELETE FROM copies")
        connection.execute(GATES, {"classes": list(wanted.classes)})
        connection.execute(ALIVE, {"whitelist": sorted(permissive_ids())})
        shuffles.best_copies(connection)
        connection.execute(UNIQUE)
        if wanted.near:
            _near(connection, wanted.near_similarity, shuffles, spill)
        else:
            connection.execute("CREATE TABLE near (row BIGINT, kept_row BIGINT)")
        _select(connection, wanted.smol)
        connection.execute(CHOSEN)
        _caps(connection, wanted.caps)
        connection.execute(DECIDED.format(path=str(path).replace("'", "''")))


def _read(connection: duckdb.DuckDBPyConnection, annotated: list[tuple[int, Path]]) -> None:
    counts = [pq.read_metadata(path).num_rows for _, path in annotated]
    firsts = np.concatenate([[0], np.cumsum(counts)])[:-1].astype(np.int64)
    names = [str(path) for _, path in annotated]
    parts = pa.table(  # noqa: F841 (DuckDB finds it by name)
        {"filename": names, "source": [source for source, _ in annotated], "first": firsts}
    )
    connection.execute("CREATE TABLE parts AS SELECT * FROM parts")
    connection.execute(ROWS, {"annotated": [pattern_of(name) for name in names]})
    for step in (REPOSITORIES, NUMBERED, SAID, LICENCES):
        connection.execute(step)


def _opt_out(connection: duckdb.DuckDBPyConnection, opt_out: OptOut) -> None:
    """The table `opted_out`: row and reason of every file that a request covers."""
    connection.register("requests", opt_out.table())
    covered = COVERED.format(row="row", files="files", requests="requests")
    connection.execute(f"CREATE TABLE opted_out AS {covered}")


def _licence_classes(connection: duckdb.DuckDBPyConnection) -> None:
    """The class of each combination of licences that occurs."""
    query = "SELECT DISTINCT detected, declared FROM licensed ORDER BY ALL"
    found = connection.execute(query).fetchall()
    classes = pa.table(  # noqa: F841 (DuckDB finds it by name)
        {
            "detected": pa.array([row[0] for row in found], pa.list_(pa.string())),
            "declared": pa.array([row[1] for row in found], pa.string()),
            "license_type": pa.array([classify(row[0], row[1]) for row in found], pa.string()),
        }
    )
    connection.execute("CREATE TABLE classes AS SELECT * FROM classes")


def _extensions(connection: duckdb.DuckDBPyConnection, wanted: bool) -> None:
    query = "SELECT DISTINCT language, extension FROM files WHERE kind = 'source'"
    pairs = connection.execute(query).fetchall() if wanted else []
    out = [pair for pair in pairs if languages.excluded_extension(*pair)]
    excluded = pa.table(  # noqa: F841 (DuckDB finds it by name)
        {
            "language": pa.array([one for one, _ in out], pa.string()),
            "extension": pa.array([one for _, one in out], pa.string()),
        }
    )
    connection.execute("CREATE TABLE extensions AS SELECT * FROM excluded")


def _near(
    connection: duckdb.DuckDBPyConnection, similarity: float, shuffles: Shuffles, spill: Path
) -> None:
    """The table `near`: rows to drop, each with the row of its component that stays."""
    connection.execute(RANKED)
    rows = connection.execute("SELECT row FROM ranked ORDER BY rank").fetchnumpy()["row"]
    shared = shuffles.buckets(connection)
    held = similarity > 0 and len(shared) > 0
    compact = _signatures(connection, len(rows), spill) if held else np.empty((0, 0), np.uint8)
    best = components(links(shared, compact, similarity), len(rows))
    dropped = np.flatnonzero(best != np.arange(len(rows)))
    rows = np.asarray(rows, np.int64)
    found = pa.table({"row": rows[dropped], "kept_row": rows[best[dropped]]})  # noqa: F841
    connection.execute("CREATE TABLE near AS SELECT * FROM found")


def _signatures(connection: duckdb.DuckDBPyConnection, count: int, spill: Path) -> np.ndarray:
    """Compact signatures uint8 [count, PERMUTATIONS] by rank, in a file of the folder `spill`."""
    spill.mkdir(parents=True, exist_ok=True)
    found = np.lib.format.open_memmap(
        spill / "signatures.npy", "w+", np.uint8, (count, PERMUTATIONS)
    )
    query = "SELECT filename FROM parts ORDER BY first"
    names = [pattern_of(name) for (name,) in connection.execute(query).fetchall()]
    reader = connection.sql(SIGNATURES, params={"annotated": names}).to_arrow_reader(50_000)
    for batch in reader:
        raw = b"".join(batch["signature"].to_pylist())
        found[batch["rank"].to_numpy()] = np.frombuffer(raw, np.uint8).reshape(-1, PERMUTATIONS)
    return found


def _select(connection: duckdb.DuckDBPyConnection, smol: bool) -> None:
    """The table `selected`: languages and names of files that are taken."""
    connection.execute("CREATE TABLE selected (name VARCHAR)")
    if smol:
        chosen = pa.table({"name": sorted(languages.SMOL | SMOL_NAMES)})  # noqa: F841
        connection.execute("INSERT INTO selected SELECT name FROM chosen")
    else:
        connection.execute("INSERT INTO selected SELECT DISTINCT language FROM files")


def _caps(connection: duckdb.DuckDBPyConnection, caps: dict[str, int]) -> None:
    most = pa.table(  # noqa: F841 (DuckDB finds it by name)
        {
            "language": pa.array(list(caps), pa.string()),
            "cap": pa.array(list(caps.values()), pa.int64()),
        }
    )
    connection.execute("CREATE TABLE caps AS SELECT * FROM most")
