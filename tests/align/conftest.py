"""A corpus of standard-library files, its shards, and a small model made from them."""

import hashlib
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from cairn.base import Recipe, Ref, Work
from cairn.base.make import make
from cairn.model import ModelConfig
from cairn.tokens import LearnTokenizer, Tokenize
from cairn.train import Pretrain, TrainSettings

FILES = ("ast", "bisect", "calendar", "copy", "fnmatch", "heapq", "inspect", "random", "shutil")


@dataclass(frozen=True, kw_only=True)
class FewFiles(Recipe):
    """Stands for Curate."""

    files: tuple[str, ...] = FILES

    def run(self, work: Work) -> dict[str, Any]:
        library = Path(sysconfig.get_paths()["stdlib"])
        rows = []
        for number, name in enumerate(self.files):
            raw = (library / f"{name}.py").read_bytes()
            blob = hashlib.sha1(b"blob %d\0" % len(raw) + raw, usedforsecurity=False).hexdigest()
            rows.append(
                {
                    "ledger_row": 3 * number,
                    "content_id": blob,
                    "repo_name": "python/cpython",
                    "path": f"{name}.py",
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


PLAN = {
    "corpus": FewFiles(),
    "words": LearnTokenizer(corpus=Ref("corpus"), vocab_size=600),
    "shards": Tokenize(corpus=Ref("corpus"), tokenizer=Ref("words"), heldout=0.4),
    "base": Pretrain(
        model=ModelConfig(
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
            max_positions=512,
        ),
        shards=Ref("shards"),
        settings=TrainSettings(
            steps=2, sequences=2, sequence_length=64, warmup=1, device="cpu", precision="fp32"
        ),
        heldout_files=1,
    ),
}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the artifacts corpus, words, shards and base."""
    folder = tmp_path_factory.mktemp("runs")
    make(PLAN, folder)
    return folder
