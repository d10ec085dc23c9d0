"""Fixtures that every room's tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cairn.base import Recipe, Ref
from cairn.base.make import make
from cairn.model import ModelConfig
from cairn.tokens import LearnTokenizer, Tokenize

from .fixtures.few_files import FewFiles
from .fixtures.shapes import SMALL


@pytest.fixture
def one_thread() -> Iterator[None]:
    """PyTorch computes on one thread, so that tests do not wait for each other."""
    import torch  # most tests need none

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
