"""Graph exports: the published example, a real repository written as one, mistakes, a cache."""

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
import pytest

from cairn.base import UserError
from cairn.sources.heritage import OPTIONS, read
from cairn.sources.record import EXECUTABLE, LINK, REGULAR, path_bytes
from cairn.sources.spec import parse
from cairn.sources.swhid import Entry

from .fixtures.graph_exports import SNAPSHOT, TEN, Made, fill, problems, records, write


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
