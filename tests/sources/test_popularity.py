"""Stars, forks and licences of GH Archive reach the files of a repository."""

import gzip
import json
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cairn.base.make import make
from cairn.curate import Curate, read_files
from cairn.sources.events import METADATA_SCHEMA, repository_metadata
from cairn.sources.popularity import with_metadata
from cairn.sources.record import Origin, SourceFile


def watched(number: int, name: str) -> dict:
    return {
        "id": str(number),
        "type": "WatchEvent",
        "actor": {"login": f"user{number}"},
        "repo": {"id": 7, "name": name},
        "payload": {"action": "started"},
        "created_at": "2016-01-01T00:00:00Z",
    }


def test_what_is_told_of_an_url_is_joined_whatever_its_case(tmp_path: Path):
    hour = tmp_path / "2016-01-01-0.json.gz"
    lines = [json.dumps(watched(number, "Owner/Name")) for number in range(3)]
    hour.write_bytes(gzip.compress("\n".join(lines).encode()))
    table = tmp_path / "repositories.parquet"
    repository_metadata([hour], table)
    assert "star_events_count" in METADATA_SCHEMA.names

    def file(url: str) -> SourceFile:
        origin = Origin(repo_name="x", origin_url=url, directory_id="")
        return SourceFile(
            origin=origin, path="a", content_id="", blob_id="", mode=0, length_bytes=0, raw=b""
        )

    urls = ["https://github.com/owner/name", "https://github.com/other/name"]
    found = list(with_metadata(map(file, urls), table))
    assert [one.origin.star_events_count for one in found] == [3, 0]
    assert [one.origin.github_id for one in found] == [7, None]


def test_of_names_that_differ_by_case_the_most_watched_counts(tmp_path: Path):
    hour = tmp_path / "2016-01-01-0.json.gz"
    names = ["owner/name", "Owner/Name", "Owner/Name", "OWNER/NAME"]
    lines = [json.dumps(watched(number, name)) for number, name in enumerate(names)]
    hour.write_bytes(gzip.compress("\n".join(lines).encode()))
    table = tmp_path / "repositories.parquet"
    repository_metadata([hour], table)
    origin = Origin(repo_name="x", origin_url="https://github.com/owner/name", directory_id="")
    file = SourceFile(
        origin=origin, path="a", content_id="", blob_id="", mode=0, length_bytes=0, raw=b""
    )
    (found,) = with_metadata([file], table)
    assert found.origin.star_events_count == 2


def test_a_large_table_is_read_where_the_url_stands(tmp_path: Path):
    names = sorted(f"o{number % 7}/n{number}" for number in range(3_000))
    rows = [
        {"repo_name": name, "origin_url": f"https://github.com/{name}", "star_events_count": number}
        for number, name in enumerate(names)
    ]
    table = tmp_path / "repositories.parquet"
    pq.write_table(pa.Table.from_pylist(rows, METADATA_SCHEMA), table, row_group_size=100)

    def file(url: str) -> SourceFile:
        origin = Origin(repo_name="x", origin_url=url, directory_id="")
        return SourceFile(
            origin=origin, path="a", content_id="", blob_id="", mode=0, length_bytes=0, raw=b""
        )

    for ending in ("", ".git", "/"):
        files = [file(f"https://github.com/{name.upper()}{ending}") for name in names[::-1]]
        found = [one.origin.star_events_count for one in with_metadata(files, table)]
        assert found == list(range(3_000))[::-1]
    others = ("", "https://a", "https://github.com/o3/n", "https://github.com/o9/n1", "z", "\udce9")
    assert not any(one.origin.star_events_count for one in with_metadata(map(file, others), table))
    pq.write_table(METADATA_SCHEMA.empty_table(), table)
    assert list(with_metadata([file("https://a")], table)) == [file("https://a")]


def test_a_recipe_takes_hours_and_prefers_the_popular_copy(tmp_path: Path):
    hour = tmp_path / "2016-01-01-0.json.gz"
    hour.write_bytes(gzip.compress(json.dumps(watched(1, "zz/popular")).encode()))
    trees = []
    for name in ("aa/copy", "zz/popular"):
        tree = tmp_path / name
        tree.mkdir(parents=True)
        trees.append(tree)

    for tree, name in zip(trees, ("aa/copy", "zz/popular"), strict=True):
        (tree / "same.py").write_text("def same():\n    return 'as there'\n")
        (tree / f"own_{name[:2]}.py").write_text(f"def own_{name[:2]}():\n    return 'mine'\n")
        for line in (
            ["init", "-q"],
            ["remote", "add", "origin", f"https://github.com/{name}.git"],
            ["add", "-A"],
            ["-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "-qm", "x"],
        ):
            subprocess.run(["git", *line], cwd=tree, check=True)
    recipe = Curate(sources=tuple(map(str, trees)), events=(str(hour),), workers=1, malware="off")
    make({"corpus": recipe}, tmp_path / "runs")
    rows = [row for batch in read_files(tmp_path / "runs" / "corpus") for row in batch.to_pylist()]
    kept = {(row["repo_name"], row["path"]): row["star_events_count"] for row in rows}
    assert kept == {
        ("aa/copy", "own_aa.py"): 0,
        ("zz/popular", "own_zz.py"): 1,
        ("zz/popular", "same.py"): 1,
    }
