"""Graph exports that are damaged, lack objects or go too far: told, and the rest is read."""

import hashlib
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.orc as orc
import pytest

from cairn.base import UserError
from cairn.sources.heritage import walk
from cairn.sources.record import REGULAR, path_bytes
from cairn.sources.swhid import Entry, content_hash

from .fixtures.graph_exports import SCHEMAS, WHEN, Made, fill, problems, records, write


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
