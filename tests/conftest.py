"""Fixtures that every room's tests share."""

import hashlib
import os
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cairn.base import Recipe, Ref, Work
from cairn.base.make import make
from cairn.model import ModelConfig
from cairn.tokens import LearnTokenizer, Tokenize

FILES = "abc.py bisect.py copy.py csv.py heapq.py keyword.py queue.py sched.py string.py types.py"

SMALL = ModelConfig(
    pattern="M*-",
    vocab_size=0,
    hidden_size=32,
    intermediate_size=64,
    attention_heads=2,
    key_value_heads=1,
    head_dim=16,
    mamba_heads=4,
    mamba_head_dim=16,
    state_size=16,
    groups=2,
    chunk_size=32,
    max_positions=256,
)


@dataclass(frozen=True, kw_only=True)
class FewFiles(Recipe):
    """Stands for Curate: a corpus of ten files."""

    def run(self, work: Work) -> dict[str, Any]:
        library = Path(sysconfig.get_paths()["stdlib"])
        rows = []
        for number, name in enumerate(FILES.split()):
            raw = (library / name).read_bytes()
            blob = hashlib.sha1(b"blob %d\0" % len(raw) + raw, usedforsecurity=False).hexdigest()
            rows.append(
                {
                    "ledger_row": number,
                    "content_id": blob,
                    "repo_name": "python/cpython",
                    "path": name,
                    "language": "Python",
                    "license_type": "permissive",
                    "kind": "source",
                    "detected_licenses": ["PSF-2.0"],
                    "length_bytes": len(raw),
                    "content": raw.decode(),
                }
            )
        (work.out / "files").mkdir()
        pq.write_table(pa.Table.from_pylist(rows), work.out / "files" / "part-00000.parquet")
        return {}


@pytest.fixture(scope="session")
def small_model() -> ModelConfig:
    """The shape of a model small enough to train in a test."""
    return SMALL


@pytest.fixture(scope="session")
def few_files() -> Recipe:
    """A recipe that makes a corpus of ten files."""
    return FewFiles()


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with the artifacts corpus, words and shards."""
    plan = {
        "corpus": FewFiles(),
        "words": LearnTokenizer(corpus=Ref("corpus"), vocab_size=512),
        "shards": Tokenize(corpus=Ref("corpus"), tokenizer=Ref("words"), heldout=0.3),
    }
    folder = tmp_path_factory.mktemp("run")
    make(plan, folder)
    return folder


def _benchmark_folder() -> Path | None:
    """CAIRN_DATA, or a `data` folder with the benchmarks in a sibling of the checkout."""
    if "CAIRN_DATA" in os.environ:
        return Path(os.environ["CAIRN_DATA"])
    beside = Path(__file__).resolve().parents[2]
    return next((found.parent for found in beside.glob("*/data/humaneval")), None)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Public benchmark and example data; tests that need it skip where it is absent."""
    folder = _benchmark_folder()
    if folder is None or not folder.is_dir():
        pytest.skip("no benchmark data: set CAIRN_DATA to its folder (see docs/evaluation.md)")
    return folder
