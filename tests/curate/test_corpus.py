"""The whole pipeline on a small tree made to meet every rule: folder, resumption, lookup."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cairn.base import UserError, Work, read_manifest
from cairn.base.make import make
from cairn.curate import Curate, lookup
from cairn.curate import annotate as annotate_module
from cairn.curate import pipeline as pipeline_module
from cairn.curate import reading as reading_module
from cairn.curate.corpus import FILE_COLUMNS, LEDGER_COLUMNS, read_files, read_ledger
from cairn.sources.record import Origin, SourceFile, to_batch

MIT = "SPDX-License-Identifier: MIT\n"
GPL = "GNU GENERAL PUBLIC LICENSE\nVersion 3, 29 June 2007\n"


def words(seed: int, count: int) -> str:
    rng = random.Random(seed)
    lines = [" ".join(f"name{rng.randrange(10**6)}" for _ in range(8)) for _ in range(count)]
    return "\n".join(lines) + "\n"


def plant(root: Path) -> None:
    near = words(1, 60)
    files = {
        "one/LICENSE": MIT,
        "one/main.py": "def main():\n    return 'mail jane.doe@corp-mail.io'\n",
        "one/copy.py": "def main():\n    return 'mail jane.doe@corp-mail.io'\n",
        "one/near_a.py": near,
        "one/near_b.py": near.replace("name", "name", 1) + "one_more_line = 1\n",
        "one/near_c.js": near + "of_another_language = 1\n",
        "one/data.bin": "a\0b",
        "one/empty.py": "",
        "one/notes.xyz": "unknown words",
        "one/story.txt": "plain words\n",
        "one/numbers.py": "1234567890\n" * 40,
        "one/package-lock.json": "{}\n",
        "two/COPYING": GPL,
        "two/main.py": words(2, 5),
        "two/deep/LICENSE": MIT,
        "two/deep/below.py": words(3, 5),
        "three/main.py": words(4, 5),
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "one" / "latin.py").write_bytes("# größe\nx = 'zwölf Boxkämpfer'\n".encode("latin-1"))
    (root / "one" / "link.py").symlink_to("main.py")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sources") / "tree"
    plant(root)
    return root


def build(folder: Path, *sources: Path, workers: int = 1, **fields: Any) -> Path:
    recipe = Curate(sources=tuple(str(source) for source in sources), workers=workers, **fields)
    make({"corpus": recipe}, folder)
    return folder / "corpus"


@pytest.fixture(scope="module")
def corpus(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("runs"), tree)


def rows(corpus: Path) -> dict[str, dict]:
    return {row["path"]: row for batch in read_ledger(corpus) for row in batch.to_pylist()}


def test_every_file_seen_has_a_verdict_with_its_reason(corpus: Path):
    found = {path: (row["verdict"], row["rule"]) for path, row in rows(corpus).items()}
    assert found == {
        "one/LICENSE": ("drop", "text_name"),
        "one/copy.py": ("keep", None),
        "one/data.bin": ("drop", "binary"),
        "one/empty.py": ("drop", "empty"),
        "one/latin.py": ("keep", None),
        "one/link.py": ("drop", "link"),
        "one/main.py": ("drop", "exact_duplicate"),
        "one/near_a.py": ("keep", None),
        "one/near_b.py": ("drop", "near_duplicate"),
        "one/near_c.js": ("keep", None),
        "one/notes.xyz": ("drop", "language"),
        "one/numbers.py": ("drop", "alphabetic"),
        "one/package-lock.json": ("drop", "generated"),
        "one/story.txt": ("drop", "text_name"),
        "three/main.py": ("keep", None),
        "two/COPYING": ("drop", "licence"),
        "two/deep/LICENSE": ("drop", "licence"),
        "two/deep/below.py": ("drop", "licence"),
        "two/main.py": ("drop", "licence"),
    }
    assert rows(corpus)["one/near_b.py"]["reason"] == "of tree:one/near_a.py"
    assert rows(corpus)["one/main.py"]["reason"] == "of tree:one/copy.py"


def test_licences_come_from_all_directories_above(corpus: Path):
    found = rows(corpus)
    assert found["one/copy.py"]["detected_licenses"] == ["MIT"]
    assert found["two/deep/below.py"]["detected_licenses"] == ["GPL-3.0-only", "MIT"]
    assert found["two/main.py"]["license_type"] == "non_permissive"
    assert found["three/main.py"]["license_type"] == "no_license"


def test_the_folder_has_the_columns_of_the_stack_and_rows_that_point_at_the_ledger(corpus: Path):
    part = pq.read_table(corpus / "files" / "part-00000.parquet")
    assert tuple(part.column_names) == FILE_COLUMNS
    ledger = pq.read_table(corpus / "ledger" / "part-00000.parquet")
    assert tuple(ledger.column_names) == LEDGER_COLUMNS
    assert ledger["row"].to_pylist() == list(range(ledger.num_rows))
    paths = ledger["path"].to_pylist()
    assert paths == sorted(paths)
    for batch in read_files(corpus, ["ledger_row", "path"]):
        for row in batch.to_pylist():
            assert paths[row["ledger_row"]] == row["path"]


def test_content_is_text_redacted_and_identified_by_its_bytes(corpus: Path, tree: Path):
    batches = [batch.to_pylist() for batch in read_files(corpus)]
    files = {row["path"]: row for batch in batches for row in batch}
    assert "<EMAIL>" in files["one/copy.py"]["content"]
    assert rows(corpus)["one/copy.py"]["redactions"] == "email 1"
    assert files["one/latin.py"]["content"].startswith("# größe")
    assert files["one/latin.py"]["src_encoding"] == "cp1252"
    raw = (tree / "one" / "latin.py").read_bytes()
    assert files["one/latin.py"]["blob_id"] == hashlib.sha1(raw).hexdigest()
    header = b"blob %d\0" % len(raw)
    assert files["one/latin.py"]["content_id"] == hashlib.sha1(header + raw).hexdigest()


def test_the_report_adds_up(corpus: Path):
    facts = json.loads((corpus / "report.json").read_text())
    assert facts["seen"]["files"] == 19
    dropped = sum(row["files"] for row in facts["rules"])
    assert facts["kept"]["files"] + dropped == 19
    assert facts["redactions"] == {"email": 1}
    assert [row["rule"] for row in facts["rules"]][:4] == ["link", "binary", "empty", "language"]
    kept = f"| kept | 0 | 0 | 5 | {facts['kept']['bytes']:,} |"
    last = f"| 5 | {facts['kept']['bytes']:,} |\n{kept}"
    assert last in (corpus / "report.md").read_text(), "what the last rule leaves is what is kept"
    assert not list(corpus.glob("resume"))


def test_curating_twice_gives_the_same_bytes(tree: Path, corpus: Path, tmp_path: Path):
    assert read_manifest(build(tmp_path, tree)).digest == read_manifest(corpus).digest


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


def test_order_of_sources_does_not_choose_what_stays(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.py").write_text(words(1, 60) + f"name_{name} = 1\n")
    first = build(tmp_path / "1", tmp_path / "a", tmp_path / "b")
    second = build(tmp_path / "2", tmp_path / "b", tmp_path / "a")

    def verdicts(corpus: Path) -> set[tuple[str, str]]:
        batches = [batch.to_pylist() for batch in read_ledger(corpus)]
        return {(row["repo_name"], row["verdict"]) for batch in batches for row in batch}

    assert verdicts(first) == verdicts(second) == {("a", "keep"), ("b", "drop")}


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


def test_the_most_files_are_counted_over_all_sources(tmp_path: Path):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        for number in range(3):
            seed = number + 10 * ord(name)
            (tmp_path / name / f"{number}.py").write_text(words(seed, 5))
    corpus = build(tmp_path / "runs", *(tmp_path / name for name in "abc"), max_files=4)
    seen = [(row["repo_name"], row["path"]) for b in read_ledger(corpus) for row in b.to_pylist()]
    assert seen == [("a", "0.py"), ("a", "1.py"), ("a", "2.py"), ("b", "0.py")]
    with pytest.raises(UserError, match="max_files=0: is less than one"):
        Curate(sources=("x",), max_files=0)


def test_one_hostile_file_does_not_stop_a_run(tmp_path: Path):
    (tmp_path / "tree").mkdir()
    rng = random.Random(1)
    for number, ending in enumerate(["html", "py", "c", "json", "txt", "md", "LICENSE", "h"] * 12):
        raw = rng.randbytes(rng.randrange(1, 400)).replace(b"\0", b"<![")
        (tmp_path / "tree" / f"{number}.{ending}").write_bytes(raw)
    (tmp_path / "tree" / "declared.html").write_text(
        "words and words " * 30 + "<![ <!a[ &#" + "9" * 5000
    )
    (tmp_path / "tree" / "fine.py").write_text(words(1, 9))
    found = rows(build(tmp_path / "runs", tmp_path / "tree"))
    assert len(found) == 98
    assert found["fine.py"]["verdict"] == "keep"


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


def test_lookup_by_identifier_url_path_and_file(corpus: Path, tree: Path, tmp_path: Path):
    (found,) = lookup(corpus, "one/near_b.py")
    assert (found["verdict"], found["rule"]) == ("drop", "near_duplicate")
    assert [row["path"] for row in lookup(corpus, found["swhid"])] == ["one/near_b.py"]
    same = shutil.copy(tree / "one" / "main.py", tmp_path / "elsewhere.py")
    assert {row["path"] for row in lookup(corpus, str(same))} == {"one/main.py", "one/copy.py"}
    assert len(lookup(corpus, tree.as_uri())) == 19
    assert [row["path"] for row in lookup(corpus, tree.as_uri() + "/one/near_a.py")] == [
        "one/near_a.py"
    ]
    assert len(lookup(corpus, "tree")) == 19, "the name of a repository"
    assert lookup(corpus, "no/such.py") == []
    with pytest.raises(UserError, match="is no identifier"):
        lookup(corpus, "swh:1:cnt:123")
    with pytest.raises(UserError, match="has no ledger"):
        lookup(tmp_path, "x")


def test_all_licences_may_be_kept(tree: Path, tmp_path: Path):
    classes = ("permissive", "no_license", "non_permissive")
    found = rows(build(tmp_path, tree, licenses=classes))
    assert found["two/main.py"]["verdict"] == "keep"


def test_wrong_recipes_and_empty_results_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"licenses='gpl'.*known: permissive"):
        Curate(sources=("x",), licenses=("gpl",))
    with pytest.raises(UserError, match="name nothing"):
        Curate(sources=())
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "x.bin").write_bytes(b"\0")
    with pytest.raises(UserError, match=r"leave nothing \(binary 1\)"):
        build(tmp_path / "runs", tmp_path / "only")
    assert not (tmp_path / "runs" / "corpus").exists()
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UserError, match="hold no files"):
        build(tmp_path / "runs", tmp_path / "nothing")


def test_a_mistyped_source_is_told_before_anything_is_read(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def crash(*arguments: object, **fields: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(reading_module, "read_batches", crash)
    with pytest.raises(UserError, match="mistyped': does not exist"):
        build(tmp_path, tree, tmp_path / "mistyped")
    assert not (tmp_path / "corpus").exists()


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
