"""Every form of a repository of odd files against git, by what bench/identity.py compares."""

import importlib.util
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cairn.sources import read_origin

FILES = {
    b"empty": b"",
    b"plain.py": b"print(1)\n",
    b"crlf.txt": b"one\r\ntwo\r\n",
    b"mixed.txt": b"one\r\ntwo\nthree\r",
    b"zeros": bytes(9000),
    b"latin \xe9\xff.c": b"int x;\n",
    "größe-中/ä.py".encode(): b"x = 2\n",
    b"line\nfeed\ttab": b"3",
    b'back\\slash "quoted"': b"4",
    b"a/b/c/d/e/deep": b"5",
    b"a.b": b"6",
    b"a-b": b"7",
    b"a0": b"8",
    b"$Id$.c": b"$Id$\n$Format:%H$\n",
    b".gitattributes": b"* text=auto eol=crlf ident\n*.c export-subst\na0 export-ignore\n",
    b".gitignore": b"*\n",
    b"-q": b"an option",
    b"run.sh": b"#!/bin/sh\n",
    b"bin/tool": b"\x7fELF",
    b"~": b"z",
}
LINKS = {b"link": b"plain.py", b"below/up": b"../a", b"odd": b"\xff\n", b"loop": b"loop"}
SUBMODULE = "160000,4b825dc642cb6eb9a060e54bf8d69288fbee4904,vendor/module"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    path = Path(__file__).parents[2] / "bench" / "identity.py"
    spec = importlib.util.spec_from_file_location("identity", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["identity"] = module
    spec.loader.exec_module(module)
    return module


def plant(root: Path, bench: ModuleType) -> Path:
    """FILES and LINKS, an empty folder, and a bare repository as files."""
    for name, content in FILES.items():
        path = Path(os.fsdecode(os.fsencode(root) + b"/" + name))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        if path.name in {"run.sh", "tool"}:
            path.chmod(0o755)
    for name, target in LINKS.items():
        path = Path(os.fsdecode(os.fsencode(root) + b"/" + name))
        path.parent.mkdir(exist_ok=True)
        path.symlink_to(os.fsdecode(target))
    (root / "nothing" / "below").mkdir(parents=True)
    bench.git(root, "init", "-q", "--bare", "nested.git")
    for hook in (root / "nested.git" / "hooks").iterdir():
        hook.unlink()
    return root


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, bench: ModuleType) -> Path:
    """Three commits; the last has a submodule."""
    root = plant(tmp_path_factory.mktemp("odd") / "root", bench)
    bench.git(root, "init", "-q", "-b", "trunk")
    bench.settle(root)
    bench.git(root, "add", "-f", "-A")
    bench.git(root, "commit", "-q", "-m", "first")
    bench.revise(root)
    bench.git(root, "add", "-f", "-A")
    bench.git(root, "commit", "-q", "-m", "second")
    (root / ".gitmodules").write_text('[submodule "m"]\npath = vendor/module\nurl = ../m\n')
    bench.git(root, "add", "-f", ".gitmodules")
    bench.git(root, "update-index", "--add", "--cacheinfo", SUBMODULE)
    bench.git(root, "commit", "-q", "-m", "third")
    return root


def check(bench: ModuleType, forms: list[Any], least: int) -> set[str]:
    for form in forms:
        files, wrong = bench.compare(form)
        assert (form.name, wrong) == (form.name, [])
        assert files == len(form.expected.entries) >= least
    return {form.name for form in forms}


def test_every_form_of_a_repository_is_as_git_has_it(
    bench: ModuleType, repository: Path, tmp_path: Path
):
    forms = list(bench.forms(repository, tmp_path))
    names = check(bench, forms, len(FILES) + len(LINKS) - 1)
    assert {"checkout", "bundle", "git: bare branch", "folder", "packed as zip"} <= names
    head = next(form.expected for form in forms if form.name == "checkout")
    bare = next(form.expected for form in forms if form.name == "folder")
    assert (bare.revision, bare.entries) == (None, head.entries)
    assert bare.tree != head.tree, "a submodule counts for a commit's tree alone"


def test_an_archive_is_as_git_has_what_tar_unpacks(bench: ModuleType, tmp_path: Path):
    root = plant(tmp_path / "root", bench)
    packed, work = tmp_path / "made.tar.gz", tmp_path / "work"
    work.mkdir()
    bench.run(["tar", "-C", str(root), "-czf", str(packed), "."])
    forms = list(bench.forms(packed, work))
    names = check(bench, forms, len(FILES) + len(LINKS) - 1)
    assert names >= {"archive", "checkout"}
    archive = forms[0].expected
    seen = {bench.path_text(name) for name in (*FILES, *LINKS)}
    assert seen <= {bench.path_text(name) for name in archive.entries}


def test_whatever_is_not_as_git_has_it_is_told(bench: ModuleType, repository: Path, tmp_path: Path):
    form = next(one for one in bench.forms(repository, tmp_path) if one.name == "checkout")
    expected, path = form.expected, b"a-b"
    entry = expected.entries[path]
    entries = [
        ("mode", replace(entry, mode=0o100755)),
        ("content_id", replace(entry, blob="0" * 40)),
        ("blob_id", replace(entry, sha1="0" * 40)),
        ("length", replace(entry, size=99)),
    ]
    cases = [(name, expected.entries | {path: one}, {}) for name, one in entries]
    cases += [
        ("directory_id", expected.entries, {"tree": "0" * 40}),
        ("revision_id", expected.entries, {"revision": "0" * 40}),
        ("branch_name", expected.entries, {"branch": None}),
        ("dates", expected.entries, {"dates": (None, None)}),
        ("was not read", expected.entries | {b"more": entry}, {}),
        ("is not git's", {p: e for p, e in expected.entries.items() if p != path}, {}),
    ]
    for name, entries, fields in cases:
        changed = replace(form, expected=replace(expected, entries=entries, **fields))
        _, wrong = bench.compare(changed)
        assert wrong, name
        assert any(name in one for one in wrong)


def test_modes_that_git_wrote_once_keep_the_trees_identifier(bench: ModuleType, repository: Path):
    """100664, and zeros before a folder's mode: trees of old repositories have both."""
    blob = bytes.fromhex(bench.git(repository, "rev-parse", "HEAD:plain.py").decode())
    below = bench.git(repository, "rev-parse", "HEAD:a/b").decode()
    body = b"100664 f\0" + blob + b"100775 run\0" + blob + b"040000 t\0" + bytes.fromhex(below)
    write = ("hash-object", "-w", "-t", "tree", "--literally", "--stdin")
    tree = bench.git(repository, *write, given=body).decode()
    commit = bench.git(repository, "commit-tree", tree, "-m", "old").decode()
    bench.git(repository, "branch", "-f", "old", commit)
    found = {one.path: one for one in read_origin(f"git:{repository}?branch=old")}
    assert {path: oct(one.mode) for path, one in found.items()} == {
        "f": "0o100644",
        "run": "0o100755",
        "t/c/d/e/deep": "0o100644",
    }
    assert {(one.origin.directory_id, one.origin.revision_id) for one in found.values()} == {
        (tree, commit)
    }
