"""The id-only release of a corpus: what is in it, without contents, and the way back to them.

    data/part-*.parquet        a row a file, with the columns of The Stack v2
    repositories.parquet       a row a repository, its files in a list (the training sets' form)
    language_stats.csv         files and bytes by language
    README.md                  the data card

Contents come back by `cairn make` with the source `ids:FOLDER?objects=LOCATION`, from an object
store that knows blobs by SHA-1 (Software Heritage's, for what it has archived), or with
`from=SOURCE`, out of a source that is read again. Both are checked against the identifiers.
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from cairn.base import Manifest, Work, pattern_of, read_manifest, write_text
from cairn.curate.corpus import FILE_SCHEMA, STACK_SCHEMA, parts_of
from cairn.release.cards import markdown_table

if TYPE_CHECKING:
    from cairn.release import ReleaseIdentifiers

DATES = ("visit_date", "revision_date", "committer_date", "gha_event_created_at", "gha_created_at")
IDENTIFIERS = pa.schema(
    [
        pa.field(field.name, pa.timestamp("us", "UTC")) if field.name in DATES else field
        for field in STACK_SCHEMA
    ]
    + [("origin_url", pa.string()), ("kind", pa.string())]
)
_SHARED = (
    "repo_name", "origin_url", "snapshot_id", "revision_id", "directory_id", "branch_name",
    "visit_date", "revision_date", "committer_date", "github_id", "star_events_count",
    "fork_events_count", "gha_license_id", "gha_created_at", "gha_language",
)  # fmt: skip
_OF_FILES = tuple(name for name in IDENTIFIERS.names if name not in _SHARED)
REPOSITORIES = f"""
    COPY (
        SELECT {", ".join(_SHARED)},
            list(struct_pack({", ".join(f"{name} := {name}" for name in _OF_FILES)})
                ORDER BY path, kind) AS files,
            count(*) AS num_files
        FROM read_parquet($parts, hive_partitioning = false)
        GROUP BY ALL ORDER BY {", ".join(_SHARED)}
    ) TO '{{path}}' (FORMAT parquet, COMPRESSION zstd)
"""
LANGUAGES = """
    SELECT language, count(*) AS files, sum(length_bytes)::BIGINT AS bytes
    FROM read_parquet($parts, hive_partitioning = false)
    GROUP BY language ORDER BY bytes DESC, language
"""


def release_identifiers(recipe: "ReleaseIdentifiers", work: Work) -> dict[str, Any]:
    """Fill `work.out`; returns facts."""
    corpus = work.input(recipe.corpus)
    with work.part("data") as folder:
        folder.mkdir()
        for number, table in enumerate(_parts(corpus)):
            path = folder / f"part-{number:05d}.parquet"
            pq.write_table(table, path, compression="zstd")
    parts = [pattern_of(path) for path in sorted((work.out / "data").glob("*.parquet"))]
    with duckdb.connect(config={"temp_directory": str(work.out / ".spill")}) as connection:
        with work.part("repositories.parquet") as path:
            target = str(path).replace("'", "''")
            connection.execute(REPOSITORIES.format(path=target), {"parts": parts})
        languages = connection.execute(LANGUAGES, {"parts": parts}).fetchall()
        total = connection.execute(
            "SELECT count(*), count(DISTINCT (repo_name, origin_url)), sum(length_bytes)::BIGINT "
            "FROM read_parquet($parts, hive_partitioning = false)",
            {"parts": parts},
        ).fetchall()[0]
    with work.part("language_stats.csv") as path, path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("language", "files", "bytes"))
        writer.writerows(languages)
    facts = {"files": total[0], "repositories": total[1], "bytes": total[2]}
    card = _card(recipe.title, read_manifest(corpus), facts, languages)
    write_text(work.out / "README.md", card)
    return facts


def _parts(corpus: Path) -> Iterator[pa.Table]:
    """A table for each part of the corpus, without contents."""
    columns = [name for name in FILE_SCHEMA.names if name not in {"content", "ledger_row"}]
    for part in parts_of(corpus, "files"):
        table = pq.read_table(part, columns=columns)
        yield table.select(IDENTIFIERS.names).cast(IDENTIFIERS)


def _card(
    title: str, manifest: Manifest, facts: dict[str, Any], languages: list[tuple[Any, ...]]
) -> str:
    rows = [{"language": name or "(none)", "files": n, "bytes": b} for name, n, b in languages]
    settings = [
        {"field": key, "value": str(value)}
        for key, value in manifest.recipe.items()
        if key not in {"kind", "sources"}
    ]
    columns = ("license_type", "files", "bytes")  # manifests have them by name
    licences = [{key: row[key] for key in columns} for row in manifest.facts.get("licences", [])]
    return "\n".join(
        [
            f"# {title}\n",
            f"{facts['files']:,} files of {facts['repositories']:,} repositories, "
            f"{facts['bytes']:,} bytes, by their identifiers; no contents.\n",
            "`content_id` is the hash of a Software Heritage identifier (`swh:1:cnt:`), "
            "`directory_id` of `swh:1:dir:`, `revision_id` of `swh:1:rev:`, `snapshot_id` of "
            "`swh:1:snp:`. `blob_id` is the plain SHA-1 of the bytes, by which object stores "
            "know them; decode by `src_encoding`.\n",
            "## Contents\n",
            "```sh\ncairn make PLAN corpus "
            "'corpus.sources=ids:THIS_FOLDER?objects=s3://softwareheritage/content'\n```\n",
            "Each file keeps its own licence; `license_type` is what a rule-based scan found, and "
            "no legal advice. Authors can ask to be left out: run again with `opt_out`.\n",
            "## Licences\n",
            markdown_table(licences),
            "## Languages\n",
            markdown_table(rows),
            "## Curation\n",
            f"{manifest.headline}; corpus {manifest.digest[:16]}.\n",
            markdown_table(settings),
        ]
    )
