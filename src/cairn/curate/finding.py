"""Is this in the corpus, and if not, why: ledger rows by identifier, URL, path or file."""

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import duckdb

from cairn.base import UserError, pattern_of
from cairn.curate.corpus import LEDGER, parts_of
from cairn.sources.record import path_text
from cairn.sources.remote import FORGES, path_name, public_url
from cairn.sources.swhid import content_hash, parse_swhid

SHOWN = (
    "repo_name, path, 'swh:1:cnt:' || content_id AS swhid, license_type, detected_licenses, "
    "verdict, coalesce(rule, '') AS rule, coalesce(reason, '') AS reason, origin_url, "
    "coalesce(revision_id, '') AS revision_id, row"
)
SSH = "git@"
HOSTS = tuple(f"{www}{host}/" for host in sorted(FORGES) for www in ("", "www."))
_WEB = re.compile(r"https?://(?:www\.)?", re.IGNORECASE)
_TREE = re.compile(r"(?<=[^/:])(?:/-)?/tree/.*$")
KINDS = {"cnt": "content_id", "dir": "directory_id", "rev": "revision_id", "snp": "snapshot_id"}


def lookup(corpus: Path | str, query: str) -> list[dict[str, Any]]:
    """Ledger rows that a query means, in order of the ledger.

    `query`: a SWHID (with or without qualifiers); the URL of a repository, of a file in it, or of
    an owner, as git or a browser shows it, in any case; the name of a repository or of its owner;
    a path inside a repository, whole or its end; or, where none of these is in the corpus, a file
    on disk, which is found by its content.
    UserError where `corpus` is no corpus, the query is empty or the SWHID is none.
    """
    if not query.strip():
        raise UserError("query", query, "is empty", "give a SWHID, a URL, a name or a path")
    parts = [pattern_of(path) for path in parts_of(Path(corpus), LEDGER)]
    with duckdb.connect() as connection:
        for where, values in _conditions(query):
            ledger = "read_parquet($ledger, hive_partitioning = false)"
            sql = f"SELECT {SHOWN} FROM {ledger} WHERE {where} ORDER BY row"
            found = connection.execute(sql, {"ledger": parts, **values})
            names = [column[0] for column in found.description or ()]
            rows = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
            if rows:
                return rows
    return []


def _conditions(query: str) -> Iterator[tuple[str, dict[str, str]]]:
    """What a query may mean, the likeliest first."""
    try:
        raw = query.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise UserError("query", query, "is no text", "give a SWHID, a URL or a path") from None
    plain = raw.decode("utf-8", "backslashreplace")  # a name on disk may be no UTF-8
    if query.startswith("swh:"):
        found = parse_swhid(query)
        if found.kind not in KINDS:
            raise UserError("SWHID", query, "is of a release", "look up cnt, dir, rev or snp")
        yield f"{KINDS[found.kind]} = $value", {"value": found.hash}
        return
    if "://" in query or query.startswith(SSH) or query.lower().startswith(HOSTS):
        yield from _of_url(plain)
        return
    for shown in dict.fromkeys((plain, path_text(raw))):  # as the ledger shows it, and as on disk
        yield "path = $value OR ends_with(path, '/' || $value)", {"value": shown.lstrip("/")}
    name = plain.rstrip("/").lower()
    owner = "starts_with(lower(repo_name), $value || '/')"
    yield f"lower(repo_name) = $value OR {owner}", {"value": name}
    path = Path(query)
    with suppress(OSError):  # a name too long for a file
        if not path.is_file():
            return
        yield "content_id = $value", {"value": content_hash(path.read_bytes())}


def _of_url(query: str) -> Iterator[tuple[str, dict[str, str]]]:
    """What a URL may mean: a repository, a file in it, a tree of it, an owner."""
    address = re.split("[?#]", query, maxsplit=1)[0].rstrip("/").removesuffix(".git")
    if "://" not in address and not address.startswith(SSH):
        address = f"https://{address}"
    address = _WEB.sub("https://", address)
    same = "lower(origin_url) = lower($value)"
    below = (
        "starts_with(lower($value), lower(origin_url) || '/') AND ends_with($plain, '/' || path)"
    )
    yield f"{same} OR ({below})", {"value": address, "plain": unquote(address)}
    found = public_url(_TREE.sub("", address))
    if found is not None and path_name(found):
        yield same, {"value": found}
        yield "starts_with(lower(origin_url), lower($value) || '/')", {"value": found}
