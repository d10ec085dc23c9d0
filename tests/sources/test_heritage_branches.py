"""Which visit and which branch of an origin a graph export gives."""

from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cairn.sources.events import METADATA_SCHEMA
from cairn.sources.origins import read_origin

from .fixtures.graph_exports import Made, fill, records, write


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
