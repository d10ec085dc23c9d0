"""Graph exports in the making: tables of rows, a store of contents, and what is read of them."""

import gzip
import hashlib
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.orc as orc

from cairn.sources.heritage import OPTIONS, read
from cairn.sources.record import REGULAR, SourceFile
from cairn.sources.spec import parse
from cairn.sources.swhid import Entry, content_hash, directory_hash

Rows = dict[str, list[dict[str, Any]]]
TEN = 10 * 2**20
WHEN = datetime(2020, 1, 2, 3, 4, 5)
SNAPSHOT = "5" * 40
SCHEMAS = {
    "origin": {"id": pa.string(), "url": pa.string()},
    "origin_visit_status": {
        "origin": pa.string(),
        "visit": pa.int64(),
        "date": pa.timestamp("ns"),
        "status": pa.string(),
        "snapshot": pa.string(),
        "type": pa.string(),
    },
    "snapshot_branch": {
        "snapshot_id": pa.string(),
        "name": pa.binary(),
        "target": pa.string(),
        "target_type": pa.string(),
    },
    "release": {
        "id": pa.string(),
        "name": pa.binary(),
        "target": pa.string(),
        "target_type": pa.string(),
    },
    "revision": {
        "id": pa.string(),
        "message": pa.binary(),
        "date": pa.timestamp("ns"),
        "committer_date": pa.timestamp("ns"),
        "directory": pa.string(),
        "type": pa.string(),
    },
    "directory_entry": {
        "directory_id": pa.string(),
        "name": pa.binary(),
        "type": pa.string(),
        "target": pa.string(),
        "perms": pa.int32(),
    },
    "content": {
        "sha1": pa.string(),
        "sha1_git": pa.string(),
        "length": pa.int64(),
        "status": pa.string(),
    },
    "skipped_content": {
        "sha1": pa.string(),
        "sha1_git": pa.string(),
        "length": pa.int64(),
        "status": pa.string(),
        "reason": pa.string(),
    },
}


def table(name: str, rows: list[dict[str, Any]]) -> pa.Table:
    schema = pa.schema(list(SCHEMAS[name].items()))
    return pa.Table.from_pylist([dict.fromkeys(schema.names) | row for row in rows], schema)


def write(root: Path, rows: Rows, files: int = 1, stripe: int = 64 * 2**20) -> Path:
    """An export of these rows, dealt out over some files of each table."""
    for name, several in rows.items():
        folder = root / "orc" / name
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(files):
            part = table(name, several[number::files])
            path = folder / f"{name}-{number}.orc"
            orc.write_table(part, path, stripe_size=stripe, batch_size=64, compression="zlib")
    return root


def records(root: Path, options: str = "", **limits: int) -> list[SourceFile]:
    store = "" if "objects=" in options else f"objects={root}&"
    spec = parse(f"swh:{root}?{store}{options}".rstrip("&?"), {"swh": OPTIONS})
    return list(read(spec, max_bytes=limits.get("max_bytes", TEN)))


def problems(files: list[SourceFile]) -> list[str]:
    return [file.problem for file in files if file.problem is not None]


def fill(path: Path, contents: dict[str, bytes]) -> str:
    path.mkdir(exist_ok=True)
    for name, raw in contents.items():
        (path / f"{name}.gz").write_bytes(gzip.compress(raw, 1))
    return f"objects={path}"


class Made:
    """An export in the making: `tree` adds folders and contents, `origin` a visit and a branch."""

    def __init__(self) -> None:
        self.rows: Rows = {name: [] for name in SCHEMAS}
        self.contents: dict[str, bytes] = {}

    def blob(self, raw: bytes) -> str:
        sha1, name = hashlib.sha1(raw).hexdigest(), content_hash(raw)
        if sha1 not in self.contents:
            self.contents[sha1] = raw
            row = {"sha1": sha1, "sha1_git": name, "length": len(raw), "status": "visible"}
            self.rows["content"].append(row)
        return name

    def tree(self, inside: dict[str, Any]) -> str:
        entries = []
        for name, what in inside.items():
            if isinstance(what, dict):
                entries.append(Entry(name.encode(), 0o40000, self.tree(what)))
            else:
                entries.append(Entry(name.encode(), REGULAR, self.blob(what)))
        return self.folder(entries)

    def folder(self, entries: list[Entry]) -> str:
        name = directory_hash(entries)
        if not any(row["directory_id"] == name for row in self.rows["directory_entry"]):
            kinds = {0o40000: "dir", 0o160000: "rev"}
            for entry in entries:
                row: dict[str, Any] = {"directory_id": name, "name": entry.name}
                row |= {"type": kinds.get(entry.mode, "file"), "target": entry.hash}
                self.rows["directory_entry"].append(row | {"perms": entry.mode})
        return name

    def revision(self, directory: str, name: str = "a" * 40) -> str:
        row = {"id": name, "directory": directory, "date": WHEN, "committer_date": WHEN}
        self.rows["revision"].append(row | {"type": "git"})
        return name

    def branch(self, name: str, kind: str, target: str, snapshot: str = SNAPSHOT) -> None:
        written = target.encode().hex() if kind == "alias" else target
        row = {"snapshot_id": snapshot, "name": name.encode(), "target": written}
        self.rows["snapshot_branch"].append(row | {"target_type": kind})

    def visit(self, number: int = 1, snapshot: str | None = SNAPSHOT, **other: Any) -> None:
        row = {"origin": "https://github.com/o/r", "visit": number, "date": WHEN, "type": "git"}
        self.rows["origin_visit_status"].append(
            row | {"snapshot": snapshot, "status": "full"} | other
        )

    def main(self, inside: dict[str, Any]) -> "Made":
        """An origin with this at HEAD, an alias of main."""
        self.visit()
        self.branch("HEAD", "alias", "refs/heads/main")
        self.branch("refs/heads/main", "revision", self.revision(self.tree(inside)))
        return self
