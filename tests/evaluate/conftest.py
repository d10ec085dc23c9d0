"""A small corpus, its shards, and a small model without any training: enough to be scored."""

import hashlib
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cairn.base import Recipe, Ref, Work
from cairn.base.make import make
from cairn.base.sandbox import Limits, Sandbox
from cairn.evaluate.task import Setting
from cairn.tokens import LearnTokenizer, Tokenize, Tokenizer

from ..fixtures.shapes import untrained

NAMES = ("bisect", "fnmatch", "keyword", "sched", "queue", "stat", "token", "types", "heapq")


def blob_id(text: str) -> str:
    raw = text.encode("utf-8")
    return hashlib.sha1(b"blob %d\0" % len(raw) + raw, usedforsecurity=False).hexdigest()


def texts() -> list[tuple[str, str, str]]:
    """(language, path, text) of real files in two languages, and one nasty one."""
    library = Path(sysconfig.get_paths()["stdlib"])
    rows = [("Python", f"{name}.py", (library / f"{name}.py").read_text("utf-8")) for name in NAMES]
    for number in range(12):
        page = f"# Heading {number}\n\n" + "Stones mark the way – größe.\n" * (number + 8)
        rows.append(("Markdown", f"docs/page_{number}.md", page))
    rows.append(("Python", "nasty.py", "x = '<|endoftext|>'\r\n# 中文 🙂\n" * 20))
    return sorted(rows, key=lambda row: row[1])


@dataclass(frozen=True, kw_only=True)
class GivenCorpus(Recipe):
    """Stands for Curate."""

    def run(self, work: Work) -> dict[str, Any]:
        rows = texts()
        table = pa.table(
            {
                "ledger_row": pa.array(range(len(rows)), pa.int64()),
                "content_id": [blob_id(text) for _, _, text in rows],
                "repo_name": ["here"] * len(rows),
                "path": [path for _, path, _ in rows],
                "language": [language for language, _, _ in rows],
                "license_type": ["permissive"] * len(rows),
                "kind": ["source"] * len(rows),
                "detected_licenses": pa.array([["MIT"]] * len(rows), pa.list_(pa.string())),
                "length_bytes": pa.array([len(t.encode()) for _, _, t in rows], pa.int64()),
                "content": [text for _, _, text in rows],
            }
        )
        (work.out / "files").mkdir()
        pq.write_table(table, work.out / "files" / "part-00000.parquet")
        return {}


@dataclass(frozen=True, kw_only=True)
class Untrained(Recipe):
    """Stands for Pretrain: a model as it is drawn."""

    shards: Ref

    def run(self, work: Work) -> dict[str, Any]:
        from cairn.model import build, save

        tokenizer = Tokenizer.load(work.input(self.shards))
        config = untrained("M-*-", tokenizer.vocab_size, chunk_size=16, max_positions=512)
        save(build(config, seed=0), work.out)
        tokenizer.save(work.out)
        return {}


PLAN = {
    "corpus": GivenCorpus(),
    "words": LearnTokenizer(corpus=Ref("corpus"), vocab_size=600),
    "shards": Tokenize(corpus=Ref("corpus"), tokenizer=Ref("words"), heldout=0.4),
    "base": Untrained(shards=Ref("shards")),
}


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the artifacts corpus, words, shards and base."""
    folder = tmp_path_factory.mktemp("runs")
    make(PLAN, folder)
    return folder


@pytest.fixture(scope="session")
def sandbox() -> Sandbox:
    return Sandbox(limits=Limits(seconds=60, cpu_seconds=2))


@pytest.fixture
def setting(sandbox: Sandbox) -> Setting:
    """Without a model: for scoring answers that are given."""
    return Setting(sandbox=sandbox, workers=2)
