"""Programs as a source: folders and archives by extension, tables by columns, sound and damaged."""

import gzip
import json
import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cairn.base import UserError
from cairn.curate.intermediate.document import EXTENSIONS, language_of
from cairn.sources import programs
from cairn.sources.origins import read_origin
from cairn.sources.record import INTERMEDIATE, SourceFile
from cairn.sources.spec import parse
from cairn.sources.swhid import content_hash

ROWS = [
    {"language": "GNU C++17 (64)", "code": "int main() {}\n"},
    {"language": "Kotlin", "code": "fun main() {}\n"},
    {"language": "rust", "code": "fn main() { /* größer */ }\n"},
]


def read(text: str, max_bytes: int = 1000) -> list[SourceFile]:
    spec = parse(f"pairs:{text}", {"pairs": programs.OPTIONS})
    return list(programs.read(spec, max_bytes=max_bytes, source=read_origin))


def lines(path: Path, rows: list[dict] | list[str]) -> Path:
    told = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    raw = "".join(line + "\n" for line in told).encode()
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(raw))
    elif path.suffix == ".zst":
        with pa.output_stream(path, compression="zstd") as file:
            file.write(raw)
    else:
        path.write_bytes(raw)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "rosetta"
    (root / "Sieve" / "C").mkdir(parents=True)
    (root / "Sieve" / "C" / "sieve.c").write_text("int main(void) { return 0; }\n")
    (root / "Sieve" / "sieve.RS").write_text("fn main() {}\n")
    (root / "README.md").write_text("# Tasks\n")
    (root / "rs").write_text("no program\n")
    (root / "link.c").symlink_to("rs")
    return root


def test_a_folder_gives_what_compilers_know(folder: Path) -> None:
    files = read(str(folder))
    assert [file.path for file in files] == ["Sieve/C/sieve.c", "Sieve/sieve.RS"]
    assert {file.kind for file in files} == {INTERMEDIATE}
    assert files[1].raw == b"fn main() {}\n"
    assert files[0].detected_licenses == ()
    assert {one.detected_licenses for one in read(f"{folder}?licence=MIT")} == {("MIT",)}


def test_an_archive_is_read_as_its_folder(folder: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(folder, "rosetta")
    files = read(str(tmp_path / "a.tar.gz"))
    assert [file.path.rpartition("/")[2] for file in files] == ["sieve.c", "sieve.RS"]
    assert {file.kind for file in files} == {INTERMEDIATE}


def test_damage_below_is_handed_on(folder: Path) -> None:
    (folder / "gone.c").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.c")
    (folder / "damaged.tar").write_bytes(b"x")
    assert [file.path for file in read(str(folder)) if not file.problem] == [
        "Sieve/C/sieve.c",
        "Sieve/sieve.RS",
    ]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.ndjson"])
def test_lines_of_json(name: str, tmp_path: Path) -> None:
    path = lines(tmp_path / name, ROWS)
    first, second = read(f"{path}?licence=CC0-1.0&name=contest")
    assert (first.path, second.path) == (f"{name}#1.cpp", f"{name}#3.rs")
    assert second.raw == ROWS[2]["code"].encode()
    assert second.content_id == content_hash(second.raw)
    assert second.kind == INTERMEDIATE
    assert second.origin.repo_name == "contest"
    assert second.detected_licenses == ("CC0-1.0",)


def test_parquet_with_lists_in_a_column(tmp_path: Path) -> None:
    rows = [
        {"name": "a", "solutions": {"language": [2, 4, 3], "solution": ["x", "y", "print()"]}},
        {"name": "b", "solutions": {"language": [2], "solution": ["x", "z"]}},
        {"name": "c", "solutions": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    columns = "language=solutions.language&code=solutions.solution"
    files = read(f"{tmp_path}?{columns}")
    told = [(file.path, file.raw, file.problem is None) for file in files]
    assert told == [
        ("a.parquet#1.1.cpp", b"x", True),
        ("a.parquet#1.3.py", b"print()", True),
        ("a.parquet#2.1.cpp", b"x", True),
        ("a.parquet#2.2", None, False),
        ("a.parquet#3", None, False),
    ]


def test_one_language_for_a_list_of_programs(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", [{"language": "Go", "code": ["a", "b"]}])
    assert [file.path for file in read(str(path))] == ["a.jsonl#1.1.go", "a.jsonl#1.2.go"]


def test_damaged_rows_are_told_and_reading_goes_on(tmp_path: Path) -> None:
    wrong = ["{", "[1]", '{"language": "C"}', '{"code": "x"}', '{"language": "C", "code": 3}']
    wrong += ['{"language": "C", "code": "\\ud800"}', "[" * 100_000]
    good = '{"language": "C", "code": "int x;"}'
    *bad, last = read(str(lines(tmp_path / "a.jsonl", [*wrong, "", good])))
    assert [file.problem is not None for file in bad] == [True] * len(wrong)
    assert (last.path, last.raw) == ("a.jsonl#8.c", b"int x;")
    assert read(str(tmp_path / "a.jsonl"), max_bytes=6)[-1].raw is None


def test_a_long_line_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "LONGEST_LINE", 100)
    path = lines(tmp_path / "a.jsonl", ["x" * 99, "x" * 100, "y" * 950, json.dumps(ROWS[0])])
    problems = [file.problem or file.path for file in read(str(path))]
    assert problems[0].startswith("is no JSON")
    assert problems[1:3] == ["is a line of more than 100 bytes"] * 2
    assert problems[3] == "a.jsonl#4.cpp"


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_a_damaged_table_is_a_record(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "a.parquet":
        pq.write_table(pa.Table.from_pylist(ROWS * 50), path)
    else:
        lines(path, [{"language": "C", "code": os.urandom(60).hex()} for _ in range(2_000)])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    files = read(str(path))
    assert files[-1].problem is not None
    assert all(file.problem is None for file in files[:-1])


def test_users_mistakes_come_before_reading(tmp_path: Path) -> None:
    pq.write_table(pa.table({"lang": ["C"]}), tmp_path / "a.parquet")
    for text in (
        str(tmp_path / "gone"),
        str(tmp_path / "gone.jsonl"),
        "",
        f"{tmp_path}/gone?code=x",
        f"{tmp_path}/a.parquet",
        f"{tmp_path}?language=lang&code=program",
    ):
        spec = parse(f"pairs:{text}", {"pairs": programs.OPTIONS})
        with pytest.raises(UserError):
            programs.read(spec, max_bytes=10, source=read_origin)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no table"):
        read(f"{tmp_path / 'empty'}?code=x")


def test_names_that_contests_use() -> None:
    # fmt: off
    known = {
        "C++": "cpp", "cpp": "cpp", "GNU C++11": "cpp", "Clang++17 Diagnostics": "cpp",
        "C++14 (GCC 5.4.1)": "cpp", "g++": "cpp", "MS C++ 2017": "cpp", "C": "c", "GNU C11": "c",
        "C (GCC 5.4.1)": "c", "Rust (1.15.1)": "rs", "Rust 2021": "rs", "D (LDC 0.17.0)": "d",
        "Go": "go", "Objective-C": "m", "Haskell": "hs", "Fortran (gfortran v4.8.4)": "f90",
        "Python 3": "py", "Python3 (3.4.3)": "py", "PyPy 3": "py", "Swift": "swift", "C#": "",
        "CSS": "", "Mono C#": "", "Clojure": "", "Java 8": "", "Delphi": "", "Python 2": "",
        "PyPy 2": "", "Google Sheets": "", "": "", "1": "", "4": "",
    }
    # fmt: on
    assert {name: programs.extension_of(name) for name in known} == known


def test_every_extension_has_its_compiler() -> None:
    assert frozenset(EXTENSIONS) == programs.EXTENSIONS
    assert all(language_of(f"a.{extension}") for _, extension in programs.NAMES)


def test_real_programs_as_a_table(data_folder: Path) -> None:
    path = data_folder / "multipl_e_humaneval" / "humaneval-rs.jsonl.gz"
    with gzip.open(path) as opened:
        rows = [json.loads(line) for line in opened]
    files = read(f"{path}?code=prompt", 100_000)
    assert len(files) > 100
    assert [file.raw for file in files] == [row["prompt"].encode() for row in rows]
    assert {file.path.rpartition(".")[2] for file in files} == {"rs"}
