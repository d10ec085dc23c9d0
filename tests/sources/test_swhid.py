"""Identifiers against git itself."""

import os
import subprocess
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cairn.base import UserError
from cairn.sources import checkout, read_origin
from cairn.sources.record import path_bytes, path_text
from cairn.sources.remote import public_url
from cairn.sources.swhid import Swhid, content_hash, object_hash, parse_swhid, tree_hash

from ..fixtures.quiet_git import QUIET


def git(folder: Path, *arguments: str, given: bytes | None = None) -> str:
    command = ["git", "-c", "core.quotepath=off", *arguments]
    done = subprocess.run(command, cwd=folder, env=QUIET, input=given, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode("utf-8", "surrogateescape").strip()


def plant(root: Path) -> None:
    """Links, empty files, executable bits, odd names, bytes that are no UTF-8, git's odd order."""
    base = os.fsencode(root)
    files = {
        b"empty": b"",
        b"plain.py": b"print('hi')\n",
        b"binary\xff\xfe": b"\0\1\xff",
        b"name with  blanks\t": b"x",
        b"new\nline": b"y",
        b"back\\slash": b"z",
        "größe-中.py".encode(): "ä\n".encode("latin-1"),
        b"a/inside": b"1",
        b"a.b": b"2",
        b"a-b": b"3",
        b"a0": b"4",
        b"a/b/c/deep": b"5",
        b".hidden/.file": b"6",
        b"'quote\"": b"7",
    }
    for name, content in files.items():
        path = base + b"/" + name
        os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
        with open(path, "wb") as file:  # noqa: PTH123
            file.write(content)
    (root / "run.sh").write_bytes(b"#!/bin/sh\n")
    (root / "run.sh").chmod(0o755)
    (root / "link").symlink_to("plain.py")
    (root / "dangling").symlink_to("no/such/file")
    (root / "loop").symlink_to("loop")
    (root / "out").symlink_to("/etc/passwd")
    (root / "folder link").symlink_to("a")
    (root / "nothing" / "below").mkdir(parents=True)
    os.mkfifo(root / "pipe")


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    root.mkdir()
    plant(root)
    return root


def test_directory_equals_git_write_tree_and_contents_git_hash_object(planted: Path):
    files = list(read_origin(str(planted)))
    git(planted, "init", "-q")
    git(planted, "add", "-A", ".")
    assert files[0].origin.directory_id == git(planted, "write-tree")
    listed = git(planted, "ls-files", "-s", "-z").split("\0")
    theirs = {}
    for line in filter(None, listed):
        head, _, path = line.partition("\t")
        mode, found, _ = head.split(" ")
        theirs[path.encode("utf-8", "surrogateescape")] = (int(mode, 8), found)
    assert {path_bytes(f.path): (f.mode, f.content_id) for f in files} == theirs
    assert len(files) == 20
    for file in files:
        hashed = git(planted, "hash-object", "--stdin", given=file.raw)
        assert hashed == file.content_id


def test_checkout_gives_gits_revision_tree_branch_and_dates(planted: Path):
    plain = {file.path: file.content_id for file in read_origin(str(planted))}
    git(planted, "init", "-q", "-b", "trunk")
    git(planted, "add", "-A", ".")
    git(planted, "commit", "-q", "-m", "first")
    url = "https://user:secret@github.com/owner/name.git"
    git(planted, "remote", "add", "origin", url)
    (planted / "plain.py").write_text("not committed")
    files = list(read_origin(str(planted)))
    origin = files[0].origin
    assert origin.revision_id == git(planted, "rev-parse", "HEAD")
    assert origin.directory_id == git(planted, "rev-parse", "HEAD^{tree}")
    assert origin.branch_name == "refs/heads/trunk"
    assert origin.revision_date == "2024-01-02T01:04:05+00:00"
    assert origin.committer_date == "2024-01-02T02:04:05+00:00"
    assert origin.origin_url == "https://github.com/owner/name"
    assert origin.repo_name == "owner/name"
    assert {file.path: file.content_id for file in files} == plain


def test_bare_packed_detached_and_worktree_checkouts_are_read(planted: Path, tmp_path: Path):
    git(planted, "init", "-q", "-b", "trunk")
    git(planted, "add", "-A", ".")
    git(planted, "commit", "-q", "-m", "first")
    git(planted, "gc", "-q")
    git(planted, "pack-refs", "--all")
    git(tmp_path, "clone", "-q", "--bare", str(planted), "bare.git")
    git(planted, "worktree", "add", "-q", "--detach", str(tmp_path / "other"))
    expected = list(read_origin(str(planted)))
    for where in ("bare.git", "other"):
        files = list(read_origin(str(tmp_path / where)))
        assert [f.content_id for f in files] == [f.content_id for f in expected]
        assert files[0].origin.revision_id == expected[0].origin.revision_id
    assert files[0].origin.branch_name is None, "a detached HEAD is on no branch"


def test_a_submodule_counts_for_the_tree_and_is_not_read(tmp_path: Path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "file").write_text("x")
    git(root, "init", "-q")
    entry = "160000,1111111111111111111111111111111111111111,module"
    git(root, "update-index", "--add", "--cacheinfo", entry)
    git(root, "add", "file")
    git(root, "commit", "-q", "-m", "first")
    files = list(read_origin(str(root)))
    assert [file.path for file in files] == ["file"]
    assert files[0].origin.directory_id == git(root, "rev-parse", "HEAD^{tree}")


def test_a_repository_without_a_commit_is_refused(tmp_path: Path):
    git(tmp_path, "init", "-q")
    with pytest.raises(UserError, match="has no commit at HEAD"):
        list(read_origin(str(tmp_path)))


@pytest.mark.parametrize("kind", ["blob", "tree", "commit"])
@pytest.mark.parametrize("damage", ["gone", "junk", "swapped"])
def test_a_damaged_object_is_named(tmp_path: Path, kind: str, damage: str):
    (tmp_path / "file").write_text("x")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-q", "-m", "first")
    name = {"blob": "HEAD:file", "tree": "HEAD^{tree}", "commit": "HEAD"}[kind]
    found = git(tmp_path, "rev-parse", name)
    path = tmp_path / ".git/objects" / found[:2] / found[2:]
    path.chmod(0o644)
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(b"junk" if damage == "junk" else zlib.compress(b"blob 1\0y"))
    tree = git(tmp_path, "rev-parse", "HEAD^{tree}") if kind == "blob" else None
    (record,) = read_origin(str(tmp_path))
    assert f"{kind} {found} is missing or corrupt" in (record.problem or "")
    assert record.raw is None
    assert record.path == ("file" if kind == "blob" else "")
    if kind == "blob":  # its tree says which it should be
        assert (record.content_id, record.origin.directory_id) == (found, tree)


def test_what_is_whole_in_a_damaged_repository_is_read(tmp_path: Path):
    root = committed(tmp_path)
    for name in ("a/b/1", "a/b/2", "a/c/3", "z"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "more")
    before = {file.path: file for file in read_origin(str(root))}
    for name in ("HEAD:a/b", "HEAD:z"):
        found = git(root, "rev-parse", name)
        (root / ".git/objects" / found[:2] / found[2:]).unlink()
    after = {file.path: file for file in read_origin(str(root))}
    assert list(after) == ["a/b", "a/c/3", "file", "z"]
    assert all((after[name].problem is None) == (name in {"a/c/3", "file"}) for name in after)
    assert all(after[name] == before[name] for name in ("a/c/3", "file"))


@pytest.mark.parametrize("name", ["..", "a/b", ""])
def test_a_tree_with_names_that_are_none_is_told(tmp_path: Path, name: str):
    root = committed(tmp_path)
    blob = bytes.fromhex(git(root, "rev-parse", "HEAD:file"))
    body = b"100644 %s\0" % name.encode() + blob
    write = ("hash-object", "-w", "-t", "tree", "--literally", "--stdin")
    evil = git(root, *write, given=body)
    git(root, "update-ref", "HEAD", git(root, "commit-tree", evil, "-m", "x"))
    (record,) = read_origin(str(root))
    assert f"tree {evil}" in (record.problem or "")


def committed(root: Path) -> Path:
    root.mkdir(exist_ok=True)
    (root / "file").write_text("x")
    git(root, "init", "-q")
    git(root, "add", "file")
    git(root, "commit", "-q", "-m", "first")
    return root


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("[core]\nrepositoryformatversion = 9\n", "format that is not known here"),
        ("[core]\nrepositoryformatversion = 1\n[extensions]\nodd = true\n", "not known here"),
    ],
)
def test_a_repository_of_another_format_is_refused(tmp_path: Path, line: str, problem: str):
    with (committed(tmp_path) / ".git/config").open("a") as config:
        config.write(line)
    with pytest.raises(UserError, match=problem):
        list(read_origin(str(tmp_path)))


@pytest.mark.parametrize("head", ["", "junk", "ref: refs/heads/a", "ref: refs/heads/c"])
def test_a_damaged_head_is_told(tmp_path: Path, head: str):
    git_folder = committed(tmp_path) / ".git"
    (git_folder / "HEAD").write_text(head)
    (git_folder / "refs/heads/a").write_text("ref: refs/heads/b")
    (git_folder / "refs/heads/b").write_text("ref: refs/heads/a")
    (git_folder / "refs/heads/c").write_text("")  # what a crash leaves
    (record,) = read_origin(str(tmp_path))
    assert record.path == ""
    assert "reference" in (record.problem or "")


def test_a_damaged_configuration_is_told(tmp_path: Path):
    with (committed(tmp_path) / ".git/config").open("a") as config:
        config.write("[[[\n")
    (record,) = read_origin(str(tmp_path))
    assert "missing or corrupt" in (record.problem or "")


def test_what_a_repositorys_configuration_includes_is_not_read(tmp_path: Path):
    root = committed(tmp_path / "root")
    (tmp_path / "other").write_text('[remote "origin"]\nurl = https://github.com/not/ours\n')
    git(root, "config", "include.path", str(tmp_path / "other"))
    assert next(read_origin(str(root))).origin.origin_url == root.as_uri()


def test_trees_that_hold_each_other_many_times_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    root = committed(tmp_path)
    tree = git(root, "rev-parse", "HEAD^{tree}")
    for _ in range(9):  # 10 ** 9 files in ten objects
        lines = "".join(f"040000 tree {tree}\t{name}\n" for name in range(10))
        tree = git(root, "mktree", given=lines.encode())
    git(root, "update-ref", "HEAD", git(root, "commit-tree", tree, "-m", "bomb"))
    monkeypatch.setattr(checkout, "MOST_FILES", 1000)
    (record,) = read_origin(str(root))
    assert "more than 1,000 files and folders" in (record.problem or "")


def test_a_time_that_is_no_date_is_left_out(tmp_path: Path):
    root = committed(tmp_path)
    tree = git(root, "rev-parse", "HEAD^{tree}")
    person = "a <a@example.org> 99999999999999 +0000"
    body = f"tree {tree}\nauthor {person}\ncommitter {person}\n\nx\n".encode()
    commit = git(root, "hash-object", "-w", "-t", "commit", "--literally", "--stdin", given=body)
    git(root, "update-ref", "HEAD", commit)
    origin = next(read_origin(str(root))).origin
    assert (origin.revision_id, origin.revision_date) == (object_hash("commit", body), None)
    assert origin.revision_id == commit


PUBLIC = [
    ("https://user:secret@host/o/n.git", "https://host/o/n"),
    ("https://user:se@cret@host/o/n", "https://host/o/n"),
    ("HTTPS://secret@host/o/n", "https://host/o/n"),
    ("https://host:8443/o/n.git/?token=secret#secret", "https://host:8443/o/n"),
    ("https://user:secret/more@host/o/n", None),
    ("https://user:12/secret@host/o/n", None),
    ("ssh://me:secret@host:22/o/n.git", "https://host/o/n"),
    ("git://me:secret@host/o/n", "https://host/o/n"),
    ("git+https://secret@github.com/o/n", "https://github.com/o/n"),
    ("git@github.com:o/n.git", "https://github.com/o/n"),
    ("secret@github.com:o/n", "https://github.com/o/n"),
    ("me:secret@github.com:o/n", "https://github.com/o/n"),
    ("ext::sh -c secret", None),
    ("s3://secret@bucket/n", None),
    ("../n", "../n"),
    ("/srv/git/n.git", "/srv/git/n.git"),
]


@pytest.mark.parametrize(("url", "expected"), PUBLIC)
def test_urls_lose_their_secrets(url: str, expected: str | None):
    assert public_url(url) == expected
    assert "secret" not in (expected or "")


def test_a_repository_with_sha256_names_is_refused(tmp_path: Path):
    git(tmp_path, "init", "-q", "--object-format=sha256")
    (tmp_path / "file").write_text("x")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-q", "-m", "first")
    with pytest.raises(UserError, match="which are no SWHIDs"):
        list(read_origin(str(tmp_path)))


NAMES = st.binary(min_size=1, max_size=3).filter(
    lambda b: not set(b) & {0, 0x2F} and b not in (b".", b"..") and b.lower() != b".git"
)


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(NAMES, st.dictionaries(NAMES, st.binary(max_size=4)) | st.binary(), max_size=6)
)
def test_any_tree_equals_git_mktree(tmp_path_factory: pytest.TempPathFactory, tree):
    folder = tmp_path_factory.getbasetemp() / "objects"
    if not folder.exists():
        folder.mkdir()
        git(folder, "init", "-q")
    flat, lines = [], []
    for name, value in tree.items():
        if isinstance(value, bytes):
            flat.append((name, 0o100644, content_hash(value)))
            lines.append(b"100644 blob %s\t%s" % (content_hash(value).encode(), name))
        elif value:
            inner = [(n, 0o100755, content_hash(v)) for n, v in value.items()]
            flat += [(name + b"/" + n, mode, found) for n, mode, found in inner]
            lines.append(b"040000 tree %s\t%s" % (tree_hash(inner).encode(), name))
    expected = git(folder, "mktree", "-z", "--missing", given=b"".join(x + b"\0" for x in lines))
    assert tree_hash(flat) == expected


@given(st.binary().filter(lambda b: b"\0" not in b))
def test_paths_go_to_text_and_back(path: bytes):
    text = path_text(path)
    text.encode("utf-8")
    assert path_bytes(text) == path


def test_identifiers_are_parsed_and_written():
    text = "swh:1:cnt:" + "a" * 40 + ";origin=https://x.org/a%3Bb;path=/c%25d.py;lines=3-4"
    found = parse_swhid(text)
    assert found.qualifiers == {"origin": "https://x.org/a;b", "path": "/c%d.py", "lines": "3-4"}
    assert str(found) == text
    assert str(Swhid("dir", "b" * 40)) == "swh:1:dir:" + "b" * 40
    for wrong in ("swh:1:cnt:abc", "swh:2:cnt:" + "a" * 40, "swh:1:foo:" + "a" * 40, "x"):
        with pytest.raises(UserError, match="is no identifier"):
            parse_swhid(wrong)
    given = {"lines": "1", "path": "/a\udcff", "origin": "o"}
    text = "swh:1:rev:" + "c" * 40 + ";origin=o;path=/a%FF;lines=1"
    assert str(Swhid("rev", "c" * 40, given)) == text
    assert parse_swhid(text).qualifiers == given
    with pytest.raises(UserError, match="'path' twice"):
        parse_swhid("swh:1:cnt:" + "a" * 40 + ";path=/a;path=/b")


@given(st.text())
def test_any_qualifier_goes_to_text_and_back(value: str):
    text = str(Swhid("cnt", "a" * 40, {"path": value}))
    assert parse_swhid(text).qualifiers == {"path": value}


@pytest.mark.parametrize("paths", [(b"a", b"a"), (b"a", b"a/b"), (b"a/b", b"a")])
def test_no_tree_holds_a_name_twice(paths: tuple[bytes, bytes]):
    with pytest.raises(ValueError, match=r"through a file|given twice"):
        tree_hash((path, 0o100644, "0" * 40) for path in paths)
