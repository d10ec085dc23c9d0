"""Runs of the pipeline that are broken off: what stands is kept, and the result is the same."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

from cairn.base import UserError, Work, read_manifest
from cairn.curate import Curate
from cairn.curate import annotate as annotate_module
from cairn.curate import pipeline as pipeline_module
from cairn.curate import reading as reading_module
from cairn.sources.record import Origin, SourceFile, to_batch

from .fixtures.planted_tree import build, words


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files for four batches."""
    root = tmp_path_factory.mktemp("many") / "tree"
    root.mkdir()
    for number in range(1600):
        (root / f"m{number:04d}.py").write_text(words(number, 12))
    return root


@pytest.fixture(scope="module")
def many_corpus(many: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("many_runs"), many)


def test_the_result_does_not_depend_on_workers(many: Path, many_corpus: Path, tmp_path: Path):
    two = build(tmp_path, many, workers=2)
    assert read_manifest(two).files == read_manifest(many_corpus).files


SCRIPT = """
import sys
from pathlib import Path
from cairn.base.make import make
from cairn.curate import Curate
if __name__ == "__main__":
    recipe = Curate(sources=(sys.argv[1],), workers=int(sys.argv[3]))
    make({"corpus": recipe}, Path(sys.argv[2]))
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_goes_on_with_the_parts_that_stand(
    many: Path, many_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, script, many, tmp_path / "killed", str(workers)]
    running = subprocess.Popen(command, start_new_session=True)
    parts = tmp_path / "killed" / "corpus" / "resume" / "read-0000"
    while running.poll() is None and not list(parts.glob("part-*.parquet")):
        time.sleep(0.002)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    stand = {path.name: path.stat().st_mtime_ns for path in parts.glob("part-*.parquet")}
    assert 1 <= len(stand) < 4
    judged: list[int] = []

    def annotate(batch: pa.RecordBatch, wanted: object) -> pa.RecordBatch:
        judged.append(batch.num_rows)
        return annotate_module.annotate(batch, wanted)  # type: ignore[arg-type]

    if workers == 1:  # a patch does not reach other processes
        monkeypatch.setattr(reading_module, "annotate", annotate)
    again = build(tmp_path / "killed", many, workers=workers)
    assert read_manifest(again).files == read_manifest(many_corpus).files
    if workers == 1:
        assert len(judged) == 4 - len(stand)


def test_parts_of_files_that_have_changed_since_are_judged_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def crash(*arguments: object) -> None:
        raise RuntimeError

    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(1010):
        (tree / f"m{number:04d}.py").write_text(words(number, 5))
    with monkeypatch.context() as patch:
        patch.setattr(pipeline_module.deciding, "decide", crash)
        with pytest.raises(RuntimeError):
            build(tmp_path / "runs", tree)
    (tmp_path / "runs" / "corpus" / "resume" / "read-0000" / "done").unlink()
    (tree / "m0001.py").write_text(words(5000, 5))
    for number in range(900, 1010):  # one part fewer
        (tree / f"m{number:04d}.py").unlink()
    again = build(tmp_path / "runs", tree)
    fresh = build(tmp_path / "fresh", tree)
    assert read_manifest(again).digest == read_manifest(fresh).digest


def test_an_interrupted_run_goes_on_with_finished_stages(
    tree: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def crash(*arguments: object, **fields: object) -> None:
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(pipeline_module, "write_group", crash)
        with pytest.raises(RuntimeError):
            build(tmp_path, tree)
    with monkeypatch.context() as patch:
        patch.setattr(reading_module, "read_batches", crash)
        patch.setattr(pipeline_module.deciding, "decide", crash)
        again = build(tmp_path, tree)
    assert read_manifest(again).digest == read_manifest(corpus).digest


def test_a_mistake_that_shows_late_loses_no_finished_work(
    tree: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def mistake(*arguments: object, **fields: object) -> None:
        raise UserError("archive", "x", "changed while it was read", "read it again")

    with monkeypatch.context() as patch:
        patch.setattr(pipeline_module, "write_group", mistake)
        with pytest.raises(UserError, match="changed while"):
            build(tmp_path, tree)
    monkeypatch.setattr(reading_module, "read_batches", mistake)
    monkeypatch.setattr(pipeline_module.deciding, "decide", mistake)
    assert read_manifest(build(tmp_path, tree)).digest == read_manifest(corpus).digest


def test_a_run_killed_while_files_are_hashed_reads_nothing_again(
    tree: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def crash(*arguments: object, **fields: object) -> None:
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr("cairn.base.make.hash_files", crash)
        with pytest.raises(RuntimeError):
            build(tmp_path, tree)
    with monkeypatch.context() as patch:
        patch.setattr(reading_module, "read_batches", crash)
        patch.setattr(pipeline_module, "write_group", crash)
        again = build(tmp_path, tree)
    assert read_manifest(again).digest == read_manifest(corpus).digest
    assert not (again / "resume").exists()


def test_parts_are_scanned_for_malware_all_or_none(tmp_path: Path):
    work = Work(tmp_path, {})
    pipeline_module._agree(work, False)
    (tmp_path / "files").mkdir()
    pipeline_module._agree(work, False)
    assert (tmp_path / "files").exists()
    pipeline_module._agree(work, True)  # ClamAV was installed meanwhile
    assert not (tmp_path / "files").exists()
    (tmp_path / "files").mkdir()
    pipeline_module._agree(work, True)
    assert (tmp_path / "files").exists()


def test_what_could_not_be_read_is_judged_anew_when_it_can_be(tmp_path: Path):
    origin = Origin(repo_name="r", origin_url="u", directory_id="d")
    known = {"origin": origin, "path": "x.c", "content_id": "c" * 40, "blob_id": "b" * 40}
    found = [
        reading_module._fingerprint(
            to_batch([SourceFile(**known, mode=0o100644, length_bytes=1, raw=raw, problem=problem)])
        )
        for raw, problem in ((None, "timed out"), (b"x", None), (b"x", None))
    ]
    assert found[0] != found[1] == found[2]


def test_other_test_sets_under_the_same_name_are_noticed(tree: Path, tmp_path: Path):
    sets = tmp_path / "sets" / "humaneval"
    sets.mkdir(parents=True)
    (sets / "a.jsonl").write_text("{}")
    recipe = Curate(sources=(str(tree),), benchmarks=str(tmp_path / "sets"))
    before = recipe.inputs()
    assert recipe.inputs() == before
    (sets / "a.jsonl").write_text("[]")
    assert recipe.inputs() != before
    (sets / "1.json").write_text("[]")
    hours = Curate(sources=(str(tree),), events=(str(tmp_path / "sets"),))
    before = hours.inputs()
    (sets / "2.json").write_text("[]")
    assert hours.inputs() != before
    with pytest.raises(UserError, match="is no folder"):
        Curate(sources=(str(tree),), benchmarks=str(tmp_path / "none")).inputs()
