"""Graph exports: the published example, a real repository written as one, and damage."""

import csv
import gzip
import hashlib
import io
import random
import subprocess
from base64 import b64decode
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.orc as orc
import pyarrow.parquet as pq
import pytest

from cairn.base import UserError
from cairn.sources.events import METADATA_SCHEMA
from cairn.sources.heritage import OPTIONS, read, walk
from cairn.sources.origins import read_origin
from cairn.sources.record import EXECUTABLE, LINK, REGULAR, SourceFile, path_bytes
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


def test_the_published_example(data_folder: Path) -> None:
    """What is read equals a walk over the same graph as it is published in CSV."""
    root = data_folder / "swh_graph_example"
    if not root.is_dir():
        pytest.skip("no example of a graph export")
    links: dict[str, list[list[str]]] = {}
    for path in sorted((root / "edges").glob("*/*.edges.csv.zst")):
        text = pa.input_stream(str(path), compression="zstd").read().decode()
        for line in csv.reader(io.StringIO(text), delimiter=" "):
            links.setdefault(line[0], []).append(line[1:])

    def below(folder: str, inside: bytes) -> list[tuple[bytes, str]]:
        found = []
        for target, label, *_ in links.get(folder, []):
            path = inside + b64decode(label)
            if target.startswith("swh:1:dir:"):
                found += below(target, path + b"/")
            else:
                found.append((path, target))
        return found

    expected = []
    for origin in (one for one in links if one.startswith("swh:1:ori:")):
        [[snapshot]] = links[origin]
        heads = {b64decode(label): target for target, label in links[snapshot]}
        revision = heads[b"refs/heads/master"]
        [tree] = [one for one, *_ in links[revision] if one.startswith("swh:1:dir:")]
        expected += [(origin, snapshot, revision, tree, *file) for file in sorted(below(tree, b""))]
    urls = orc.read_table(root / "orc" / "origin" / "origin-all.orc").to_pylist()
    names = {row["url"]: f"swh:1:ori:{row['id']}" for row in urls}
    found = [
        (
            names[file.origin.origin_url],
            f"swh:1:snp:{file.origin.snapshot_id}",
            f"swh:1:rev:{file.origin.revision_id}",
            f"swh:1:dir:{file.origin.directory_id}",
            path_bytes(file.path),
            f"swh:1:cnt:{file.content_id}",
        )
        for file in records(root)
    ]
    assert sorted(found) == sorted(expected)
    assert len(found) == 8
    first = records(root)[0]
    assert first.origin.branch_name == "refs/heads/master"
    assert first.origin.repo_name == "swh/graph"
    assert first.origin.visit_date == "2013-05-07T04:20:41.369271+00:00"
    assert first.origin.committer_date == "2005-03-18T14:19:10+00:00"
    assert (first.blob_id, first.length_bytes) == (f"{1:040}", 42)
    assert first.problem is not None
    assert first.problem.endswith("is not in the store"), "the example has no contents"
    # All of its branches, releases among them, against the same walk.
    tagged = records(root, "branch=refs/tags/v2.0-anonymous")
    assert [(file.path, file.content_id[-2:], file.problem) for file in tagged[1:]] == [
        ("TODO.txt", "14", f"content {14:040}: is not in the store"),
        ("old/TODO.txt", "15", "the content is absent in the archive (Not found)"),
    ]
    assert tagged[0].origin.origin_url == "https://example.com/swh/graph"
    assert "nothing at the branch refs/tags/v2.0-anonymous" in (tagged[0].problem or "")
    assert tagged[1].origin.revision_id == f"{18:040}"
    assert tagged[2].length_bytes == 404


def git(folder: Path, *command: str, **other: Any) -> bytes:
    name = ("-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "core.symlinks=true")
    call = ["git", *name, *command]
    return subprocess.run(call, cwd=folder, check=True, capture_output=True, **other).stdout


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    git(folder, "init", "-q", "-b", "trunk")
    chance = random.Random(1)
    for number in range(60):
        path = folder / "/".join(f"d{chance.randrange(4)}" for _ in range(number % 5))
        path.mkdir(parents=True, exist_ok=True)
        (path / f"f{number}.py").write_bytes(chance.randbytes(chance.randrange(900)))
    (folder / "a-file").write_bytes(b"before a/")
    (folder / "a").mkdir()
    (folder / "a" / "packed.gz").write_bytes(gzip.compress(b"itself gzip", mtime=0))
    (folder / "a.b").write_bytes(b"")
    (folder / "run").write_bytes(b"#!/bin/sh\n")
    (folder / "run").chmod(0o755)
    (folder / "link").symlink_to("run")
    bad = folder.joinpath("bad \udcff\\name\n.py")
    bad.write_bytes(b"1\n")
    (folder / "copy.py").write_bytes(b"1\n")
    git(folder, "add", "-A")
    git(folder, "update-index", "--add", "--cacheinfo", f"160000,{'b' * 40},module")
    git(folder, "commit", "-q", "-m", "first", "--date", "2001-02-03T04:05:06+0200")
    git(folder, "tag", "-a", "-m", "one", "v1")
    git(folder, "checkout", "-q", "-b", "other")
    (folder / "more.py").write_bytes(b"more\n")
    git(folder, "add", "more.py")
    git(folder, "commit", "-q", "-m", "second")
    git(folder, "tag", "-a", "-m", "of a tag", "v2", "v1")
    return folder


def exported(repository: Path) -> Made:
    """Every object of a repository as rows; HEAD is an alias of trunk."""
    made = Made()
    listing = git(repository, "cat-file", "--batch-all-objects", "--batch-check").decode()
    for name, kind, _ in map(str.split, listing.splitlines()):
        raw = git(repository, "cat-file", kind, name)
        if kind == "blob":
            assert made.blob(raw) == name
        elif kind == "tree":
            entries = []
            while raw:
                mode, _, rest = raw.partition(b" ")
                entry, _, rest = rest.partition(b"\0")
                entries.append(Entry(entry, int(mode, 8), rest[:20].hex()))
                raw = rest[20:]
            assert made.folder(entries) == name
        else:
            fields = dict(line.split(" ", 1) for line in raw.decode().split("\n\n")[0].splitlines())
            if kind == "tag":
                types = {"commit": "revision", "tag": "release"}
                row = {"id": name, "target": fields["object"]}
                made.rows["release"].append(row | {"target_type": types[fields["type"]]})
                continue
            dates = [
                datetime.fromtimestamp(int(fields[who].split()[-2]), UTC).replace(tzinfo=None)
                for who in ("author", "committer")
            ]
            row = {"id": name, "directory": fields["tree"], "date": dates[0], "type": "git"}
            made.rows["revision"].append(row | {"committer_date": dates[1]})
    made.visit()
    made.branch("HEAD", "alias", "refs/heads/trunk")
    for line in git(repository, "for-each-ref", "--format=%(refname) %(objectname)").splitlines():
        ref, name = line.decode().split()
        made.branch(ref, "release" if "tags" in ref else "revision", name)
    return made


@pytest.mark.parametrize(("files", "stripe"), [(1, 2**26), (3, 2**26), (7, 1024)])
@pytest.mark.parametrize("branch", ["", "other", "refs/tags/v1", "refs/tags/v2"])
def test_a_real_repository(
    repository: Path, tmp_path: Path, branch: str, files: int, stripe: int
) -> None:
    made = exported(repository)
    root = write(tmp_path / "export", made.rows, files, stripe)
    store = fill(tmp_path / "objects", made.contents)
    found = records(root, store + (f"&branch={branch}" if branch else ""))
    commit = git(repository, "rev-parse", f"{branch or 'trunk'}^{{commit}}").decode().strip()
    listed = git(repository, "ls-tree", "-r", "-z", commit).split(b"\0")[:-1]
    expected = []
    for line in listed:
        mode, kind, rest = line.split(b" ", 2)
        name, path = rest.split(b"\t", 1)
        if kind == b"blob":
            raw = git(repository, "cat-file", "blob", name.decode())
            expected.append((path, int(mode, 8), name.decode(), raw, len(raw)))
    assert [
        (path_bytes(one.path), one.mode, one.content_id, one.raw, one.length_bytes) for one in found
    ] == sorted(expected)
    assert {one.mode for one in found} == {REGULAR, EXECUTABLE, LINK}
    assert all(one.blob_id == hashlib.sha1(one.raw or b"").hexdigest() for one in found)
    assert problems(found) == []
    [origin] = {one.origin for one in found}
    dates = git(repository, "show", "-s", "--format=%at %ct", commit).split()[-2:]
    told = [datetime.fromtimestamp(int(date), UTC).isoformat() for date in dates]
    tree = git(repository, "rev-parse", f"{commit}^{{tree}}").decode().strip()
    ref = {"": "refs/heads/trunk", "other": "refs/heads/other"}.get(branch, branch)
    names = (ref, origin.directory_id, origin.revision_id, origin.snapshot_id)
    assert names == (origin.branch_name, tree, commit, SNAPSHOT)
    assert told == [origin.revision_date, origin.committer_date]
    assert (origin.repo_name, origin.origin_url) == ("o/r", "https://github.com/o/r")
    assert origin.visit_date == "2020-01-02T03:04:05+00:00"


def test_the_last_full_visit_counts(tmp_path: Path) -> None:
    made = Made()
    snapshots = {number: f"{number:040}" for number in range(1, 6)}
    for number, snapshot in snapshots.items():
        tree = made.tree({"visit": b"%d" % number})
        made.branch("HEAD", "revision", made.revision(tree, f"a{number:039}"), snapshot)
    made.visit(9, snapshots[1])
    made.visit(10, None, status="created")
    made.visit(10, snapshots[2], date=datetime(2021, 1, 1))
    made.visit(11, snapshots[3], status="partial", date=datetime(2022, 1, 1))
    made.visit(12, None)
    made.visit(3, snapshots[4], origin="https://me:secret@example.org/g/sub/p.git")
    made.visit(4, snapshots[5], origin="https://never.org/full", status="partial")
    found = records(write(tmp_path, made.rows, files=2), fill(tmp_path / "o", made.contents))
    assert [(one.origin.origin_url, one.raw, one.origin.visit_date) for one in found] == [
        ("https://github.com/o/r", b"2", "2021-01-01T00:00:00+00:00"),
        ("https://example.org/g/sub/p", b"4", "2020-01-02T03:04:05+00:00"),
    ]
    assert found[1].origin.repo_name == "g/sub/p"


def test_one_branch_of_each_origin(tmp_path: Path) -> None:
    """HEAD through its aliases, else main, else master; loops and ends in nothing are passed by."""
    made = Made()
    trees = {name: made.tree({"is": name.encode()}) for name in ("one", "two", "three")}
    one, two, three = (made.revision(tree, tree[::-1]) for tree in trees.values())
    tag = {"id": "c" * 40, "target": "d" * 40, "target_type": "release"}
    made.rows["release"] += [tag, {"id": "d" * 40, "target": two, "target_type": "revision"}]
    made.rows["release"].append(
        {"id": "e" * 40, "target": trees["one"], "target_type": "directory"}
    )
    main, master = "refs/heads/main", "refs/heads/master"
    cases: dict[str, tuple[list[tuple[str, str, str]], bytes | str, str | None]] = {
        "head is another": (
            [("HEAD", "revision", one), (main, "revision", two)], b"one", "HEAD"),
        "head is main": (
            [("HEAD", "revision", one), (main, "revision", one)], b"one", main),
        "three aliases": (
            [("HEAD", "alias", "a"), ("a", "alias", "b"), ("b", "alias", "refs/heads/é"),
             ("refs/heads/é", "revision", three), (main, "revision", two)], b"three",
             "refs/heads/é"),
        "a loop": (
            [("HEAD", "alias", "a"), ("a", "alias", "HEAD"), (master, "revision", two)],
            b"two", master),
        "itself": ([("HEAD", "alias", "HEAD"), (main, "revision", two)], b"two", main),
        "nothing": ([("HEAD", "alias", "gone"), (main, "revision", one)], b"one", main),
        "main first": ([(master, "revision", one), (main, "revision", two)], b"two", main),
        "a release of a release": ([("HEAD", "release", "c" * 40)], b"two", "HEAD"),
        "a release of a folder": ([("HEAD", "release", "e" * 40)], b"one", "HEAD"),
        "a folder": ([("HEAD", "directory", trees["three"])], b"three", "HEAD"),
        "only a topic": ([("refs/heads/x", "revision", one)], "nothing at HEAD, main", None),
        "only a loop": ([("HEAD", "alias", "HEAD")], "nothing at HEAD, main", None),
        "a content": ([("HEAD", "content", "1" * 40)], "is a content", "HEAD"),
        "a lost revision": ([("HEAD", "revision", "9" * 40)], "9 is not in the export", "HEAD"),
        "a lost release": ([("HEAD", "release", "8" * 40)], "8 is not in the export", "HEAD"),
    }  # fmt: skip
    for number, (case, (branches, _, _)) in enumerate(cases.items()):
        snapshot = f"{number:040}"
        made.visit(1, snapshot, origin=f"https://x.org/{case}")
        for branch in branches:
            made.branch(*branch, snapshot=snapshot)
    found = records(write(tmp_path, made.rows), fill(tmp_path / "o", made.contents))
    assert len(found) == len(cases)
    for one_found in found:
        _, expected, name = cases[one_found.origin.repo_name]
        assert one_found.origin.branch_name == name, one_found.origin.repo_name
        if isinstance(expected, bytes):
            assert one_found.raw == expected, one_found.origin.repo_name
        else:
            assert one_found.problem is not None
            assert expected in one_found.problem
            assert one_found.path == ""
    revisions = {one.origin.repo_name: one.origin.revision_id for one in found}
    assert revisions["a folder"] is None
    assert revisions["a release of a release"] == two


def test_depth_is_limited_and_told(tmp_path: Path) -> None:
    nested: dict[str, Any] = {"f": b"70"}
    for level in range(70, 0, -1):
        nested = {"f": b"%d" % level, "d": nested}
    made = Made().main(nested)
    root, store = write(tmp_path, made.rows), fill(tmp_path / "o", made.contents)
    for depth in (1, 5, 64):
        found = records(root, f"{store}&depth={depth}")
        folder = "d/" * depth
        assert problems(found) == [
            f"1 folders are deeper than {depth} levels, {folder} the first of them"
        ]
        assert len(found) == 1 + depth
        assert max((one.path for one in found), key=len) == "d/" * (depth - 1) + "f"
    assert problems(records(root, store)) == problems(found), "64 levels unless told otherwise"
    assert len(records(root, f"{store}&depth=71")) == 71
    for depth in ("0", "-1", "x", "1001", "9" * 5000):
        with pytest.raises(UserError, match="has the depth"):
            records(root, f"depth={depth}")


def test_folders_that_hold_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few folders may name billions of files, or hold themselves: nothing is joined of them."""
    made = Made()
    bomb = made.tree({"f": b"x"})
    for _ in range(12):
        bomb = made.folder([Entry(b"%d" % number, 0o40000, bomb) for number in range(10)])
    made.visit()
    made.branch("HEAD", "revision", made.revision(bomb))
    made.visit(1, "6" * 40, origin="https://x.org/good")
    tree = made.tree({"good": b"good"})
    made.branch("HEAD", "revision", made.revision(tree, "b" * 40), "6" * 40)
    monkeypatch.setattr(walk, "MOST_FILES", 10_000)
    found = records(write(tmp_path, made.rows), fill(tmp_path / "o", made.contents))
    assert [one.raw for one in found] == [None, b"good"]
    assert problems(found) == ["names 11,110 files and folders: none are read"]


def test_sizes_and_states_of_contents(tmp_path: Path) -> None:
    names = ("below", "at", "hidden", "lost", "wrong", "absent", "large", "unknown", "nothing")
    made = Made().main({name: name.encode() * 10 for name in names})
    rows = {row["sha1_git"]: row for row in made.rows["content"]}
    by = {name: rows[content_hash(name.encode() * 10)] for name in names}
    by["hidden"]["status"] = "hidden"
    made.rows["content"].remove(by["unknown"])
    for name, length in (("absent", 60), ("large", 2**40)):
        made.rows["content"].remove(by[name])
        row = by[name] | {"length": length, "status": "absent", "reason": "Content too large"}
        made.rows["skipped_content"].append(row)
    by["at"]["length"] = 10_000
    del made.contents[by["lost"]["sha1"]]
    wrong = b"another"
    by["wrong"]["sha1"] = hashlib.sha1(wrong).hexdigest()
    made.contents[by["wrong"]["sha1"]] = wrong
    store = fill(tmp_path / "o", made.contents)
    (tmp_path / "o" / f"{by['at']['sha1']}.gz").unlink()  # is not asked for
    found = records(write(tmp_path, made.rows), store, max_bytes=10_000)
    assert [one.path for one in found] == sorted(names)
    said = {one.path: (one.raw, one.problem) for one in found}
    assert said == {
        "below": (b"below" * 10, None),
        "nothing": (b"nothing" * 10, None),
        "at": (None, None),
        "large": (None, None),
        "hidden": (None, "the content is hidden in the archive"),
        "lost": (None, f"content {by['lost']['sha1']}: is not in the store"),
        "wrong": (None, "the content's bytes are not those of its identifier"),
        "absent": (None, "the content is absent in the archive (Content too large)"),
        "unknown": (None, "the content is in no table of the export"),
    }
    assert {one.path: one.length_bytes for one in found}["large"] == 2**40


def test_what_is_no_folder_or_entry(tmp_path: Path) -> None:
    made = Made().main({"a": {"lost": {"f": b"1"}, "kept": b"2"}, "x" * 5000: b"3", "z": {}})
    lost = made.tree({"f": b"1"})
    entries = made.rows["directory_entry"]
    entries[:] = [row for row in entries if row["directory_id"] != lost]
    root = made.rows["revision"][0]["directory"]
    for name in (b"..", b".", b"a/../../etc", b"/", b"", b"nul\0", b"...", b".\xff", b"..a\n"):
        target = {"type": "file", "target": made.blob(b"4"), "perms": REGULAR}
        entries.append({"directory_id": root, "name": name, **target})
    found = records(write(tmp_path, made.rows), fill(tmp_path / "o", made.contents))
    paths = [path_bytes(one.path) for one in found if one.raw is not None]
    assert paths == [b"...", b"..a\n", b".\xff", b"a/kept"]
    entries = "graph export: directory_entry/directory_entry-0.orc, stripe 0"
    assert problems(found) == [
        f"{entries}: 6 of 14 rows are damaged",
        "1 paths are too long, / the first of them",
        "1 folders are not in the export, a/lost/ the first of them",
    ]


def test_users_mistakes_are_told_before_anything_is_read(tmp_path: Path) -> None:
    made = Made().main({"f": b"1"})
    root = write(tmp_path / "export", made.rows)

    def opened(text: str) -> None:
        read(parse(text, {"swh": OPTIONS}), max_bytes=TEN)  # not one record is asked for

    for text, problem in {
        f"swh:{tmp_path / 'none'}": "is no folder",
        f"swh:{root}": "names no store of contents",
        f"swh:{root}?objects={tmp_path / 'none'}": "is no folder",
        f"swh:{root}?objects=ftp://x/y": "unknown scheme",
        f"swh:{root}?objects={root}&level=1": "unknown option 'level'",
        f"swh:{tmp_path}?objects={root}": (
            "lacks the tables origin_visit_status, snapshot_branch, revision, "
            "directory_entry, content"
        ),
    }.items():
        with pytest.raises(UserError, match=problem):
            opened(text)
    (root / "orc" / "revision" / "revision-0.orc").unlink()
    with pytest.raises(UserError, match="lacks the tables revision;"):
        opened(f"swh:{root}?objects={root}")


def test_small_exports_have_no_releases(tmp_path: Path) -> None:
    made = Made().main({"f": b"1"})
    del made.rows["release"], made.rows["skipped_content"], made.rows["origin"]
    store = fill(tmp_path / "o", made.contents)
    assert [one.raw for one in records(write(tmp_path, made.rows), store)] == [b"1"]
    assert len(records(tmp_path / "orc", store)) == 1, "the folder of the tables may be named"


def test_a_cache_makes_it_go_on(tmp_path: Path) -> None:
    made = Made().main({f"f{number}": b"%d" % number for number in range(5)})
    root, store = write(tmp_path, made.rows), fill(tmp_path / "o", made.contents)
    cache = tmp_path / "cache"
    first = records(root, f"{store}&cache={cache}")
    for path in (tmp_path / "o").iterdir():
        path.unlink()
    assert records(root, f"{store}&cache={cache}") == first
    assert problems(first) == []
    assert not [path for path in cache.iterdir() if path.name.startswith(".")], "nothing is left"


def test_damaged_files_are_told_and_the_others_read(tmp_path: Path) -> None:
    made = Made().main({f"f{number}": b"%d" % number for number in range(30)})
    root, store = write(tmp_path, made.rows, files=3), fill(tmp_path / "o", made.contents)
    whole = records(root, store)
    assert len(whole) == 30
    contents = root / "orc" / "content"
    raw = (contents / "content-1.orc").read_bytes()
    for damage in (b"", b"ORC", raw[: len(raw) // 2], raw[:-1], raw[:-9] + b"\xff" * 9):
        (contents / "content-1.orc").write_bytes(damage)
        found = records(root, store)
        told = [one.problem or "" for one in found if not one.path]
        assert len(told) == 1, damage[-20:]
        assert told[0].startswith("graph export: content/content-1.orc: ")
        assert str(tmp_path) not in told[0]
        good = [one for one in found if one.raw is not None]
        assert len(good) == 20
        assert all(one in whole for one in good)
        assert problems(found)[1:] == ["the content is in no table of the export"] * 10
    other = pa.table({"sha1": ["1" * 40]})
    orc.write_table(other, contents / "content-1.orc")
    assert "content-1.orc: lacks sha1_git, length, status" in problems(records(root, store))[0]


def test_damaged_stripes_are_told_and_the_others_read(tmp_path: Path) -> None:
    made = Made().main({f"f{number:05}": b"%d" % number for number in range(4000)})
    root = write(tmp_path, made.rows, stripe=2**14)
    path = root / "orc" / "directory_entry" / "directory_entry-0.orc"
    stripes = orc.ORCFile(path).nstripes
    assert stripes >= 3
    raw = bytearray(path.read_bytes())
    raw[100:400] = b"\xff" * 300
    path.write_bytes(raw)
    found = records(root)
    assert (found[0].problem or "").startswith(
        f"graph export: directory_entry/directory_entry-0.orc, stripe 0 of {stripes}: "
    )
    assert 0 < len(found) - 1 < 4000
    assert [one.path for one in found[1:]] == [f"f{n:05}" for n in range(4001 - len(found), 4000)]


def test_a_date_that_no_clock_shows_costs_no_revision(tmp_path: Path) -> None:
    made = Made().main({"f": b"1"})
    root, store = write(tmp_path, made.rows), fill(tmp_path / "o", made.contents)
    strange = made.rows["revision"][0] | {"date": datetime(3000, 1, 1)}
    kinds = SCHEMAS["revision"] | {"date": pa.timestamp("us")}
    rows = pa.Table.from_pylist(
        [strange, strange | {"id": "b" * 40, "date": WHEN}], pa.schema(kinds)
    )
    orc.write_table(rows, root / "orc" / "revision" / "revision-0.orc")
    told, file = records(root, store)
    assert (told.problem or "").startswith(
        "graph export: revision/revision-0.orc, stripe 0: no date can be read: "
    )
    assert file.raw == b"1"
    assert (file.origin.revision_date, file.origin.committer_date) == (
        None,
        "2020-01-02T03:04:05+00:00",
    )


def test_values_that_cannot_be_are_told(tmp_path: Path) -> None:
    """A byte that is changed inside a stripe is no error to the format."""
    made = Made().main({"f": b"1"})
    made.visit(1, origin="https://x.org/p", status="fuml")
    made.branch("refs/heads/x", "revisiom", "a" * 40)
    content = made.rows["content"][0]
    made.rows["content"].append(content | {"sha1_git": "A" * 40})
    found = records(write(tmp_path, made.rows), fill(tmp_path / "o", made.contents))
    assert problems(found) == [
        f"graph export: {name}/{name}-0.orc, stripe 0: 1 of {rows} rows are damaged"
        for name, rows in (("origin_visit_status", 2), ("snapshot_branch", 3), ("content", 2))
    ]
    assert found[-1].raw == b"1"


def test_the_branch_that_gh_archive_tells_of_goes_first(tmp_path: Path) -> None:
    """Unless it leads nowhere, or the user names another."""
    made = Made()
    for name in ("HEAD", "refs/heads/dev", "refs/heads/main"):
        tree = made.tree({"is": name.encode()})
        made.branch(name, "revision", made.revision(tree, tree[::-1]))
    told = {"known": "dev", "gone": "lost", "silent": None}
    for name in (*told, "Unknown"):
        made.visit(origin=f"https://github.com/o/{name.capitalize()}.git")
    rows = [
        {"repo_name": f"o/{name}", "origin_url": f"https://github.com/o/{name}"}
        | {"default_branch": branch}
        for name, branch in told.items()
    ]
    metadata = tmp_path / "metadata.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=METADATA_SCHEMA), metadata)
    root = write(tmp_path, made.rows)
    spec = f"swh:{root}?{fill(tmp_path / 'o', made.contents)}"
    for options, expected in (
        ("", {"Known": "refs/heads/dev", "Gone": "HEAD", "Silent": "HEAD", "Unknown": "HEAD"}),
        ("&branch=main", dict.fromkeys(("Known", "Gone", "Silent", "Unknown"), "refs/heads/main")),
    ):
        found = list(read_origin(spec + options, metadata=metadata))
        names = {one.origin.repo_name.removeprefix("o/"): one for one in found}
        assert {name: one.origin.branch_name for name, one in names.items()} == expected
        assert all(one.raw == (one.origin.branch_name or "").encode() for one in found)
