"""Triton kernels run on a GPU where there is one, else through Triton's interpreter."""

import os
from importlib.util import find_spec

import pytest
import torch

if find_spec("triton") and not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when triton is imported


@pytest.fixture(scope="session")
def triton_device() -> torch.device:
    """Where kernels can be held to their twins."""
    pytest.importorskip("triton", reason="triton is not installed")
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
