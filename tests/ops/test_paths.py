"""Which path serves an operation, and that a slow one is never silent on a GPU."""

import pytest
import torch

from cairn.base import UserError
from cairn.ops import paths

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_the_cpu_takes_the_compiled_path_where_it_can() -> None:
    assert paths.choose("scan", CPU, native="") == "native"
    assert paths.choose("scan", CPU, native="no compiler") == "torch"
    assert paths.choose("scan", CPU) == "torch"


def test_a_gpu_takes_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "_triton_missing", lambda: "")
    assert paths.choose("scan", GPU, triton="") == "triton"


def test_a_slow_path_on_a_gpu_is_an_error_that_says_why() -> None:
    with pytest.raises(UserError, match=r"scan.*slow path.*head size 7"):
        paths.choose("scan", GPU, triton="head size 7")


def test_a_slow_path_on_a_gpu_may_be_allowed() -> None:
    with paths.slow_paths():
        assert paths.choose("scan", GPU, triton="head size 7") == "torch"


def test_an_operation_without_a_kernel_is_no_slow_path() -> None:
    assert paths.choose("embedding", GPU) == "torch"


def test_a_missing_triton_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "_triton_missing", lambda: "triton is not installed")
    with pytest.raises(UserError, match="triton is not installed"):
        paths.choose("scan", GPU, triton="")


def test_one_path_can_be_asked_for() -> None:
    with paths.only("torch"):
        assert paths.choose("scan", CPU, native="") == "torch"
        assert paths.choose("scan", GPU, triton="") == "torch"
    with paths.only("triton"):
        assert paths.choose("scan", CPU, native="") == "triton"
    assert paths.choose("scan", CPU, native="") == "native"


def test_choices_are_recorded_with_their_reasons() -> None:
    with paths.recorded() as taken:
        paths.choose("scan", CPU, native="")
        paths.choose("norm", CPU, native="float64")
    assert taken == [paths.Choice("scan", "native"), paths.Choice("norm", "torch", "float64")]
