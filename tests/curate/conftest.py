"""A tree made to meet every rule, and its corpus."""

from pathlib import Path

import pytest

from .fixtures.planted_tree import build, plant


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sources") / "tree"
    plant(root)
    return root


@pytest.fixture(scope="module")
def corpus(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("runs"), tree)
