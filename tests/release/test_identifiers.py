"""The id-only release: columns and types, one row a repository, and what reads them back."""

import csv
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cairn.base import Ref, UserError
from cairn.base.make import make
from cairn.curate import Curate, read_files
from cairn.release import ReleaseIdentifiers
from cairn.sources import identifiers
from cairn.sources.identifiers import records
from cairn.sources.origins import read_origin
from cairn.sources.record import SourceFile
from cairn.sources.spec import Spec

DATE = datetime(2021, 5, 6, 7, 8, 9, 123456)  # without a zone, as in published sets
ROW = {
    "blob_id": "b" * 40,
    "content_id": "c" * 40,
    "path": "/src/x.c",
    "length_bytes": 3,
    "repo_name": "owner/repo",
    "directory_id": "d" * 40,
}


def read(folder: Path, *rows: dict[str, Any], schema: pa.Schema | None = None) -> list[SourceFile]:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows), schema), folder / "p.parquet")
    return list(records(Spec("ids:x", "ids", str(folder), {})))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("identifiers") / "content_id=x"  # no column, but a folder
    sources = []
    for name in ("one", "two"):
        (root / name).mkdir(parents=True)
        sources.append(str(root / name))
        for number in range(3):
            text = f"def {name}_{number}(value):\n    return value + {number}\n"
            (root / name / f"{number}.py").write_text(text)
    plan = {
        "corpus": Curate(sources=tuple(sources), workers=1, malware="off"),
        "ids": ReleaseIdentifiers(corpus=Ref("corpus")),
    }
    make(plan, root / "runs")
    return root / "runs"


def test_a_release_tells_of_every_file_by_identifiers_alone(runs: Path):
    kept = [row for batch in read_files(runs / "corpus") for row in batch.to_pylist()]
    table = pa.concat_tables(pq.read_table(path) for path in sorted((runs / "ids/data").iterdir()))
    assert len(kept) == table.num_rows == 6
    assert table["content_id"].to_pylist() == [row["content_id"] for row in kept]
    assert "content" not in table.column_names
    assert table.schema.field("revision_date").type == pa.timestamp("us", "UTC")
    assert table.schema.field("detected_licenses").type.value_type == pa.string()
    with (runs / "ids/language_stats.csv").open(newline="") as file:
        stats = list(csv.reader(file))
    assert stats[1][:2] == ["Python", "6"]
    assert "| license_type | files | bytes |" in (runs / "ids/README.md").read_text()


def test_files_by_row_and_in_repositories_read_back_the_same(runs: Path, tmp_path: Path):
    nested = pq.read_table(runs / "ids/repositories.parquet")
    assert nested["num_files"].to_pylist() == [3, 3]
    pq.write_table(nested, tmp_path / "repositories.parquet")
    flat, back = (
        list(records(Spec("ids:x", "ids", str(folder), {}))) for folder in (runs / "ids", tmp_path)
    )
    assert flat == back
    assert {one.origin.repo_name for one in flat} == {"one", "two"}


def test_published_dates_without_a_zone_are_utc(tmp_path: Path):
    (found,) = read(tmp_path, ROW | {"revision_date": DATE})
    assert found.path == "src/x.c"
    assert found.origin.revision_date == "2021-05-06T07:08:09.123456+00:00"
    (again,) = read(tmp_path, ROW | {"revision_date": DATE.replace(tzinfo=UTC)})
    assert again == found


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"path": None}, "a row without path"),
        ({"content_id": None, "repo_name": None}, "a row without content_id, repo_name"),
        ({"kind": "poem"}, "a row of the unknown kind poem"),
    ],
)
def test_rows_that_tell_of_no_file_are_problems_and_the_rest_is_read(
    tmp_path: Path, wrong: dict[str, Any], said: str
):
    bad, good = read(tmp_path, ROW | {"kind": "source"} | wrong, ROW | {"kind": "source"})
    assert bad.problem == f"p.parquet: {said}"
    assert good.problem is None


def test_what_may_be_null_is_taken_as_nothing(tmp_path: Path):
    row = ROW | {"directory_id": None, "origin_url": None, "detected_licenses": ["MIT", None]}
    schema = pa.Table.from_pylist([ROW | row | {"directory_id": "", "origin_url": ""}]).schema
    (found,) = read(tmp_path, row, schema=schema)
    assert (found.origin.directory_id, found.detected_licenses) == ("", ("MIT",))
    assert found.origin.origin_url == "https://github.com/owner/repo"
    kinds = {name: pa.int64() if name == "length_bytes" else pa.string() for name in ROW}
    entries = pa.list_(pa.struct(list(kinds.items())))
    empty = pa.schema([("repo_name", pa.string()), ("files", entries)])
    assert read(tmp_path, {"repo_name": "owner/repo", "files": None}, schema=empty) == []


def test_other_tables_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match="lacks repo_name, directory_id"):
        read(
            tmp_path,
            {name: ROW[name] for name in ("blob_id", "content_id", "path")} | {"length_bytes": 1},
        )
    with pytest.raises(UserError, match="lacks blob_id, content_id, length_bytes"):
        read(tmp_path, {"repo_name": "r", "directory_id": "d", "files": [{"path": "x"}]})


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("path", 1),
        ("repo_name", 1.5),
        ("length_bytes", "3"),
        ("star_events_count", "many"),
        ("visit_date", 7),
        ("detected_licenses", "MIT"),
        ("files", "x"),
    ],
)
def test_columns_of_another_type_are_the_mistake_of_who_gives_them(
    tmp_path: Path, column: str, value: Any
):
    with pytest.raises(UserError, match=f"the column {column} of "):
        read(tmp_path, ROW | {column: value})


def test_damage_in_a_folder_that_is_named_from_here_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ids").mkdir()
    (tmp_path / "ids" / "a.parquet").write_bytes(b"PAR1 and no more")
    damaged, spoiled, good = read(Path("ids"), ROW | {"blob_id": None}, ROW)
    assert (damaged.problem or "").startswith("a.parquet: ")
    assert spoiled.problem == "p.parquet: a row without blob_id"
    assert spoiled.origin.origin_url == (tmp_path / "ids" / "p.parquet").as_uri()
    assert good.problem is None


def test_text_that_is_none_spoils_its_row_only(tmp_path: Path):
    first, last = read(tmp_path, ROW, ROW | {"path": "/src/y.c"})
    table = pq.read_table(tmp_path / "p.parquet")
    paths = pa.array([b"/src/x.c", b"/\xff", b"/src/y.c"]).view(pa.string())
    table = pa.concat_tables([table.slice(0, 1), table]).set_column(2, "path", paths)
    pq.write_table(table, tmp_path / "p.parquet")
    one, spoiled, other = records(Spec("ids:x", "ids", str(tmp_path), {}))
    assert (one, other) == (first, last)
    assert "a row that cannot be read" in (spoiled.problem or "")


def back(folder: Path, max_bytes: int = 10**6, **options: str) -> list[SourceFile]:
    spec = Spec("ids:x", "ids", str(folder), options)
    return list(identifiers.read(spec, max_bytes=max_bytes, source=read_origin))


def test_contents_come_back_from_a_store_and_from_a_source(runs: Path, tmp_path: Path):
    """Curated again, a release gives the corpus that it was made of."""
    one = runs.parent / "one"
    store = tmp_path / "objects"
    store.mkdir()
    for file in back(runs / "ids", **{"from": str(one), "cache": str(tmp_path / "cache")}):
        assert (file.raw is None) == (file.origin.repo_name == "two")
        if file.raw is None:
            assert file.problem == f"content {file.blob_id}: is not in the store"
        else:
            assert file.raw == (one / file.path).read_bytes()
            (store / file.blob_id).write_bytes(file.raw)
    assert sum(file.raw is not None for file in back(runs / "ids", objects=str(store))) == 3
    kept = [file.raw for file in back(runs / "ids", objects=str(tmp_path / "cache"))]
    assert sum(raw is not None for raw in kept) == 3
    few = back(runs / "ids", max_bytes=5, objects=str(store))
    assert {(file.raw, file.problem) for file in few} == {(None, None)}


def test_the_way_back_ends_in_the_same_corpus(runs: Path, tmp_path: Path):
    for name in ("one", "two"):
        shutil.copytree(runs.parent / name, tmp_path / "both" / name)
    spec = f"ids:{runs / 'ids'}?from={tmp_path / 'both'}"
    make({"corpus": Curate(sources=(spec,), workers=1, malware="off")}, tmp_path / "runs")
    tables = [
        pa.Table.from_batches(read_files(root / "corpus")).drop_columns(["ledger_row"])
        for root in (runs, tmp_path / "runs")
    ]
    first, again = (
        table.sort_by([("repo_name", "ascending"), ("path", "ascending")]) for table in tables
    )
    assert first.num_rows == 6
    assert first.equals(again)


@pytest.mark.parametrize("options", [{}, {"objects": "/", "from": "/"}])
def test_where_contents_are_is_said_once(runs: Path, options: dict[str, str]):
    with pytest.raises(UserError, match="does not say where contents are"):
        back(runs / "ids", **options)
