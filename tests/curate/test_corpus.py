"""The whole pipeline on a small tree made to meet every rule: folder, report, lookup, refusals."""

import hashlib
import json
import random
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cairn.base import UserError, read_manifest
from cairn.curate import Curate, lookup
from cairn.curate import reading as reading_module
from cairn.curate.corpus import FILE_COLUMNS, LEDGER_COLUMNS, read_files, read_ledger

from .fixtures.planted_tree import build, rows, words


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
