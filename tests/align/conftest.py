"""A corpus of standard-library files, its shards, and a small model made from them."""

from dataclasses import replace
from pathlib import Path

import pytest

from cairn.base import Ref
from cairn.base.make import make
from cairn.tokens import LearnTokenizer, Tokenize
from cairn.train import Pretrain, TrainSettings

from ..fixtures.few_files import FewFiles
from ..fixtures.shapes import SMALL

FILES = ("ast", "bisect", "calendar", "copy", "fnmatch", "heapq", "inspect", "random", "shutil")


PLAN = {
    "corpus": FewFiles(files=FILES),
    "words": LearnTokenizer(corpus=Ref("corpus"), vocab_size=600),
    "shards": Tokenize(corpus=Ref("corpus"), tokenizer=Ref("words"), heldout=0.4),
    "base": Pretrain(
        model=replace(SMALL, max_positions=512),
        shards=Ref("shards"),
        settings=TrainSettings(
            steps=2, sequences=2, sequence_length=64, warmup=1, device="cpu", precision="fp32"
        ),
        heldout_files=1,
    ),
}


@pytest.fixture(autouse=True)
def _on_one_thread(one_thread: None) -> None: ...


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the artifacts corpus, words, shards and base."""
    folder = tmp_path_factory.mktemp("runs")
    make(PLAN, folder)
    return folder
