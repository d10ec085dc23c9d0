"""Kernels compiled for GPUs that are not here: what waits, and what fits their memory."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

needs_triton = pytest.mark.skipif(not find_spec("triton"), reason="triton is not installed")
SHARED = {86: 101_376, 120: 101_376, 90: 232_448}  # bytes of a program at most


def compiled(folder: Path, capability: int, *cases: str, **environment: str) -> list[dict]:
    program = [
        sys.executable,
        str(Path(__file__).parent / "fixtures" / "compiled.py"),
        str(capability),
        *cases,
    ]
    own = os.environ | {"TRITON_CACHE_DIR": str(folder), "TRITON_INTERPRET": "0"} | environment
    done = subprocess.run(program, env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@needs_triton
def test_early_kernels_wait_before_they_touch_memory_in_machine_code_too(tmp_path):
    found = compiled(tmp_path, 90, "products", "between", "state", "attention")
    early = [kernel for kernel in found if kernel["early"]]
    assert {k["name"] for k in early} == {
        "few_rows._row", "rows._product", "rows._join", "norm._forward", "activation._activate",
        "prelude._prelude", "few_tokens._mix_tokens", "state._update", "attention._attend",
    }  # fmt: skip
    for kernel in found:
        assert kernel["waits"] == kernel["early"], kernel
        assert not kernel["before"], kernel
        assert kernel["shared"] <= SHARED[90], kernel


@needs_triton
def test_nothing_is_early_where_it_is_switched_off(tmp_path):
    found = compiled(tmp_path, 90, "between", CAIRN_EARLY="0")
    assert found
    assert not any(kernel["early"] or kernel["waits"] for kernel in found)


@needs_triton
@pytest.mark.parametrize("capability", [86, 120])
def test_gpus_of_less_memory_hold_what_a_program_shares(tmp_path, capability):
    found = compiled(tmp_path, capability, "between", "attention", "wide_heads")
    for kernel in found:
        assert kernel["shared"] <= SHARED[capability], kernel
        assert kernel["waits"] == kernel["early"]
        assert capability >= 90 or not kernel["early"], kernel
