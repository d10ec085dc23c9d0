"""Sets of texts: JSON lines, plain and packed, and Parquet, sound and damaged."""

import gzip
import json
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cairn.base import UserError
from cairn.sources import textsets
from cairn.sources.record import SourceFile
from cairn.sources.spec import parse
from cairn.sources.swhid import content_hash

ROWS = [
    {"id": 7, "text": "größer\n", "license": "MIT", "content": "not this"},
    {"id": "b", "content": "second", "detected_licenses": ["CC0-1.0", "MIT"]},
    {"text": "third"},
]


def read(text: str, max_bytes: int = 1000) -> list[SourceFile]:
    spec = parse(f"text:{text}", {"text": textsets.OPTIONS})
    return list(textsets.read(spec, max_bytes=max_bytes))


def packed(path: Path, raw: bytes) -> Path:
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(raw))
    elif path.suffix == ".zst":
        with pa.output_stream(path, compression="zstd") as file:
            file.write(raw)
    else:
        path.write_bytes(raw)
    return path


@pytest.mark.parametrize("ending", [*textsets.ENDINGS, ".parquet"])
def test_rows_are_records_in_every_format(tmp_path: Path, ending: str):
    path = tmp_path / f"made{ending}"
    if ending == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS, schema=_schema()), path)
    else:
        lines = "\n\n".join(json.dumps(row) for row in ROWS)  # empty lines are none
        packed(path, lines.encode())
    files = read(str(path))
    assert [file.raw for file in files] == ["größer\n".encode(), b"second", b"third"]
    assert [file.path for file in files] == [f"{path.name}#{n}" for n in ("1:7", "2:b", "3")]
    assert [file.content_id for file in files] == [content_hash(file.raw or b"") for file in files]
    assert [file.detected_licenses for file in files] == [("MIT",), ("CC0-1.0", "MIT"), ()]
    first = files[0]
    assert (first.kind, first.problem, first.length_bytes) == ("text", None, 9)
    assert (first.origin.repo_name, first.origin.origin_url) == ("made", path.as_uri())


def _schema() -> pa.Schema:
    texts = [(name, pa.string()) for name in ("text", "license", "content")]
    return pa.schema([*texts, ("id", pa.string()), ("detected_licenses", pa.list_(pa.string()))])


@pytest.fixture(autouse=True)
def _ids_as_text(monkeypatch: pytest.MonkeyPatch):
    """Parquet has one type a column."""
    monkeypatch.setitem(ROWS[0], "id", "7")


def test_options_name_the_column_the_set_and_the_licence(tmp_path: Path):
    packed(tmp_path / "a.jsonl", b'{"q": "x", "text": "y"}')
    (file,) = read(f"{tmp_path}?column=q&name=My%20set&licence=CC-BY-4.0")
    assert (file.raw, file.origin.repo_name) == (b"x", "My set")
    assert file.detected_licenses == ("CC-BY-4.0",)


def test_damaged_rows_are_told_and_the_rest_is_read(tmp_path: Path):
    deep = b"[" * 100_000
    rows = [b'{"text": "a"}', b'{"text": ', b"[1]", b'{"text": 3}', b'{"text": "\\ud800"}', deep]
    rows += [b"\xff", b'{"text": ' + b"9" * 10_000 + b"}", b'{"text": "z"}']
    files = read(str(packed(tmp_path / "a.jsonl", b"\n".join(rows))))
    assert [file.raw for file in files] == [b"a", *[None] * 7, b"z"]
    assert [bool(file.problem) for file in files] == [False, *[True] * 7, False]
    assert files[3].problem == "has no text in text or content"
    assert len({file.path for file in files}) == len(files)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_a_truncated_file_is_told_after_what_could_be_read(tmp_path: Path, name: str):
    path = tmp_path / name
    rows = [{"text": str(number) * 50} for number in range(5000)]
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        packed(path, "\n".join(map(json.dumps, rows)).encode())
    path.write_bytes(path.read_bytes()[:-50])
    files = read(str(path))
    problems = [file for file in files if file.problem]
    assert "cannot be read on" in (problems[-1].problem or "")
    assert files[-1] is problems[-1]


def test_an_endless_line_is_told_and_never_held(tmp_path: Path):
    path = tmp_path / "a.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b'{"text": "')
        for _ in range(200):
            file.write(b"x" * 2**20)
        file.write(b'"}\n{"text": "after"}\n')
    tracemalloc.start()
    files = read(str(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [file.raw for file in files] == [None, b"after"]
    assert "a line of more than" in (files[0].problem or "")
    assert peak < 32 * 2**20


def test_a_large_text_has_identifiers_but_no_bytes(tmp_path: Path):
    path = packed(tmp_path / "a.jsonl", json.dumps({"text": "é" * 500}).encode())
    (file,) = read(str(path))
    assert (file.raw, file.problem, file.length_bytes) == (None, None, 1000)
    assert file.content_id == content_hash(("é" * 500).encode())


def test_what_no_text_can_be_read_of_is_a_mistake(tmp_path: Path):
    spec = parse(f"text:{tmp_path / 'none'}", {"text": textsets.OPTIONS})
    with pytest.raises(UserError, match="does not exist"):
        textsets.read(spec, max_bytes=10)
    with pytest.raises(UserError, match="holds no sets"):
        read(str(tmp_path))
    with pytest.raises(UserError, match="is no set"):
        read(str(packed(tmp_path / "a.csv", b"text")))
    pq.write_table(pa.table({"q": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="no column text or content"):
        read(str(tmp_path))


def test_a_published_set_is_read_as_it_is(data_folder: Path):
    path = data_folder / "gsm8k" / "train.jsonl.gz"
    files = read(f"{path}?column=question&licence=MIT", 10**6)
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        questions = [json.loads(line)["question"].encode() for line in lines]
    assert [file.raw for file in files] == questions
    assert len(files) == 7473
