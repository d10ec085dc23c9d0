"""Repositories whose paths ask for memory: told, and the rest is read."""

import subprocess
from pathlib import Path

import pytest

from cairn.sources import checkout, read_origin


def chained(root: Path, levels: int, name: str) -> str:
    """A commit of folders in each other, each with a file; their names are all `name`."""

    def git(*arguments: str, given: str = "") -> str:
        line = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        done = subprocess.run(line, input=given, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git("init", "-q", "-b", "main")
    file = f"100644 blob {git('hash-object', '-w', '--stdin', given='x')}\tf.py\n"
    below = git("mktree", given=file)
    for _ in range(levels):
        below = git("mktree", given=f"{file}040000 tree {below}\t{name}\n")
    git("update-ref", "HEAD", git("commit-tree", below, "-m", "x"))
    return below


def test_paths_of_a_commit_that_are_too_long_to_be_any_are_told(tmp_path: Path):
    """Folders in each other name paths of the square of their number."""
    tree = chained(tmp_path, 25, "d" * 200)
    files = list(read_origin(str(tmp_path)))
    read = [one.path for one in files if one.problem is None]
    folder = "d" * 200 + "/"
    assert sorted(read) == sorted(folder * depth + "f.py" for depth in range(20))
    (told,) = (one for one in files if one.problem)
    assert "has a path of 4,2" in (told.problem or "")
    assert {one.origin.directory_id for one in files} == {tree}


def test_names_of_a_commit_of_gigabytes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(checkout, "MOST_NAMES", 20_000)
    chained(tmp_path, 15, "d" * 200)
    (record,) = read_origin(str(tmp_path))
    assert "names of more than 20,000 bytes" in (record.problem or "")
