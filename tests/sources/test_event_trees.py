"""Commits of pull requests found in git repositories, against git itself, hostile ones too."""

import subprocess
from pathlib import Path

import pytest

from cairn.sources.events import trees as trees_module

from ..fixtures.quiet_git import QUIET
from .fixtures.event_hours import A, Plain, event, pull, records, thread, write

C = "c" * 40


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=QUIET, capture_output=True, check=True
    )
    return done.stdout.decode().strip()


def commit(folder: Path, **files: str | bytes | None) -> str:
    """A commit with these files changed; `__` in a name stands for `/`, None removes."""
    for name, content in files.items():
        path = folder / name.replace("__", "/")
        if content is None:
            path.unlink()
            continue
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "--allow-empty", "-m", "x")
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """TREES/o/r with a base and two heads."""
    trees = tmp_path_factory.mktemp("trees")
    work = trees / "o" / "r"
    work.mkdir(parents=True)
    git(work, "init", "-q")
    same = {"kept": "same\n", "sub__same": "same\n"}
    (work / "link").symlink_to("kept")
    known = {
        "base": commit(
            work, **same, changed="one\ntwo\n", sub__two="é\n", gone="x\n", data=b"a\0b", mode="m\n"
        )
    }
    git(work, "update-index", "--add", "--cacheinfo", f"160000,{A},module")
    git(work, "commit", "-q", "--amend", "-m", "base")
    known["base"] = git(work, "rev-parse", "HEAD")
    (work / "link").unlink()
    (work / "link").symlink_to("changed")
    (work / "mode").chmod(0o755)
    known["one"] = commit(work, changed="one\nTWO\n", added="new\n", gone=None, data=b"a\0c")
    known["two"] = commit(work, changed="one\nTWO\nthree\n", sub__two="e\n")
    return trees, known


def pull_events(base: str, *heads: str, name: str = "o/r") -> list[Plain]:
    opened, *later = heads
    first = {"action": "opened", "pull_request": pull(base=base, head=opened)}
    made = [event("PullRequestEvent", 1, first)]
    for number, head in enumerate(later, 2):
        said = {"id": number, "body": "x", "user": {"login": "bob"}}
        payload = {"action": "created", "comment": said, "pull_request": pull(base=base, head=head)}
        made.append(event("PullRequestReviewCommentEvent", number, payload, at=str(10 + number)))
    return [{**one, "repo": {"id": 7, "name": name}} for one in made]


def test_trees(tmp_path: Path, repository: tuple[Path, dict[str, str]]):
    trees, known = repository
    hour = write(tmp_path / "h.json.gz", pull_events(known["base"], known["one"], known["two"]))
    (record,) = records(hour, f"?trees={trees}")
    found = thread(record)["trees"]
    assert found["base"] == known["base"]
    assert [head["commit"] for head in found["heads"]] == [known["one"], known["two"]]
    work = trees / "o" / "r"
    for head in found["heads"]:
        listed = git(work, "diff-tree", "-r", "--no-renames", known["base"], head["commit"])
        expected = []
        for line in listed.splitlines():
            modes_and_ids, path = line.split("\t")
            old, new, before, after, _ = modes_and_ids.lstrip(":").split()
            if "120000" in (old, new) or "160000" in (old, new) or before == after:
                continue  # links, the submodule that `add -A` took out, a change of mode
            pair = [None if set(one) == {"0"} else one for one in (before, after)]
            expected.append([path, *pair])
        assert head["files"] == expected
    paths = [[file[0] for file in head["files"]] for head in found["heads"]]
    assert paths[0] == ["added", "changed", "data", "gone"]
    assert paths[1] == ["added", "changed", "data", "gone", "sub/two"]
    texts = {
        path: [found["blobs"][blob] for blob in (before, after)]
        for path, before, after in found["heads"][1]["files"]
        if before and after
    }
    assert texts == {
        "changed": ["one\ntwo\n", "one\nTWO\nthree\n"],
        "data": [None, None],
        "sub/two": ["é\n", "e\n"],
    }


def test_folders_that_are_equal_are_not_looked_into(
    tmp_path: Path, repository: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch
):
    trees, known = repository
    monkeypatch.setattr(trees_module, "MOST_TREES", 1)
    hour = write(tmp_path / "h.json.gz", pull_events(known["base"], known["one"], known["two"]))
    (record,) = records(hour, f"?trees={trees}")
    first, second = thread(record)["trees"]["heads"]
    assert len(first["files"]) == 4
    assert "problem" in second


def test_bare_repositories_are_read(tmp_path: Path, repository: tuple[Path, dict[str, str]]):
    trees, known = repository
    bare = tmp_path / "bare" / "o" / "r.git"
    bare.parent.mkdir(parents=True)
    git(tmp_path, "clone", "-q", "--bare", str(trees / "o" / "r"), str(bare))
    hour = write(tmp_path / "h.json.gz", pull_events(known["base"], known["one"]))
    (packed,) = records(hour, f"?trees={tmp_path / 'bare'}")
    (loose,) = records(hour, f"?trees={trees}")
    assert packed == loose


def test_a_head_in_the_fork(tmp_path: Path, repository: tuple[Path, dict[str, str]]):
    trees, known = repository
    for name in ("o", "ann"):
        (tmp_path / "t" / name).mkdir(parents=True)
    git(tmp_path, "clone", "-q", "--bare", str(trees / "o" / "r"), "t/ann/r.git")
    git(tmp_path, "init", "-q", "--bare", "t/o/r")
    hour = write(tmp_path / "h.json.gz", pull_events(known["base"], known["one"]))
    (record,) = records(hour, f"?trees={tmp_path / 't'}")
    assert len(thread(record)["trees"]["heads"][0]["files"]) == 4


def test_what_cannot_be_resolved(
    tmp_path: Path, repository: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch
):
    trees, known = repository

    def problem(base: str, head: str, name: str = "o/r", **limits: int) -> str:
        hour = write(tmp_path / "h.json.gz", pull_events(base, head, name=name))
        (record,) = records(hour, f"?trees={trees}", **limits)
        (head_told,) = thread(record)["trees"]["heads"]
        assert "files" not in head_told
        return head_told["problem"]

    base, one = known["base"], known["one"]
    blob = git(trees / "o" / "r", "rev-parse", f"{base}:kept")
    assert problem(base, C) == f"commit {C} is not in the trees"
    assert problem(base, blob) == f"object {blob} is no commit"
    for name in ("o/none", "o/..", "../o", "./o"):
        assert problem(base, one, name=name) == "the repository is not in the trees"
    monkeypatch.setattr(trees_module, "MOST_CHANGES", 3)
    assert problem(base, known["two"]) == "more than 3 files differ"
    monkeypatch.undo()
    path = trees / "o" / "r" / "big"
    big = commit(trees / "o" / "r", big="x" * 400)
    bigger = commit(trees / "o" / "r", big="y" * 400)
    assert path.exists()
    assert "more than 790 bytes" in problem(big, bigger, max_bytes=790)
    monkeypatch.setattr(trees_module, "LARGEST", 399)
    hour = write(tmp_path / "h.json.gz", pull_events(big, bigger))
    (record,) = records(hour, f"?trees={trees}")
    assert set(thread(record)["trees"]["blobs"].values()) == {None}


def test_a_corrupt_repository_is_told(tmp_path: Path, repository: tuple[Path, dict[str, str]]):
    trees, known = repository
    git(tmp_path, "clone", "-q", "--no-local", str(trees / "o" / "r"), "t/o/r")
    (pack,) = (tmp_path / "t/o/r/.git/objects/pack").glob("*.pack")
    pack.chmod(0o644)
    raw = bytearray(pack.read_bytes())
    raw[40:-20] = bytes(len(raw) - 60)
    pack.write_bytes(raw)
    hour = write(tmp_path / "h.json.gz", pull_events(known["base"], known["one"]))
    (record,) = records(hour, f"?trees={tmp_path / 't'}")
    assert "problem" in thread(record)["trees"]["heads"][0]


def test_a_bomb_of_trees_ends(tmp_path: Path):
    """A few trees that hold each other many times over name more files than there are atoms."""
    work = tmp_path / "t" / "o" / "r"
    work.mkdir(parents=True)
    git(work, "init", "-q")

    def tree(lines: str) -> str:
        done = subprocess.run(
            ["git", "mktree"], cwd=work, env=QUIET, input=lines.encode(), capture_output=True
        )
        return done.stdout.decode().strip()

    (work / "f").write_text("x")
    blob = git(work, "hash-object", "-w", "f")
    node = tree("".join(f"100644 blob {blob}\t{n}\n" for n in range(10)))
    for _ in range(20):
        node = tree("".join(f"040000 tree {node}\t{n}\n" for n in range(10)))
    empty = git(work, "commit-tree", tree(""), "-m", "x")
    bomb = git(work, "commit-tree", node, "-m", "x")
    hour = write(tmp_path / "h.json.gz", pull_events(empty, bomb))
    (record,) = records(hour, f"?trees={tmp_path / 't'}")
    assert "files differ" in thread(record)["trees"]["heads"][0]["problem"]
