"""Shards of a few standard-library files; one thread, so that tests do not wait for each other."""

from pathlib import Path

import pytest

from cairn.tokens import Tokenizer, TokenShards


@pytest.fixture(autouse=True)
def _on_one_thread(one_thread: None) -> None: ...


@pytest.fixture(scope="session")
def run(tiny_run: Path) -> Path:
    return tiny_run


@pytest.fixture(scope="session")
def tokenizer(run: Path) -> Tokenizer:
    return Tokenizer.load(run / "shards")


@pytest.fixture(scope="session")
def training(run: Path) -> TokenShards:
    return TokenShards.open(run / "shards" / "train")
