"""From a text back to files: against brute force, at file borders, in characters, in time."""

import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cairn.base import Recipe, Ref, UserError, Work, read_manifest
from cairn.base.make import make
from cairn.tokens import Attribution, IndexAttribution, TokenShards, indexing, origins_of_text
from cairn.tokens.attribution import Block, _choose
from cairn.tokens.provenance import find_index

from .conftest import LICENCES, PLAN, blob_id


@pytest.fixture(scope="module")
def index(made: Path) -> Attribution:
    return Attribution.open(made / "index")


@pytest.fixture(scope="module")
def trained(shards: TokenShards, texts: dict) -> dict[tuple[str, str], str]:
    keys = zip(shards.documents["repo_name"], shards.documents["path"], strict=True)
    return {key: texts[key] for key in ((r.as_py(), p.as_py()) for r, p in keys)}


def _longest(query: bytes, files: list[bytes], minimum: int) -> list[int]:
    """By definition: at every position the longest run that stands in some file."""
    found = []
    for start in range(len(query)):
        size = 0
        while start + size < len(query) and any(
            query[start : start + size + 1] in f for f in files
        ):
            size += 1
        found.append(size if size >= minimum else 0)
    return found


LETTERS = st.text(st.sampled_from("abé\n"), max_size=14)


@settings(max_examples=60, deadline=None)
@given(files=st.lists(LETTERS, min_size=1, max_size=5), query=LETTERS, minimum=st.integers(1, 5))
def test_against_the_definition(tmp_path_factory, files, query, minimum):
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pydivsufsort import divsufsort

    folder = tmp_path_factory.mktemp("index") / "block-00000"
    folder.mkdir()
    raw = [file.encode("utf-8") for file in files]
    text = np.frombuffer(b"".join(one + b"\xff" for one in raw), np.uint8).copy()
    text.tofile(folder / "text.bin")
    divsufsort(text).astype("<i4").tofile(folder / "suffixes.bin")
    ends = np.cumsum([len(one) + 1 for one in raw])
    columns = {
        "start": [int(end) - len(one) - 1 for end, one in zip(ends, raw, strict=True)],
        "ledger_row": list(range(len(raw))),
        "content_id": [blob_id(file) for file in files],
        "repo_name": ["r"] * len(raw),
        "path": [str(place) for place in range(len(raw))],
        "license_type": ["permissive"] * len(raw),
        "detected_licenses": [["MIT"]] * len(raw),
    }
    pq.write_table(pa.table(columns), folder / "files.parquet")
    block, asked = Block(folder), query.encode("utf-8")
    assert block.longest(asked, minimum).tolist() == _longest(asked, raw, minimum)
    for match in Attribution([block]).matches(query, minimum=minimum, top=100):
        piece = asked[match.start : match.end]
        assert match.text.encode("utf-8") == piece
        expected = [
            (place, at)
            for place, one in enumerate(raw)
            for at in range(len(one))
            if one[at : at + len(piece)] == piece
        ]
        assert [(o.ledger_row, o.offset) for o in match.occurrences] == expected
        assert match.count == len(expected)
        for found in match.occurrences:
            before = raw[found.ledger_row][: found.offset]
            assert found.first_line == 1 + before.count(b"\n")
            assert found.last_line == found.first_line + piece[:-1].count(b"\n")


def test_every_file_is_found_whole(index: Attribution, trained: dict):
    for (repository, path), text in trained.items():
        if len(text.encode()) < 24 or len(text) > 40_000:
            continue
        (match,) = index.matches(text, top=50)
        assert (match.start, match.end, match.text) == (0, len(text.encode("utf-8")), text)
        found = next(o for o in match.occurrences if (o.repo_name, o.path) == (repository, path))
        assert found.swhid == "swh:1:cnt:" + blob_id(text)
        assert list(found.detected_licenses) == LICENCES[repository]
        assert found.license_type == ("permissive" if LICENCES[repository] else "no_license")
        lines = text.split("\n")
        assert (found.first_line, found.last_line) == (1, len(lines) - (lines[-1] == ""))


def test_held_out_files_are_not_indexed(index: Attribution, made: Path, texts: dict):
    held = TokenShards.open(made / "shards" / "heldout").documents.to_pylist()
    for row in held:
        for match in index.matches(texts[row["repo_name"], row["path"]]):
            for found in match.occurrences:
                assert (found.repo_name, found.path) != (row["repo_name"], row["path"])


def test_matches_do_not_cross_files(index: Attribution, trained: dict):
    (one, first), (two, second) = list(trained.items())[:2]
    seam = first[-60:] + second[:60]
    matches = index.matches(seam)
    edge = len(first[-60:].encode("utf-8"))
    assert {(m.start, m.end) for m in matches} == {(0, edge), (edge, len(seam.encode("utf-8")))}
    assert (matches[0].occurrences[0].repo_name, matches[0].occurrences[0].path) == one
    assert (matches[1].occurrences[0].repo_name, matches[1].occurrences[0].path) == two


def test_strange_text_between_known_text(index: Attribution, trained: dict):
    text = next(t for t in trained.values() if len(t) > 3_000)
    asked = "ωψφ " + text[500:700] + " ☃☃ " + text[1000:1100]
    matches = index.matches(asked)
    assert len(matches) == 2
    assert text[500:700] in matches[0].text
    assert text[1000:1100] in matches[1].text
    for match in matches:
        assert asked.encode()[match.start : match.end].decode() == match.text
    assert index.matches("☃" * 50) == []
    assert index.matches("") == []


def test_minimum_and_top(index: Attribution, trained: dict):
    text = next(t for t in trained.values() if len(t) > 3_000)[100:160]
    size = len(text.encode())
    assert index.matches(text, minimum=size)
    assert not index.matches(text, minimum=size + 1)
    (match,) = index.matches("        return", minimum=10, top=3)
    assert match.count > 20
    assert len(match.occurrences) == 3
    rows = [(o.ledger_row, o.offset) for o in match.occurrences]
    assert rows == sorted(rows)
    for wrong in ({"minimum": 0}, {"top": 0}):
        with pytest.raises(UserError, match="less than one"):
            index.matches("x", **wrong)


def test_the_longest_is_chosen_first_and_cut_at_characters():
    longest = np.array([3, 2, 5, 4, 3, 2, 1, 0])
    assert _choose(b"abcdefgh", longest, 2) == [(0, 2), (2, 7)]
    assert _choose(b"abcdefgh", longest, 3) == [(2, 7)]
    query = "aé".encode()  # a match that ends inside é ends before it
    assert _choose(query, np.array([2, 0, 0]), 1) == [(0, 1)]
    assert _choose(query, np.array([0, 0, 1]), 1) == []


def test_a_minimum_longer_than_a_head(index: Attribution, trained: dict):
    text = max(trained.values(), key=len)
    asked = text[100:500] + "☃" + text[3_000:3_300] + "☃" + text[2_000:2_100]
    found = [match.text for match in index.matches(asked, minimum=290)]
    assert found == [text[100:500], text[3_000:3_300]]
    files = [one.encode("utf-8") for one in trained.values()]
    longest = np.max([block.longest(asked.encode(), 90) for block in index._blocks], axis=0)
    assert longest.tolist() == _longest(asked.encode("utf-8"), files, 90)


def test_a_query_takes_less_than_a_tenth_of_a_second(index: Attribution, trained: dict):
    text = max(trained.values(), key=len)[10_000:12_000]
    index.matches(text)
    begin = time.process_time()
    index.matches(text)
    assert time.process_time() - begin < 0.1


def test_facts_and_blocks(made: Path, shards: TokenShards):
    facts = read_manifest(made / "index").facts
    assert facts["documents"] == len(shards)
    assert facts["bytes"] == int(shards.documents["bytes"].to_numpy().sum())
    assert facts["blocks"] == len(list((made / "index").glob("block-*"))) > 1


def test_one_block_says_the_same_as_many(made: Path, tmp_path: Path, trained: dict, index):
    plan = {**PLAN, "index": IndexAttribution(shards=Ref("shards"))}
    make(plan, tmp_path)
    whole = Attribution.open(tmp_path / "index")
    assert len(whole._blocks) == 1
    for text in list(trained.values())[:6]:
        asked = text[50:900] + "\nimport sys\n" + text[:200]
        assert whole.matches(asked, top=2) == index.matches(asked, top=2)


def test_a_killed_index_goes_on_to_the_same_bytes(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    real, written = indexing._write_block, []

    def dies(folder: Path, *rest) -> None:
        if len(written) == 1:
            folder.mkdir()
            (folder / "text.bin").write_bytes(b"half")
            raise KeyboardInterrupt
        real(folder, *rest)
        written.append(folder)

    monkeypatch.setattr(indexing, "_write_block", dies)
    with pytest.raises(KeyboardInterrupt):
        make(PLAN, tmp_path)
    monkeypatch.setattr(indexing, "_write_block", lambda *a: (written.append(a), real(*a)))
    last = make(PLAN, tmp_path)[-1]
    assert last.status == "continued"
    assert last.manifest.digest == read_manifest(made / "index").digest
    assert len(written) == last.manifest.facts["blocks"]


def test_artifacts_find_the_index_beside_them(made: Path, tmp_path: Path, trained: dict):
    from dataclasses import dataclass

    @dataclass(frozen=True, kw_only=True)
    class Model(Recipe):
        shards: Ref

        def run(self, work: Work) -> dict:
            (work.out / "weights").write_text("w")
            return {}

    runs = tmp_path / "runs"
    shutil.copytree(made, runs)
    plan = {**PLAN, "model": Model(shards=Ref("shards"))}
    make(plan, runs, "model")
    text = next(iter(trained.values()))[:100]
    (found,) = origins_of_text(runs / "model", text)
    assert found["bytes"] == len(text.encode())
    assert found["text"] == text
    occurrence = found["occurrences"][0]
    expected = ["detected_licenses", "ledger_row", "license_type", "lines", "path", "repo_name"]
    assert sorted(occurrence) == [*expected, "swhid"]
    assert occurrence["lines"].startswith("1-")
    assert find_index(runs / "index") == runs / "index"
    with pytest.raises(UserError, match="no attribution index"):
        find_index(runs / "corpus")
    with pytest.raises(UserError, match="not a finished artifact"):
        find_index(runs)


def test_damage_is_named(made: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"index\.json"):
        Attribution.open(made / "shards")
    for name in ("text.bin", "suffixes.bin"):
        copy = tmp_path / name
        shutil.copytree(made / "index", copy)
        path = copy / "block-00000" / name
        path.write_bytes(path.read_bytes()[:-4])
        with pytest.raises(UserError, match="block-00000"):
            Attribution.open(copy)
        path.unlink()
        with pytest.raises(UserError, match="block-00000"):
            Attribution.open(copy)
    with pytest.raises(UserError, match="block_bytes=0"):
        make(
            {**PLAN, "index": IndexAttribution(shards=Ref("shards"), block_bytes=0)}, tmp_path / "r"
        )
