"""Withdrawal from a corpus: what is left, what is written anew, and what the ledger says."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from cairn.base import Recipe, Ref, UserError, Work, read_manifest, write_json, write_text
from cairn.base.make import make
from cairn.curate import withdrawal
from cairn.curate.corpus import FILE_SCHEMA, LEDGER_SCHEMA, read_files, read_ledger
from cairn.curate.optout import OptOut
from cairn.curate.page import page
from cairn.curate.report import markdown, summarise
from cairn.curate.withdrawal import Withdraw

NAMES = ("alpha", "beta", "gamma", "delta")


def blob_id(text: str) -> str:
    raw = text.encode()
    return hashlib.sha1(b"blob %d\0" % len(raw) + raw, usedforsecurity=False).hexdigest()


@dataclass(frozen=True, kw_only=True)
class GivenCorpus(Recipe):
    """Stands for Curate: four repositories of seven files each, one of them dropped for another.

    `opt_out`: lists that are followed row by row, as a corpus made after the requests would be.
    """

    sources: tuple[str, ...] = NAMES
    opt_out: tuple[str, ...] = ()

    def run(self, work: Work) -> dict[str, Any]:
        asked = OptOut.read([Path(one) for one in self.opt_out])
        rows = [self._row(place, asked) for place in range(28)]
        for kind in ("files", "ledger"):
            (work.out / kind).mkdir()
        for number, start in enumerate(range(0, len(rows), 5)):
            some, name = rows[start : start + 5], f"part-{number:05d}.parquet"
            kept = [row for row in some if row["verdict"] == "keep"]
            for kind, schema, these in (
                ("files", FILE_SCHEMA, kept),
                ("ledger", LEDGER_SCHEMA, some),
            ):
                known = [{key: row.get(key) for key in schema.names} for row in these]
                made = pa.Table.from_pylist(known, schema=schema)
                pq.write_table(made, work.out / kind / name, row_group_size=3)
        facts = summarise(work.out / "ledger") | {"malware": "not scanned"}
        write_json(work.out / "report.json", facts)
        write_text(work.out / "report.md", markdown(facts, self.sources))
        write_text(work.out / "report.html", page(facts, self.sources, work.out / "ledger"))
        write_text(work.out / "notes.txt", "what else lies in a corpus\n")
        return {key: facts[key] for key in ("seen", "kept")}

    def _row(self, place: int, asked: OptOut) -> dict[str, Any]:
        name, text = NAMES[place // 7], f"word_{place} = {place}\n"
        row = {
            "row": place,
            "ledger_row": place,
            "repo_name": name,
            "origin_url": f"https://example.org/{name}",
            "path": f"file_{place}.py",
            "directory_id": blob_id(name),
            "content_id": blob_id(text),
            "blob_id": hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(),
            "content": text,
            "kind": "source",
            "language": "Python",
            "license_type": "permissive",
            "detected_licenses": ["MIT"],
            "length_bytes": len(text),
            "redactions": "email 1" if place % 2 else "",
            "verdict": "keep",
        }
        if place % 7 == 6:
            row |= {"verdict": "drop", "rule": "generated", "reason": "says 'generated'"}
        elif reason := asked.covers(row):
            row |= {"verdict": "drop", "rule": "opt_out", "reason": reason}
        return row


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("lists") / "asked.txt"
    path.write_text("BETA\nnobody/here\n")
    return str(path)


@pytest.fixture(scope="module")
def runs(asked: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus, the same one without `beta` from the beginning, and one without it since."""
    folder = tmp_path_factory.mktemp("runs")
    plan = {
        "corpus": GivenCorpus(),
        "without": GivenCorpus(opt_out=(asked,)),
        "after": Withdraw(corpus=Ref("corpus"), requests=(asked,)),
    }
    make(plan, folder)
    return folder


def table(batches: Any) -> pa.Table:
    return pa.Table.from_batches(list(batches))


def test_it_is_the_corpus_that_would_have_been_made(runs: Path):
    after = table(read_files(runs / "after"))
    assert after.equals(table(read_files(runs / "without")))
    assert set(after["repo_name"].to_pylist()) == {"alpha", "gamma", "delta"}
    ledger = table(read_ledger(runs / "after"))
    assert ledger.equals(table(read_ledger(runs / "without")))
    reports = [json.loads((runs / n / "report.json").read_text()) for n in ("after", "without")]
    assert reports[0] == reports[1]
    for name in ("report.md", "report.html"):
        assert (runs / "after" / name).read_text() == (runs / "without" / name).read_text()


def test_the_ledger_keeps_the_rows_with_the_reason(runs: Path):
    before, after = (table(read_ledger(runs / name)) for name in ("corpus", "after"))
    out = after.filter(pc.equal(after["rule"], "opt_out")).to_pylist()
    assert len(out) == 6
    assert {row["reason"] for row in out} == {"repository beta is opted out"}
    assert {row["verdict"] for row in out} == {"drop"}
    same = [name for name in after.column_names if name not in ("verdict", "rule", "reason")]
    assert after.select(same).equals(before.select(same))


def test_only_parts_with_such_files_are_written_anew(runs: Path):
    linked = {True: 0, False: 0}
    for kind, key in (("files", "repo_name"), ("ledger", "repo_name")):
        for part in sorted((runs / "corpus" / kind).iterdir()):
            twin = runs / "after" / kind / part.name
            kept = pq.read_table(part)
            if kind == "ledger":
                kept = kept.filter(pc.equal(kept["verdict"], "keep"))
            held = "beta" in kept[key].to_pylist()
            assert (twin.stat().st_ino == part.stat().st_ino) != held
            linked[not held] += 1
    assert min(linked.values()) >= 4


def test_facts_and_headline(runs: Path):
    manifest = read_manifest(runs / "after")
    assert manifest.facts["withdrawn"]["files"] == 6
    assert manifest.facts["requests_without_files"] == 1  # nobody/here
    assert manifest.headline.startswith("6 files withdrawn, ")
    assert manifest.facts["sources"] == list(NAMES)


def test_what_else_is_there_comes_along(runs: Path):
    names = [{p.name for p in (runs / one).iterdir()} for one in ("corpus", "after")]
    assert names[0] == names[1]


def test_a_killed_withdrawal_goes_on_to_the_same(runs: Path, asked: str, tmp_path: Path):
    (tmp_path / "ledger").mkdir()
    part = tmp_path / "ledger" / "part-00000.parquet"
    withdrawal.link(runs / "after" / "ledger" / part.name, part)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / ".part-00000.parquet.part").write_bytes(b"half")
    withdrawal.withdraw(
        Work(tmp_path, {}), runs / "corpus", OptOut.read([Path(asked)]), list(NAMES)
    )
    for kind in ("files", "ledger"):
        for path in (runs / "after" / kind).iterdir():
            assert (tmp_path / kind / path.name).read_bytes() == path.read_bytes()


def test_a_second_withdrawal_and_one_by_content(runs: Path, asked: str, tmp_path: Path):
    first = next(read_files(runs / "after")).to_pylist()[0]
    (tmp_path / "more.csv").write_text(f"swhid\nswh:1:cnt:{first['content_id']}\n")
    plan = {
        "corpus": GivenCorpus(),
        "after": Withdraw(corpus=Ref("corpus"), requests=(asked,)),
        "twice": Withdraw(corpus=Ref("after"), requests=(str(tmp_path / "more.csv"),)),
    }
    make(plan, tmp_path)
    left = table(read_files(tmp_path / "twice")).to_pylist()
    before = table(read_files(tmp_path / "after")).to_pylist()
    assert left == [row for row in before if row["content_id"] != first["content_id"]]
    assert read_manifest(tmp_path / "twice").facts["withdrawn"]["files"] == 1
    assert read_manifest(tmp_path / "twice").facts["sources"] == list(NAMES)


def test_it_copies_where_it_cannot_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuses(*_: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(withdrawal.os, "link", refuses)
    (tmp_path / "a").write_bytes(b"bytes")
    withdrawal.link(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"bytes"
    assert (tmp_path / "a").stat().st_ino != (tmp_path / "b").stat().st_ino


def test_mistakes_are_named(runs: Path, tmp_path: Path):
    with pytest.raises(UserError, match="name no list"):
        Withdraw(corpus=Ref("corpus"), requests=())
    with pytest.raises(UserError, match="is one text"):
        Withdraw(corpus=Ref("corpus"), requests="list.txt")  # type: ignore[arg-type]
    (tmp_path / "all.txt").write_text("\n".join(NAMES))
    (tmp_path / "out").mkdir()
    everyone = OptOut.read([tmp_path / "all.txt"])
    with pytest.raises(UserError, match="leave nothing"):
        withdrawal.withdraw(Work(tmp_path / "out", {}), runs / "corpus", everyone, ["x"])
