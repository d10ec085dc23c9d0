"""Damaged sources are told by name in the ledger of a corpus that is finished all the same."""

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cairn.base import UserError
from cairn.base.make import make
from cairn.curate import Curate
from cairn.curate.corpus import read_files, read_ledger
from cairn.sources import directory


def tree(root: Path, seed: int) -> Path:
    """A project of two files that no rule drops."""
    rng = random.Random(seed)
    root.mkdir(parents=True)
    for name in ("a.py", "b.py"):
        names = [f"name_{rng.randrange(10**6)}" for _ in range(60)]
        (root / name).write_text("".join(f"{one} = call({one})\n" for one in names))
    return root


def repository(root: Path, seed: int) -> Path:
    git = ["git", "-C", str(tree(root, seed)), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *command], check=True)
    return root


def rows(batches: Iterator[pa.RecordBatch]) -> list[dict[str, Any]]:
    return [row for batch in batches for row in batch.to_pylist()]


def deep(root: Path, levels: int) -> None:
    """A folder so deep that its path is too long to be opened."""
    here = os.open(root, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d" * 200, dir_fd=here)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("lost.py", os.O_WRONLY | os.O_CREAT, dir_fd=here))
    os.close(here)


def test_a_corpus_with_damaged_sources_is_finished_and_its_ledger_names_them(tmp_path: Path):
    whole = tree(tmp_path / "whole", 1)
    packed = Path(shutil.make_archive(str(tmp_path / "cut"), "gztar", tree(tmp_path / "cut", 2)))
    packed.write_bytes(packed.read_bytes()[:-40])
    headless = repository(tmp_path / "headless", 3)
    shutil.rmtree(headless / ".git/objects")
    (headless / ".git/objects").mkdir()
    holed = repository(tmp_path / "holed", 4)
    blob = subprocess.check_output(["git", "-C", str(holed), "rev-parse", "HEAD:a.py"], text=True)
    (holed / ".git/objects" / blob[:2] / blob[2:].strip()).unlink()
    closed = tree(tmp_path / "closed", 5)
    deep(closed, 25)
    with (closed / "endless.py").open("wb") as file:
        file.truncate(directory.LARGEST + 1)
    sources = (whole, packed, headless, holed, closed)
    recipe = Curate(sources=tuple(map(str, sources)), workers=1)
    make({"corpus": recipe}, tmp_path / "runs")
    made = tmp_path / "runs" / "corpus"
    kept = {(row["repo_name"], row["path"]) for row in rows(read_files(made))}
    rest = [("holed", "b.py"), ("closed", "a.py"), ("closed", "b.py")]
    assert kept == {("whole", "a.py"), ("whole", "b.py"), *rest}
    seen = rows(read_ledger(made))
    told = {(r["repo_name"], r["path"]): r["reason"] for r in seen if r["rule"] == "unreadable"}
    assert "cut.tar.gz" in told.pop(("cut", ""))
    assert "commit" in told.pop(("headless", ""))
    assert blob.strip() in told.pop(("holed", "a.py"))
    assert "more than" in told.pop(("closed", "endless.py"))
    (((name, path), reason),) = told.items()
    assert (name, set(path) <= {"d", "/"}) == ("closed", True)
    assert "File name too long" in reason


def test_a_mistyped_source_ends_a_run_before_anything_is_read(tmp_path: Path):
    whole = tree(tmp_path / "whole", 1)
    recipe = Curate(sources=(str(whole), str(tmp_path / "nowhere")), workers=1)
    with pytest.raises(UserError, match="does not exist"):
        make({"corpus": recipe}, tmp_path / "runs")
    assert not list((tmp_path / "runs").rglob("part-*"))
