"""Is this in the corpus, and if not, why: ledger rows by identifier, URL, path or file."""

from pathlib import Path
from typing import Any

import duckdb

from cairn.base import UserError
from cairn.curate.corpus import LEDGER, parts_of
from cairn.sources.swhid import content_hash, parse_swhid

SHOWN = (
    "repo_name, path, 'swh:1:cnt:' || content_id AS swhid, license_type, detected_licenses, "
    "verdict, coalesce(rule, '') AS rule, coalesce(reason, '') AS reason, origin_url, "
    "coalesce(revision_id, '') AS revision_id, row"
)
KINDS = {"cnt": "content_id", "dir": "directory_id", "rev": "revision_id", "snp": "snapshot_id"}


def lookup(corpus: Path | str, query: str) -> list[dict[str, Any]]:
    """Ledger rows that a query means, in order of the ledger.

    `query`: a SWHID (with or without qualifiers); the URL of a repository or of a file in it; a
    file on disk, which is found by its content; or a path inside a repository, whole or its end.
    UserError where `corpus` is no corpus or the SWHID is none.
    """
    parts = [str(path) for path in parts_of(Path(corpus), LEDGER)]
    where, values = _condition(query)
    sql = f"SELECT {SHOWN} FROM read_parquet($ledger) WHERE {where} ORDER BY row"
    with duckdb.connect() as connection:
        found = connection.execute(sql, {"ledger": parts, **values})
        names = [column[0] for column in found.description or ()]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def _condition(query: str) -> tuple[str, dict[str, str]]:
    if query.startswith("swh:"):
        found = parse_swhid(query)
        if found.kind not in KINDS:
            raise UserError("SWHID", query, "is of a release", "look up cnt, dir, rev or snp")
        return f"{KINDS[found.kind]} = $value", {"value": found.hash}
    if "://" in query:
        address = query.rstrip("/").removesuffix(".git")
        below = "starts_with($value, origin_url || '/') AND ends_with($value, '/' || path)"
        return f"origin_url = $value OR ({below})", {"value": address}
    path = Path(query)
    if path.is_file():
        return "content_id = $value", {"value": content_hash(path.read_bytes())}
    return "path = $value OR ends_with(path, '/' || $value)", {"value": query.lstrip("/")}
