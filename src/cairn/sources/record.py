"""SourceFile: one file with its origin typed, so that no stage can lose it."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import pyarrow as pa

REGULAR, EXECUTABLE, LINK = 0o100644, 0o100755, 0o120000
MOST_FILES = 2_000_000  # of one archive or commit, which may name far more than they hold
MOST_NAMES = 2**28  # bytes of their paths together


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a tree of files was seen: what all of its files share.

    Identifiers are 40 hex digits: directory_id git's tree, revision_id git's commit, snapshot_id
    Software Heritage's snapshot. Dates are ISO 8601 in UTC. Stars and forks are event counts.
    What begins with gha_ is GH Archive's: the last event that told of the repository, its language,
    its licence (SPDX identifier or NOASSERTION) and when it was created.
    """

    repo_name: str
    origin_url: str
    directory_id: str
    snapshot_id: str | None = None
    revision_id: str | None = None
    branch_name: str | None = None
    visit_date: str | None = None
    revision_date: str | None = None
    committer_date: str | None = None
    github_id: int | None = None
    star_events_count: int = 0
    fork_events_count: int = 0
    gha_license_id: str | None = None
    gha_language: str | None = None
    gha_event_created_at: str | None = None
    gha_created_at: str | None = None


# Kinds of records. A source file may become another kind by its name (a notebook) in curation.
SOURCE, ISSUE, PULL_REQUEST = "source", "issue", "pull_request"
NOTEBOOK_SCRIPT, NOTEBOOK = "notebook_script", "notebook"
DOCUMENTATION, INTERMEDIATE, ANSWERS, TEXT = "documentation", "intermediate", "answers", "text"
KAGGLE = "kaggle"
KINDS = (
    SOURCE, ISSUE, PULL_REQUEST, NOTEBOOK_SCRIPT, NOTEBOOK, DOCUMENTATION, INTERMEDIATE, ANSWERS,
    TEXT, KAGGLE,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """One file of an origin, or one thread, question or document of another source.

    content_id: git's blob hash (the SWHID's), hex; blob_id: plain SHA-1 of the bytes, hex.
    path: from the tree's root, `/` between names; bytes that are not UTF-8 as `\\xNN`.
    raw: the bytes, or None where they reach the reader's limit.
    src_encoding: what the origin says of them, where it says anything (Software Heritage exports
    that went through The Stack v2 do); None is found out.
    kind: what the bytes are. Those of threads and questions are canonical JSON that the reader
    made, and their content_id is its hash.
    problem: why the bytes could not be read, in one line; None where they could. Such a record
    stands for a damaged file, or with an empty path for a whole damaged source or part of one; its
    content_id is that of the path's bytes unless the true one is known.
    detected_licenses: what an origin without licence files of its own, a list of identifiers, says.
    """

    origin: Origin
    path: str
    content_id: str
    blob_id: str
    mode: int
    length_bytes: int
    raw: bytes | None
    src_encoding: str | None = None
    kind: str = SOURCE
    problem: str | None = None
    detected_licenses: tuple[str, ...] = ()


_STRINGS = (
    "repo_name",
    "origin_url",
    "directory_id",
    "snapshot_id",
    "revision_id",
    "branch_name",
    "visit_date",
    "revision_date",
    "committer_date",
)
ORIGIN_FIELDS = tuple(field.name for field in fields(Origin))

SOURCE_SCHEMA = pa.schema(
    [(name, pa.string()) for name in _STRINGS]
    + [
        ("github_id", pa.int64()),
        ("star_events_count", pa.int64()),
        ("fork_events_count", pa.int64()),
        ("gha_license_id", pa.string()),
        ("gha_language", pa.string()),
        ("gha_event_created_at", pa.string()),
        ("gha_created_at", pa.string()),
        ("path", pa.string()),
        ("content_id", pa.string()),
        ("blob_id", pa.string()),
        ("mode", pa.int32()),
        ("length_bytes", pa.int64()),
        ("raw", pa.binary()),
        ("src_encoding", pa.string()),
        ("kind", pa.string()),
        ("problem", pa.string()),
        ("detected_licenses", pa.list_(pa.string())),
    ]
)


def to_batch(files: Sequence[SourceFile]) -> pa.RecordBatch:
    """Records as one batch of SOURCE_SCHEMA."""
    columns: list[pa.Array] = []
    for field in SOURCE_SCHEMA:
        if field.name in ORIGIN_FIELDS:
            values = [getattr(file.origin, field.name) for file in files]
        else:
            values = [getattr(file, field.name) for file in files]
        columns.append(pa.array(values, field.type))
    return pa.RecordBatch.from_arrays(columns, schema=SOURCE_SCHEMA)


def path_text(path: bytes) -> str:
    """A path's bytes as text: UTF-8, and `\\xNN` for each byte that is none.

    A backslash is doubled, so that two paths never give one text. `path_bytes` goes back.
    """
    return path.replace(b"\\", b"\\\\").decode("utf-8", errors="backslashreplace")


def path_bytes(text: str) -> bytes:
    """The bytes of a path that `path_text` gave."""
    made, place = bytearray(), 0
    raw = text.encode("utf-8")
    while place < len(raw):
        if raw[place] != 0x5C:
            made.append(raw[place])
            place += 1
        elif raw[place + 1 : place + 2] == b"\\":
            made.append(0x5C)
            place += 2
        else:  # \xNN
            made.append(int(raw[place + 2 : place + 4], 16))
            place += 4
    return bytes(made)
