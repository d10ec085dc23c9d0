"""Requests to be left out: how they are written, and which files they cover."""

from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cairn.base import UserError
from cairn.curate.optout import COVERED, OptOut

A, B, C, D = ("0123456789abcdef"[k] * 40 for k in (10, 11, 12, 13))
ROW = {
    "repo_name": "Octo-Cat/Hello.World",
    "origin_url": "https://github.com/Octo-Cat/Hello.World",
    "content_id": A,
    "directory_id": B,
    "revision_id": C,
    "snapshot_id": D,
}


def listed(tmp_path: Path, text: str, name: str = "list.txt") -> OptOut:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return OptOut.read([tmp_path / name])


@pytest.mark.parametrize(
    "request_text",
    [
        "octo-cat",
        "Octo-Cat/hello.world",
        "octo-cat/Hello.World.git",
        "octo-cat/hello.world/",
        "https://github.com/OCTO-CAT",
        "https://www.github.com/octo-cat/hello.world.git/",
        "http://user:secret@github.com/octo-cat/hello.world",
        "git@github.com:octo-cat/hello.world.git",
        "github.com/octo-cat/hello.world",
        f"swh:1:cnt:{A}",
        f"swh:1:dir:{B};origin=https://github.com/x/y;path=/a%3Bb",
        f"swh:1:rev:{C};origin=https://example.org/a",
        f"swh:1:snp:{D}",
    ],
)
def test_every_spelling_covers(tmp_path: Path, request_text: str):
    found = listed(tmp_path, f"# who asked\n\n{request_text}  # on 1 May\n")
    assert len(found) >= 1
    reason = found.covers(ROW)
    assert reason is not None
    assert reason.endswith("is opted out")
    assert "secret" not in reason


@pytest.mark.parametrize(
    "request_text",
    [
        "octo",
        "octo-cat/hello",
        "other/hello.world",
        "https://gitlab.com/octo-cat/hello.world",
        "https://gitlab.com/octo-cat",
        f"swh:1:cnt:{B}",
        f"swh:1:rev:{A}",
    ],
)
def test_others_are_not_covered(tmp_path: Path, request_text: str):
    assert listed(tmp_path, request_text).covers(ROW) is None


def test_other_forges_and_groups(tmp_path: Path):
    row = {**ROW, "repo_name": "group/sub/name", "origin_url": "https://gitlab.com/group/sub/name"}
    for text in ("group", "https://gitlab.com/Group", "https://gitlab.com/group/sub/name.git"):
        assert listed(tmp_path, text).covers(row)
    assert not listed(tmp_path, "https://gitlab.com/group/sub").covers(row)
    plain = {"repo_name": "mine", "origin_url": "file:///home/me/mine"}
    assert listed(tmp_path, "mine").covers(plain)
    assert not listed(tmp_path, "home").covers(plain)


@pytest.mark.parametrize("quote", ['"', ""])
def test_csv_with_a_header(tmp_path: Path, quote: str):
    text = (
        "date,Username,repo,swhid\n"
        f"2026-01-01,{quote}octo-cat{quote},,\n"
        "# a remark\n"
        f"2026-01-02,,a/b,swh:1:cnt:{A}\n"
    )
    found = listed(tmp_path, text, "requests.csv")
    expected = {("owner", "octo-cat"), ("repository", "a/b"), ("content_id", A)}
    assert found.requests == expected
    assert listed(tmp_path, text, "requests.txt") == found  # a comma in the header tells, too
    one = listed(tmp_path, f"directory_id\n{B}\n", "one.csv")
    assert one.requests == {("directory_id", B)}


@pytest.mark.parametrize(
    ("text", "name", "named"),
    [
        ("octo-cat\nnot a name\n", "list.txt", r"list\.txt:2='not a name'.*owner/name"),
        ("swh:1:cnt:123\n", "list.txt", r":1='swh:1:cnt:123': is no SWHID"),
        (f"swh:1:rel:{A}\n", "list.txt", "of a release: give the revision"),
        ("https://github.com/\n", "list.txt", "is a forge and not"),
        ("https://github.com/a/b/tree/main\n", "list.txt", "page inside a repository"),
        ("# x\n\n<script>\n", "list.txt", r":3='<script>'"),
        ("date,who\n2026,me\n", "list.csv", r"list\.csv:1='date,who': is no header"),
        ("owner\na/b\n", "list.csv", r"list\.csv:2='a/b'"),
        ("content_id\nxyz\n", "list.csv", "no SHA-1 of 40 hex digits"),
    ],
)
def test_mistakes_name_file_line_and_mend(tmp_path: Path, text: str, name: str, named: str):
    with pytest.raises(UserError, match=named):
        listed(tmp_path, text, name)


def test_a_missing_or_binary_list_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"absent\.txt.*cannot be read"):
        OptOut.read([tmp_path / "absent.txt"])
    (tmp_path / "raw").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="cannot be read"):
        OptOut.read([tmp_path / "raw"])


def test_lists_add_up_and_an_empty_one_asks_nothing(tmp_path: Path):
    (tmp_path / "a").write_text("# nobody yet\n")
    (tmp_path / "b").write_text("\ufeffone/two\n", encoding="utf-8")
    assert not len(OptOut.read([tmp_path / "a"]))
    both = OptOut.read([tmp_path / "a", tmp_path / "b"])
    assert both.table().to_pylist() == [{"field": "repository", "value": "one/two"}]
    assert both.digest != OptOut.read([]).digest
    assert OptOut.read([]).table().num_rows == 0


def joined(found: OptOut, rows: list[dict[str, Any]]) -> dict[int, str]:
    files = pa.Table.from_pylist([{"row": k, **row} for k, row in enumerate(rows)])
    with duckdb.connect() as connection:
        connection.register("files", files)
        connection.register("requests", found.table())
        query = COVERED.format(files="files", row="row", requests="requests")
        return dict(connection.execute(query).fetchall())


NAMES = st.sampled_from(
    ["Octo/Cat", "octo/cat", "octo", "a/b/c", "/octo", "octo//cat", "x", "", "gitlab.com/octo/cat"]
)
URLS = st.sampled_from(
    [
        "https://GitHub.com/Octo/Cat.git",
        "https://www.github.com/octo/cat//",
        "git+ssh://git@github.com/octo/cat.git/",
        "https://gitlab.com/octo/cat",
        "https://gitlab.com/a/b/c",
        "file:///home/octo/cat",
        "https://github.com//octo/cat",
        "https://github.com/octo",
        "www.github.com/octo/cat",
        "https://github.com/a/.git",
        "",
    ]
)
REQUESTS = st.sampled_from(
    (
        "octo Octo/Cat a/b/c https://gitlab.com/octo/cat https://gitlab.com/a home x a "
        f"https://github.com/octo swh:1:cnt:{A} swh:1:snp:{B}"
    ).split()
)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.tuples(NAMES, URLS, st.sampled_from([A, B, None])), min_size=1, max_size=8),
    asked=st.lists(REQUESTS, max_size=4),
)
def test_the_join_and_the_test_of_one_row_agree(tmp_path_factory, rows, asked):
    found = listed(tmp_path_factory.getbasetemp(), "\n".join(asked))
    ids = ("content_id", "directory_id", "revision_id", "snapshot_id")
    made = [
        {"repo_name": name, "origin_url": url, **dict.fromkeys(ids[:3], A), "snapshot_id": last}
        for name, url, last in rows
    ]
    expected = {k: why for k, row in enumerate(made) if (why := found.covers(row))}
    assert joined(found, made) == expected
