"""The second stage by itself: which copy stays, gates, caps; whatever the partition."""

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cairn.curate.annotate import ANNOTATED
from cairn.curate.decide import Decision, decide
from cairn.curate.near import BANDS
from cairn.curate.optout import OptOut

EVERY = ("permissive", "no_license", "non_permissive")
PLAIN = Decision(
    classes=EVERY,
    near=True,
    repository_duplicates=True,
    opt_out=OptOut.read([]),
    excluded_extensions=False,
    smol=False,
    caps={},
)


def row(path: str, repo: str = "r", **fields: Any) -> dict[str, Any]:
    """An annotated row of its own tree and content."""
    found = {
        "repo_name": repo,
        "origin_url": f"https://github.com/{repo}",
        "directory_id": f"tree of {repo}",
        "star_events_count": 0,
        "fork_events_count": 0,
        "length_bytes": 1,
        "path": path,
        "content_id": f"{repo}:{path}",
        "blob_id": f"{repo}:{path}",
        "kind": "source",
        "language": "C",
        "extension": "c",
        "said_here": [],
        "verdict": "keep",
    }
    return found | fields


def decided(
    folder: Path, rows: list[dict[str, Any]], wanted: Decision = PLAIN, sizes: int = 1000
) -> list[tuple[str, str | None, str | None]]:
    """(path, rule, reason) of every row, in order; rows in parts of `sizes`."""
    folder.mkdir(exist_ok=True)
    parts = []
    for start in range(0, len(rows), sizes):
        path = folder / f"part-{start:04d}.parquet"
        pq.write_table(pa.Table.from_pylist(rows[start : start + sizes], ANNOTATED), path)
        parts.append((0, path))
    decide(parts, wanted, folder / "decided.parquet", folder / "spill")
    found = pq.read_table(folder / "decided.parquet").to_pylist()
    assert [one["row"] for one in found] == list(range(len(rows)))
    assert all((one["verdict"] == "keep") == (one["rule"] is None) for one in found)
    pairs = zip(rows, found, strict=True)
    return [(given["path"], one["rule"], one["reason"]) for given, one in pairs]


def kept(found: list[tuple[str, str | None, str | None]]) -> list[str]:
    return [path for path, rule, _ in found if rule is None]


def changed(**fields: Any) -> Decision:
    from dataclasses import replace

    return replace(PLAIN, **fields)


def test_of_exact_copies_the_declared_popular_and_new_one_stays(tmp_path: Path):
    better: list[dict[str, Any]] = [
        {"gha_license_id": "MIT"},
        {"star_events_count": 2, "fork_events_count": 1},
        {"star_events_count": 2, "revision_date": "2020-01-01"},
        {"star_events_count": 1, "revision_date": "2023-01-01", "visit_date": "2023-02-01"},
        {"star_events_count": 1, "revision_date": "2023-01-01", "visit_date": "2023-01-01"},
        {"star_events_count": 1, "revision_date": "2022-01-01"},
        {"star_events_count": 1},
    ]
    rows = [row("x.c", f"r{n}", content_id="same", **fields) for n, fields in enumerate(better)]
    for first in range(len(rows)):
        left = rows[first:]
        random.Random(first).shuffle(left)
        found = decided(tmp_path / str(first), left)
        reasons = {reason for _, rule, reason in found if rule == "exact_duplicate"}
        assert len(kept(found)) == 1
        assert reasons <= {f"of r{first}:x.c"}


def test_of_repositories_with_one_tree_the_licensed_popular_and_old_one_stays(tmp_path: Path):
    better: list[dict[str, Any]] = [
        {"gha_license_id": "GPL-3.0", "revision_date": "2023-01-01"},
        {"star_events_count": 2, "revision_date": "2023-01-01"},
        {"fork_events_count": 2, "revision_date": "2023-01-01"},
        {"revision_date": "2019-01-01", "github_id": 9},
        {"revision_date": "2021-01-01", "github_id": 3},
        {"revision_date": "2021-01-01", "github_id": 4, "visit_date": "2021-01-01"},
        {"revision_date": "2021-01-01", "github_id": 4, "visit_date": "2022-01-01"},
    ]
    rows = [
        row("x.c", f"r{n}", content_id=f"x{n}", directory_id="same", **fields)
        for n, fields in enumerate(better)
    ]
    for first in range(len(rows)):
        left = rows[first:]
        random.Random(first).shuffle(left)
        found = decided(tmp_path / str(first), left)
        reasons = {reason for _, rule, reason in found if rule == "repository_duplicate"}
        assert len(kept(found)) == 1
        assert reasons <= {f"the same tree as r{first}"}
    found = decided(tmp_path / "all", rows, changed(repository_duplicates=False))
    assert len(kept(found)) == len(rows)


def test_a_copy_without_a_licence_does_not_pass_for_a_licensed_original(tmp_path: Path):
    rows = [
        row("x.c", "original", directory_id="same", content_id="x", gha_license_id="GPL-3.0"),
        row("x.c", "copy", directory_id="same", content_id="x"),
    ]
    found = decided(tmp_path, rows, changed(classes=("permissive", "no_license")))
    assert [rule for _, rule, _ in found] == ["licence", "repository_duplicate"]
    assert found[0][2] == "non_permissive: declared GPL-3.0"


def test_of_near_duplicates_the_preferred_stays_over_chains(tmp_path: Path):
    def near(path: str, stars: int, bands: list[int] | None, language: str = "C") -> dict:
        bands = None if bands is None else bands + [1000 * ord(path) + n for n in range(3, BANDS)]
        return row(path, star_events_count=stars, bands=bands, language=language)

    rows = [
        near("a", 1, [1, 2, 91]),
        near("b", 9, [92, 2, 3]),  # meets a in the second band
        near("c", 9, [93, 94, 3]),  # meets b in the third, never a
        near("d", 0, [2, 95, 96]),  # a's key, but in another band
        near("e", 0, [1, 2, 3], "C++"),  # another language
        near("f", 0, None),  # too short to have keys
        near("g", 0, None),
    ]
    found = decided(tmp_path, rows)
    reasons = [reason if rule else "kept" for _, rule, reason in found]
    assert reasons == ["of r:b", "kept", "of r:b", "kept", "kept", "kept", "kept"]
    table = pq.read_table(tmp_path / "decided.parquet", columns=["duplicate_of"])
    assert table["duplicate_of"].to_pylist() == [1, None, 1, None, None, None, None]


def test_licences_are_a_union_over_all_directories_above(tmp_path: Path):
    def carrier(folder: str, *said: str) -> dict:
        found = {"said_here": list(said), "carrier_of": folder, "language": "Text"}
        return row(f"{folder}LICENSE", **found, content_id=f"licence {folder}{said}")

    rows = [
        carrier("", "MIT"),
        carrier("a/b/", "GPL-3.0-only"),
        row("x.c"),
        row("a/x.c"),
        row("a/b/x.c"),
        row("a/b/c/d/x.c", said_here=["BSD-3-Clause"]),
        row("ab/x.c"),
        row("x.c", "elsewhere"),
    ]
    decided(tmp_path, rows)
    table = pq.read_table(tmp_path / "decided.parquet")
    assert table["detected_licenses"].to_pylist()[2:] == [
        ["MIT"],
        ["MIT"],
        ["GPL-3.0-only", "MIT"],
        ["BSD-3-Clause", "GPL-3.0-only", "MIT"],
        ["MIT"],
        [],
    ]
    assert table["license_type"].to_pylist()[4:] == [
        "non_permissive",
        "non_permissive",
        "permissive",
        "no_license",
    ]


def test_a_link_with_the_name_of_a_licence_speaks_for_its_target(tmp_path: Path):
    rows = [
        row("legal/apache.txt", said_here=["Apache-2.0"]),
        row("sub/LICENSE", verdict="drop", rule="link", link_to="legal/apache.txt"),
        row("sub/x.c"),
        row("x.c"),
    ]
    decided(tmp_path, rows)
    table = pq.read_table(tmp_path / "decided.parquet")
    assert table["detected_licenses"].to_pylist()[2:] == [["Apache-2.0"], []]


def test_requests_to_be_left_out_come_before_the_choice_of_a_copy(tmp_path: Path):
    (tmp_path / "requests.txt").write_text("somebody/gone\n")
    rows = [
        row("x.c", "Somebody/Gone", content_id="x", star_events_count=9),
        row("x.c", "other/stays", content_id="x"),
    ]
    wanted = changed(opt_out=OptOut.read([tmp_path / "requests.txt"]))
    found = decided(tmp_path, rows, wanted)
    assert [rule for _, rule, _ in found] == ["opt_out", None]


def test_quality_is_asked_after_the_search_for_duplicates(tmp_path: Path):
    bands = list(range(BANDS))
    low = {"quality_rule": "alphabetic", "quality_reason": "3%"}
    rows = [
        row("a.c", star_events_count=5, bands=bands, **low),
        row("b.c", bands=bands),
        row("c.c", **low),
    ]
    assert [rule for _, rule, _ in decided(tmp_path, rows)] == [
        "alphabetic",
        "near_duplicate",
        "alphabetic",
    ]


def test_the_small_selection_and_caps(tmp_path: Path):
    rows = [row(f"{n}.c", length_bytes=10) for n in range(10)]
    rows += [row(f"{n}.abap", language="ABAP", length_bytes=10) for n in range(3)]
    rows += [row("issue/1", kind="issue", language="", length_bytes=10)]
    found = decided(tmp_path, rows, changed(smol=True, caps={"C": 45}))
    rules = [rule for _, rule, _ in found]
    assert rules.count("cap") == 6, "four files of ten bytes fit into 45"
    assert rules[10:] == ["selection"] * 3 + [None]
    again = decided(tmp_path / "again", rows[::-1], changed(smol=True, caps={"C": 45}))
    assert set(kept(found)) == set(kept(again))
    assert found[rules.index("cap")][2] == "45 bytes of C are enough"


@pytest.mark.parametrize("seed", range(4))
def test_neither_order_nor_partitions_choose_what_stays(tmp_path: Path, seed: int):
    rng = random.Random(seed)
    rows = []
    for number in range(300):
        bands = [rng.randrange(60) * 100 + band for band in range(BANDS)]
        repo = f"r{rng.randrange(5)}"
        stars = {"star_events_count": rng.randrange(3)}
        same = {"content_id": f"c{rng.randrange(200)}"}
        rows.append(row(f"{number}.c", repo, bands=bands if number % 7 else None, **stars, **same))
    results = []
    for trial in range(4):
        found = decided(tmp_path / str(trial), rows, sizes=rng.randrange(20, 301))
        results.append({path: (rule, reason) for path, rule, reason in found})
        rng.shuffle(rows)
    rules = {rule for rule, _ in results[0].values()}
    assert {"exact_duplicate", "near_duplicate", None} <= rules
    assert all(result == results[0] for result in results)


def test_two_halves_of_one_repository_are_no_copies(tmp_path: Path):
    """As in a published set that is told language by language."""
    parts = []
    for number, rows in enumerate(([row("a.py")], [row("b.c")], [row("c.c", "z-fork")])):
        rows[0]["directory_id"] = "same"
        path = tmp_path / f"{number}.parquet"
        pq.write_table(pa.Table.from_pylist(rows, ANNOTATED), path)
        parts.append((number, path))
    decide(parts, PLAIN, tmp_path / "decided.parquet", tmp_path / "spill")
    found = pq.read_table(tmp_path / "decided.parquet")["rule"].to_pylist()
    assert found == [None, None, "repository_duplicate"]


def test_documents_of_a_tree_do_not_pass_for_its_source(tmp_path: Path):
    rows = [
        row("a.html", "pages", kind="documentation", directory_id="same", star_events_count=9),
        row("a.c", "code", directory_id="same"),
    ]
    assert [rule for _, rule, _ in decided(tmp_path, rows)] == [None, None]


def test_licences_speak_for_folders_with_any_name(tmp_path: Path):
    said = {"said_here": ["GPL-3.0-only"]}
    rows = [
        row("a\nb/LICENSE", carrier_of="a\nb/", **said),
        row("a\nb/c\nd/x.c"),
        row("x.c"),
        row("deep/" * 2000 + "x.c"),
    ]
    decided(tmp_path, rows)
    table = pq.read_table(tmp_path / "decided.parquet")
    assert table["detected_licenses"].to_pylist() == [said["said_here"]] * 2 + [[], []]


def test_rows_without_names_are_not_lost(tmp_path: Path):
    rows = [row("a.c"), row("b.c", directory_id=None), row("c.c", repo_name=None)]
    assert kept(decided(tmp_path, rows)) == ["a.c", "b.c", "c.c"]


def test_a_folder_whose_name_looks_like_a_column_is_none(tmp_path: Path):
    rows = [row("a.c", content_id="same"), row("b.c", content_id="same")]
    found = decided(tmp_path / "content_id=x", [*rows, row("c.c")])
    assert [rule for _, rule, _ in found] == [None, "exact_duplicate", None]
