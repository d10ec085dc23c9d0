"""Branches, tags and bundles, against git itself."""

import os
import random
import subprocess
from pathlib import Path

import pytest

from cairn.base import UserError
from cairn.sources import read_origin
from cairn.sources.origins import check
from cairn.sources.record import SourceFile


def git(root: Path, *arguments: str) -> str:
    names = ("AUTHOR_NAME", "AUTHOR_EMAIL", "COMMITTER_NAME", "COMMITTER_EMAIL")
    environment = os.environ | {f"GIT_{name}": "x@y.z" for name in names}
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, env=environment
    ).stdout.strip()


def commit(root: Path, text: str) -> str:
    (root / "file.py").write_text(text)
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", text)
    return git(root, "rev-parse", "HEAD")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """main: two commits, the first tagged; side: one more."""
    root = tmp_path / "root"
    root.mkdir()
    git(root, "init", "-q", "-b", "main")
    for number in range(30):
        (root / f"f{number}").write_text(f"{number}\n" * 500)
    commit(root, "first")
    git(root, "tag", "-a", "v1", "-m", "one")
    git(root, "tag", "-a", "v1-again", "-m", "tag of a tag", "v1")
    commit(root, "second")
    git(root, "checkout", "-q", "-b", "feature/side")
    commit(root, "third")
    git(root, "checkout", "-q", "main")
    return root


def seen(spec: str) -> tuple[str | None, str | None, bytes | None]:
    files = {file.path: file for file in read_origin(spec)}
    assert not [file.problem for file in files.values() if file.problem]
    origin = files["file.py"].origin
    return origin.revision_id, origin.branch_name, files["file.py"].raw


@pytest.mark.parametrize("kind", ["checkout", "packed", "bare", "alternates", "bundle"])
def test_any_branch_or_tag_is_read_from_any_form_of_a_repository(
    root: Path, tmp_path: Path, kind: str
):
    path = root
    if kind == "packed":
        git(root, "gc", "-q")
    elif kind in {"bare", "alternates"}:
        path = tmp_path / "other.git"
        shared = ("--shared",) if kind == "alternates" else ()
        git(tmp_path, "clone", "-q", "--bare", *shared, str(root), str(path))
    elif kind == "bundle":
        path = tmp_path / "root.bundle"
        git(root, "bundle", "create", str(path), "HEAD", "--all")
    first, second, side = (git(root, "rev-parse", one) for one in ("v1^{}", "main", "feature/side"))
    assert seen(f"git:{path}") == (second, "refs/heads/main", b"second")
    assert seen(str(path)) == seen(f"git:{path}")
    assert seen(f"git:{path}?branch=feature/side") == (side, "refs/heads/feature/side", b"third")
    for name in ("v1", "v1-again", "refs/tags/v1"):
        revision, _, raw = seen(f"git:{path}?branch={name}")
        assert (revision, raw) == (first, b"first")
    for wrong in ("nowhere", "refs/heads/v1"):
        with pytest.raises(UserError, match="branch"):
            check(f"git:{path}?branch={wrong}")
    for file in read_origin(f"git:{path}"):
        assert git(root, "rev-parse", f"HEAD:{file.path}") == file.content_id


def test_what_is_no_repository_or_has_no_such_option_is_refused(root: Path, tmp_path: Path):
    (tmp_path / "plain").mkdir()
    for spec, problem in (
        (f"git:{tmp_path}/plain", "is no git repository"),
        (f"git:{tmp_path}/nowhere", "does not exist"),
        (f"git:{root}?depth=1", "unknown option 'depth'"),
    ):
        with pytest.raises(UserError, match=problem):
            read_origin(spec)


def test_names_of_sha256_are_refused(tmp_path: Path):
    root = tmp_path / "root"
    root.mkdir()
    git(root, "init", "-q", "--object-format=sha256")
    commit(root, "first")
    bundle = tmp_path / "x.bundle"
    git(root, "bundle", "create", str(bundle), "HEAD", "--all")
    for spec in (root, bundle):
        with pytest.raises(UserError, match="has SHA-256 names"):
            check(str(spec))


def test_a_bundle_of_several_branches_without_head_asks_for_one(root: Path, tmp_path: Path):
    bundle = tmp_path / "x.bundle"
    git(root, "bundle", "create", str(bundle), "main", "feature/side")
    with pytest.raises(UserError, match=r"no HEAD and several branches.*refs/heads/main"):
        check(str(bundle))
    assert seen(f"git:{bundle}?branch=main")[2] == b"second"
    git(root, "bundle", "create", str(bundle), "feature/side")
    assert seen(str(bundle))[1:] == ("refs/heads/feature/side", b"third")


def alone(path: Path) -> SourceFile:
    (record,) = read_origin(str(path))
    assert (record.path, record.raw, record.origin.directory_id) == ("", None, "")
    return record


def test_a_bundle_that_needs_other_commits_is_told(root: Path, tmp_path: Path):
    bundle = tmp_path / "x.bundle"
    git(root, "bundle", "create", str(bundle), "v1..main")
    problem = "bundle x.bundle: needs 1 commits that are not in it"
    assert alone(bundle).problem == problem


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_cut_bundle_is_told(root: Path, tmp_path: Path, share: float):
    bundle = tmp_path / "x.bundle"
    git(root, "bundle", "create", str(bundle), "HEAD", "--all")
    bundle.write_bytes(bundle.read_bytes()[: int(bundle.stat().st_size * share)])
    assert "x.bundle" in (alone(bundle).problem or "")


@pytest.mark.parametrize("form", ["bundle", "loose", "pack", "idx"])
def test_random_damage_is_told_or_harmless_and_never_a_traceback(
    root: Path, tmp_path: Path, form: str
):
    rng = random.Random(5)
    expected = {file.path: file.content_id for file in read_origin(str(root))}
    if form == "bundle":
        targets = [tmp_path / "x.bundle"]
        git(root, "bundle", "create", str(targets[0]), "HEAD", "--all")
    else:
        if form != "loose":
            git(root, "gc", "-q")
        pattern = "??/*" if form == "loose" else f"pack/*.{form}"
        targets = sorted((root / ".git/objects").glob(pattern))
    spec = str(targets[0] if form == "bundle" else root)
    told = 0
    for _ in range(100):
        target = rng.choice(targets)
        target.chmod(0o644)
        before = target.read_bytes()
        raw = bytearray(before)
        raw[rng.randrange(len(raw))] ^= rng.randrange(1, 256)
        target.write_bytes(raw)
        try:
            files = list(read_origin(spec))
        except UserError:  # a reference in the bundle's header
            if form != "bundle":
                raise
            continue
        finally:
            target.write_bytes(before)
        told += any(file.problem for file in files)
        whole = {file.path: file.content_id for file in files if not file.problem}
        assert whole.items() <= expected.items()
        assert whole == expected or told
    assert told > (5 if form == "idx" else 10)
    assert {file.path: file.content_id for file in read_origin(spec)} == expected
