"""What is cut once and kept."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from cairn.ops.paths import has_triton
from cairn.ops.ragged import Chunks


def chunks() -> Chunks:
    return Chunks.of([3, 5], 4, 3, "cpu")


def tables() -> object:
    from cairn.ops.triton.tables import Tables

    return Tables.of([3, 5], "cpu")


@pytest.mark.parametrize("made", [chunks, tables])
def test_a_thread_keeps_its_own(made: Callable[[], object]):
    """On a GPU another's may not be there yet in this one's stream, or given back too soon."""
    if made is tables and not has_triton():
        pytest.skip("triton is not installed")
    with ThreadPoolExecutor(1) as other:
        there = other.submit(made).result()
        assert made() is made()
        assert other.submit(made).result() is there is not made()


def test_what_is_made_in_inference_mode_is_not_given_to_training():
    with torch.inference_mode():
        bounds = chunks().bounds
        assert chunks().bounds is bounds
    scale = torch.ones(3, requires_grad=True)
    (scale * chunks().bounds).sum().backward()
    assert scale.grad is not None
    assert torch.equal(scale.grad, bounds.clone().float())
