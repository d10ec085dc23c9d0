"""Withdrawal from shards: equal to encoding what is left, and who else held the files."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cairn.base import Recipe, Ref, UserError, Work, read_manifest, write_json
from cairn.base.make import make
from cairn.curate.corpus import LEDGER_SCHEMA
from cairn.curate.optout import OptOut
from cairn.curate.report import summarise
from cairn.curate.withdrawal import Withdraw
from cairn.tokens import IndexAttribution, LearnTokenizer, Tokenize, TokenShards, tokenizing
from cairn.tokens.withdrawal import WithdrawTokens, affected, withdraw

from .conftest import sources, write_corpus


@dataclass(frozen=True, kw_only=True)
class Ledgered(Recipe):
    """Stands for Curate: the corpus of these tests with its ledger."""

    salt: str = ""

    def run(self, work: Work) -> dict[str, Any]:
        rows = sources()
        if self.salt:
            rows.append(("gamma", "zz.py", self.salt))
        write_corpus(work.out, rows, parts=4)
        (work.out / "ledger").mkdir()
        for path in sorted((work.out / "files").iterdir()):
            made = [
                {"row": row["ledger_row"], "verdict": "keep", "redactions": "", **row}
                for row in pq.read_table(path).to_pylist()
            ]
            known = [{key: row.get(key) for key in LEDGER_SCHEMA.names} for row in made]
            table = pa.Table.from_pylist(known, schema=LEDGER_SCHEMA)
            pq.write_table(table, work.out / "ledger" / path.name)
        facts = summarise(work.out / "ledger") | {"malware": "not scanned"}
        write_json(work.out / "report.json", facts)
        return {}


@dataclass(frozen=True, kw_only=True)
class Trains(Recipe):
    """Stands for whatever learns from shards."""

    shards: tuple[Ref, ...]

    def run(self, work: Work) -> dict[str, Any]:
        (work.out / "weights").write_text("many")
        return {}


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("lists") / "asked.csv"
    path.write_text("repository,path\nBeta/Two,\n")
    return str(path)


@pytest.fixture(scope="module")
def runs(asked: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    plan = {
        "corpus": Ledgered(),
        "words": LearnTokenizer(corpus=Ref("corpus"), vocab_size=512),
        "shards": Tokenize(corpus=Ref("corpus"), tokenizer=Ref("words"), heldout=0.1),
        "base": Trains(shards=(Ref("shards"),)),
        "tuned": Trains(shards=(Ref("base"), Ref("shards"))),
        "smaller": Withdraw(corpus=Ref("corpus"), requests=(asked,)),
        "fewer": WithdrawTokens(shards=Ref("shards"), corpus=Ref("smaller")),
        "encoded": Tokenize(corpus=Ref("smaller"), tokenizer=Ref("words"), heldout=0.1),
        "index": IndexAttribution(shards=Ref("fewer")),
        "clean": Trains(shards=(Ref("fewer"),)),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizing, "ROW_GROUP", 7)  # several groups in so small a table
        make(plan, folder)
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    names = [p for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in names}


def test_it_is_the_encoding_of_what_is_left_byte_for_byte(runs: Path):
    assert files_of(runs / "fewer") == files_of(runs / "encoded")
    assert files_of(runs / "fewer") != files_of(runs / "shards")
    facts = [dict(read_manifest(runs / name).facts) for name in ("fewer", "encoded", "shards")]
    withdrawn = facts[0].pop("withdrawn")
    assert facts[0] == facts[1]
    for key in ("documents", "tokens"):
        gone = facts[2][key] + facts[2][f"heldout_{key}"] - facts[1][key]
        assert withdrawn[key] == gone - facts[1][f"heldout_{key}"] > 0
    assert "documents of" in read_manifest(runs / "fewer").headline


def test_nobody_is_left(runs: Path):
    for split in ("train", "heldout"):
        shards = TokenShards.open(runs / "fewer" / split)
        assert "beta/two" not in shards.documents["repo_name"].to_pylist()
    assert pq.ParquetFile(runs / "fewer" / "train" / "documents.parquet").num_row_groups > 3


def test_what_holds_nothing_is_linked(runs: Path, tmp_path: Path):
    """A second withdrawal of nothing: every file is the same one on the disk."""
    withdraw(Work(tmp_path, {}), runs / "fewer", runs / "smaller")
    for name in ("train/tokens.bin", "heldout/documents.parquet", "tokenizer.json"):
        assert (tmp_path / name).samefile(runs / "fewer" / name)
    assert files_of(tmp_path) == files_of(runs / "fewer")


def test_who_held_the_files(runs: Path, asked: str):
    rows = {row["artifact"]: row for row in affected(runs, OptOut.read([Path(asked)]))}
    # the tokenizer was learned from the larger corpus, and what was encoded with it descends from
    # clean shards only
    assert set(rows) == {"corpus", "words", "shards", "base", "tuned"}
    whats = {name: row["what"] for name, row in rows.items()}
    assert {name for name, what in whats.items() if what == "holds"} == {"corpus", "shards"}
    total = sum(repository == "beta/two" for repository, _, _ in sources())
    assert rows["corpus"]["files"] == rows["shards"]["files"] == rows["words"]["files"] == total
    train = TokenShards.open(runs / "shards" / "train").documents.to_pylist()
    mine = [row for row in train if row["repo_name"] == "beta/two"]
    for name in ("base", "tuned"):
        assert rows[name]["files"] == len(mine) < total
        assert rows[name]["train_tokens"] == sum(row["length"] for row in mine)
        assert rows[name]["repositories"] == ["beta/two"]
        assert rows[name]["kind"] == "Trains"
    assert rows["corpus"]["train_tokens"] is None
    assert not any(row["note"] for row in rows.values())


def test_what_is_not_known_is_said(runs: Path, asked: str, tmp_path: Path):
    shutil.copytree(runs, tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs" / "corpus")
    found = OptOut.read([Path(asked)])
    rows = {row["artifact"]: row for row in affected(tmp_path / "runs", found)}
    assert rows["words"]["note"] == "corpus is missing: not known"
    assert rows["shards"]["files"] == 9  # still told by the names in their table
    assert "judged by name and content" in rows["shards"]["note"]
    assert rows["base"]["files"] > 0
    make({"corpus": Ledgered(salt="x = 1\n")}, tmp_path / "runs")
    rows = {row["artifact"]: row for row in affected(tmp_path / "runs", found)}
    assert "made anew since" in rows["words"]["note"]
    assert "made anew since" in rows["shards"]["note"]
    assert rows["shards"]["files"] == 9


def test_another_corpus_is_refused(runs: Path, tmp_path: Path):
    plan = {"corpus": Ledgered(salt="x = 1\n")}
    make(plan, tmp_path)
    with pytest.raises(UserError, match="encode it with Tokenize"):
        withdraw(Work(tmp_path / "a", {}), runs / "shards", tmp_path / "corpus")
    _swap(tmp_path / "corpus" / "ledger" / "part-00000.parquet")
    with pytest.raises(UserError, match="has other files in the ledger rows"):
        withdraw(Work(tmp_path / "b", {}), runs / "shards", tmp_path / "corpus")


def _swap(part: Path) -> None:
    rows = pq.read_table(part).to_pylist()
    rows[0]["content_id"], rows[1]["content_id"] = rows[1]["content_id"], rows[0]["content_id"]
    pq.write_table(pa.Table.from_pylist(rows, schema=LEDGER_SCHEMA), part)
