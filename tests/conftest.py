"""Fixtures that every room's tests share."""

import os
from pathlib import Path

import pytest


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
