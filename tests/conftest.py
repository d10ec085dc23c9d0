"""Fixtures that every room's tests share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Public benchmark and example data; tests that need it skip where it is absent."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("CAIRN_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"benchmark data not found at {folder}: set CAIRN_DATA to its folder")
    return folder
