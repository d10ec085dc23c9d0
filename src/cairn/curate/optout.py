"""Who asked to be left out: repositories, owners and SWHIDs (StarCoder2, section 3).

A list has one request a line, `#` begins a comment; or it is CSV whose header names one of
COLUMNS. Names are compared without case, as GitHub does, and without `.git` and a last slash.

    octocat                                 all of an owner's repositories
    octocat/hello-world                     one repository, on any forge
    https://gitlab.com/group/name           one repository there; an owner where there is one name
    swh:1:cnt:..., dir, rev or snp          one content, root directory, revision or snapshot

The qualifiers of a SWHID tell where an object was seen, not which: it is left out wherever it is.
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from cairn.base import UserError
from cairn.sources.remote import FORGES, public_url
from cairn.sources.swhid import parse_swhid

HASHES = {"cnt": "content_id", "dir": "directory_id", "rev": "revision_id", "snp": "snapshot_id"}
COLUMNS = {  # of a CSV list -> what its values are
    "request": "", "repository": "", "repo": "", "repo_name": "", "url": "", "origin_url": "",
    "swhid": "", "owner": "owner", "user": "owner", "username": "owner", "organisation": "owner",
    "organization": "owner", **{name: name for name in HASHES.values()},
}  # fmt: skip
REQUESTS_SCHEMA = pa.schema([("field", pa.string()), ("value", pa.string())])
_OWNER = re.compile(r"[a-z0-9_][a-z0-9_.-]*+")
_NAME = re.compile(r"[a-z0-9_.-]++(?:/[a-z0-9_.-]++)+")
_HASH = re.compile(r"[0-9a-f]{40}")
_BEFORE = "^[a-z+]+://(?:[^/@]*@)?(?:www[.])?"  # what does not tell URLs apart
_MEND = "write owner/name, an owner, a URL or a SWHID"

# (row, field, value) of every row of {files}; {row} is the column that numbers them.
FACTS = f"""
    SELECT row, unnest(['repository', 'repository', 'owner', 'owner', 'origin_url', 'owner_url',
            'content_id', 'directory_id', 'revision_id', 'snapshot_id']) AS field,
        unnest([name, regexp_extract(address, '^[^/]+/(.+)$', 1),
            regexp_extract(name, '^([^/]+)/', 1), regexp_extract(address, '^[^/]+/([^/]+)/', 1),
            address, regexp_extract(address, '^([^/]+/[^/]+)/', 1),
            content_id, directory_id, revision_id, snapshot_id]) AS value
    FROM (SELECT {{row}} AS row, lower(repo_name) AS name, content_id, directory_id, revision_id,
        snapshot_id, rtrim(regexp_replace(rtrim(regexp_replace(lower(origin_url),
            '{_BEFORE}', ''), '/'), '[.]git$', ''), '/') AS address FROM {{files}})
"""
# (row, reason) of every row that one of {requests} covers: a table as `OptOut.table` gives it.
COVERED = f"""
    SELECT f.row, min(concat(r.field, ' ', r.value, ' is opted out')) AS reason
    FROM ({FACTS}) f JOIN {{requests}} r ON r.field = f.field AND r.value = f.value
    GROUP BY f.row
"""


@dataclass(frozen=True)
class OptOut:
    """Requests as (field, value): field is repository, owner, origin_url, owner_url or an id's."""

    requests: frozenset[tuple[str, str]]

    @classmethod
    def read(cls, paths: Sequence[Path]) -> "OptOut":
        """All lists together. UserError names file, line and value of what is no request."""
        return cls(frozenset(pair for path in paths for pair in _read(path)))

    def __len__(self) -> int:
        return len(self.requests)

    def table(self) -> pa.Table:
        """The requests in REQUESTS_SCHEMA, sorted."""
        ordered = sorted(self.requests)
        fields, values = ([pair[place] for pair in ordered] for place in (0, 1))
        return pa.table([fields, values], schema=REQUESTS_SCHEMA)

    def covers(self, row: Mapping[str, Any]) -> str | None:
        """Why a row of a ledger (repo_name, origin_url and the four ids) is out, or None."""
        found = sorted(set(_facts(row)) & self.requests)
        return min((f"{field} {value} is opted out" for field, value in found), default=None)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the requests, whatever files they stood in."""
        from cairn.base.config import digest_of

        return digest_of(sorted(map(list, self.requests)))


def _facts(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What FACTS says of one row."""
    name = (row.get("repo_name") or "").lower()
    address = _plain_address(row.get("origin_url") or "")
    host, _, path = address.partition("/")
    path = path if host else ""  # of a folder on a disk
    yield from (("repository", name), ("repository", path), ("origin_url", address))
    for whole in (name, path):
        if whole.find("/") > 0:
            yield "owner", whole.partition("/")[0]
    if path.find("/") > 0:
        yield "owner_url", "/".join(address.split("/")[:2])
    for field in HASHES.values():
        if row.get(field):
            yield field, row[field]


def _plain_address(url: str) -> str:
    """host/path in lower case, as FACTS has it."""
    bare = re.sub(_BEFORE, "", url.lower()).rstrip("/")
    return bare.removesuffix(".git").rstrip("/")


def _read(path: Path) -> Iterator[tuple[str, str]]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        problem = f"cannot be read ({error})"
        raise UserError("opt_out", str(path), problem, "give a text file of requests") from None
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    lines = [(number, line) for number, line in lines if line and not line.startswith("#")]
    if not lines:
        return
    reader = _cells if path.suffix.lower() == ".csv" or "," in lines[0][1] else _plain
    for number, column, value in reader(path, lines):
        try:
            yield from _request(value, column)
        except ValueError as error:
            where = f"opt_out {path}:{number}"
            raise UserError(where, value, str(error), _MEND) from None


def _plain(path: Path, lines: Sequence[tuple[int, str]]) -> Iterator[tuple[int, str, str]]:
    for number, line in lines:
        yield number, "", re.split(r"\s#", line, maxsplit=1)[0].strip()


def _cells(path: Path, lines: Sequence[tuple[int, str]]) -> Iterator[tuple[int, str, str]]:
    try:
        rows = list(csv.reader((line for _, line in lines), strict=True))
    except csv.Error as error:
        mend = "write a request a line, and quote cells whole"
        raise UserError("opt_out", str(path), f"is no CSV ({error})", mend) from None
    if len(rows) != len(lines):
        mend = "leave line ends out of cells"
        raise UserError("opt_out", str(path), "has a cell of several lines", mend)
    header = [cell.strip().lower() for cell in rows[0]]
    known = [name for name in header if name in COLUMNS]
    if not known:
        where = f"opt_out {path}:{lines[0][0]}"
        mend = f"name a column {', '.join(COLUMNS)}"
        raise UserError(where, lines[0][1], "is no header of a list", mend)
    for (number, _), row in zip(lines[1:], rows[1:], strict=True):
        for name, cell in zip(header, row, strict=False):
            if name in COLUMNS and cell.strip():
                yield number, COLUMNS[name], cell.strip()


def _request(text: str, column: str) -> Iterator[tuple[str, str]]:
    """What one value asks for. ValueError says why it is none."""
    if text.lower().startswith("swh:"):
        yield _identifier(text)
    elif column in HASHES.values():
        if not _HASH.fullmatch(text.lower()):
            raise ValueError("is no SHA-1 of 40 hex digits")
        yield column, text.lower()
    elif "://" in text or "@" in text or text.lower().removeprefix("www.").startswith(_HOSTS):
        yield _address(text)
    else:
        name = text.lower().strip("/").removesuffix(".git")
        if _NAME.fullmatch(name) and column != "owner":
            yield "repository", name
        elif _OWNER.fullmatch(name):
            yield "owner", name
            if column != "owner":  # a repository of no forge has a name without an owner
                yield "repository", name
        else:
            raise ValueError("names no repository and no owner")


_HOSTS = tuple(f"{host}/" for host in sorted(FORGES))


def _identifier(text: str) -> tuple[str, str]:
    core = text.partition(";")[0].lower()
    try:
        found = parse_swhid(core)
    except UserError:
        raise ValueError("is no SWHID") from None
    if found.kind not in HASHES:
        raise ValueError("is the SWHID of a release: give the revision that it names")
    return HASHES[found.kind], found.hash


def _address(text: str) -> tuple[str, str]:
    whole = text if "://" in text or "@" in text else f"https://{text}"
    address = public_url(whole)
    if address is None or "://" not in address:
        raise ValueError("is no URL of a repository or owner")
    address = _plain_address(address)
    host, _, path = address.partition("/")
    if not path:
        raise ValueError("is a forge and not a repository or owner")
    if "/" not in path:
        return ("owner", path) if host == "github.com" else ("owner_url", address)
    if host != "github.com":
        return "origin_url", address
    if path.count("/") > 1:
        raise ValueError("is a page inside a repository: name the repository")
    return "repository", path
