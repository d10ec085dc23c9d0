"""Memory that the process keeps between steps."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cairn.ops.memory import empty_together, fresh

PROGRAM = """
import resource, torch
from cairn.ops.memory import keep_freed_memory
assert keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        parts = [torch.ones(2**20) for _ in range(12)]
        del parts
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="speaks to glibc's allocator")
def test_kept_memory_faults_no_pages():
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100  # without the call nearly always above 30,000


@pytest.mark.parametrize("size", [0, 100, 2**18, 5 * 2**20 + 3])
def test_fresh_memory_is_zeros_and_taken_when_it_is_written(size):
    before = resident()
    given = fresh(size)
    assert given.shape == (size,)
    assert given.data_ptr() % 64 == 0
    assert resident() - before < 2**21
    assert not given.any()
    given.fill_(1)
    assert not fresh(size).any()


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
def test_small_memory_takes_no_large_pages():
    made, before = [fresh(size) for size in (300_000, 2**21 + 5000) for _ in range(20)], resident()
    for tensor in made:
        tensor.fill_(1)
    assert resident() - before < 50 * 2**20  # of which it fills 46; in whole large pages it was 117


def test_memory_that_the_system_refuses():
    for ask in (lambda: fresh(2**60), lambda: empty_together([torch.Size([2**60])], torch.uint8)):
        with pytest.raises(
            MemoryError, match="no memory: the system refuses 1,099,511,627,776 MiB"
        ):
            ask()


def test_tensors_together_are_apart():
    shapes = [torch.Size(s) for s in ((700, 512), (3,), (0, 4), (), (600, 500), (1, 7))]
    made = empty_together(shapes, torch.bfloat16)
    assert [t.shape for t in made] == shapes
    for i, tensor in enumerate(made):
        tensor.fill_(i)
    for i, tensor in enumerate(made):
        assert tensor.dtype == torch.bfloat16
        assert tensor.is_contiguous()
        assert (tensor == i).all()
    large = sorted(t.data_ptr() for t in made if t.numel())
    assert large[-1] - large[0] < 2 * (700 * 512 + 600 * 500 + 4 * 32)
    assert len({t.untyped_storage().data_ptr() for t in made if t.numel()}) == len(large)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
def test_large_tensors_go_one_by_one():
    shapes = [torch.Size(s) for s in ((5,), (40, 2**20), (2**20,), (40, 2**20))]
    made = empty_together(shapes, torch.uint8)
    assert [t.shape for t in made] == shapes
    for i in range(len(made)):
        made[i].fill_(1)
    full = resident()
    made[1] = made[3] = made[0]
    assert resident() < full - 76 * 2**20


def resident() -> int:
    """Bytes that this process has in memory; 0 where nobody tells."""
    if sys.platform != "linux":
        return 0
    status = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in status if line.startswith("VmRSS")).split()[1])
