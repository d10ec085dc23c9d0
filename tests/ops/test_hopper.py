"""What of the kernels for Hopper GPUs can be held on any machine; the rest is in
test_attention_kernel.py."""

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="triton is not installed")
hopper = pytest.importorskip("cairn.ops.triton.hopper", reason="triton has no Gluon")

HEADS, WIDTH, SIZE, PAGES = 3, 64, 16, 5

COMPILE = """
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.experimental.gluon._runtime import GluonASTSource
from cairn.ops.triton import hopper

boxes = f"tensordesc<bf16[{hopper.BOX}, {hopper.PANEL}],{hopper._SWIZZLED!r}>"
sizes = {"HEADS": 8, "SHARE": 4, "WIDTH": 128, "PAGE": 16, "WINDOW": 300, "SCALE": 0.1,
         "BLOCK_N": hopper.BLOCK, "BOX": hopper.BOX, "STAGES": hopper.STAGES}
names = hopper._attend.arg_names
kinds = {"q": "*bf16", "out": "*bf16", "k_desc": boxes, "v_desc": boxes}
kinds |= dict.fromkeys(("table", "bounds", "ends", "tiles"), "*i32")
kinds |= dict.fromkeys(sizes, "constexpr")
values = {(names.index(name),): value for name, value in sizes.items()}
source = GluonASTSource(hopper._attend, {n: kinds.get(n, "i32") for n in names}, values)
made = compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4})
assert "wgmma" in made.asm["ptx"] and "cp.async.bulk.tensor" in made.asm["ptx"]
print(made.metadata.shared)
"""


def test_it_compiles_for_hopper_and_fits_its_shared_memory() -> None:
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    ran = subprocess.run([sys.executable, "-c", COMPILE], env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert int(ran.stdout) <= 227 * 1024


def layouts() -> dict[str, tuple[Tensor, int | None]]:
    """Keys of PAGES pages, each holding other numbers, and the size of a page."""
    numbers = torch.arange(PAGES * HEADS * SIZE * WIDTH, dtype=torch.float32).bfloat16()
    apart = numbers.view(PAGES, HEADS, SIZE, WIDTH)
    beside = numbers.view(PAGES, SIZE, HEADS, WIDTH).transpose(1, 2)
    flat = numbers.view(PAGES * SIZE, HEADS, WIDTH)
    view = torch.cat([flat, flat[:, :1]], 1)[:, :HEADS]  # of one projection
    return {
        "heads apart": (apart, SIZE),
        "heads beside each other": (beside, SIZE),
        "flat": (flat, None),
        "view": (view, None),
    }


@pytest.mark.parametrize("name", layouts())
def test_every_key_is_found_in_the_matrix(name: str) -> None:
    keys, size = layouts()[name]
    matrix = hopper.Matrix.of(keys)
    assert matrix is not None
    for page in range(len(keys)):
        for head in range(HEADS):
            for k in range(size or 1):
                row = page * matrix.page_rows + head * matrix.head_rows + k
                column = head * matrix.head_columns
                wanted = keys[page, head] if size is None else keys[page, head, k]
                assert torch.equal(matrix.whole[row, column : column + WIDTH], wanted)
    q = torch.empty(1, HEADS * 2, WIDTH, dtype=torch.bfloat16)
    assert hopper.unfit(q, keys, keys, size) == ""


def test_what_does_not_fit_is_told() -> None:
    keys, size = layouts()["heads apart"]
    q = torch.empty(1, HEADS, WIDTH, dtype=torch.bfloat16)
    assert "float32" in hopper.unfit(q.float(), keys, keys, size)
    assert "heads of 80" in hopper.unfit(torch.empty(1, 3, 80).bfloat16(), keys, keys, size)
    assert "pages of 8" in hopper.unfit(q, keys[:, :, :8], keys[:, :, :8], 8)
    assert "alike" in hopper.unfit(q, keys, layouts()["heads beside each other"][0], size)
    odd = torch.zeros(PAGES * SIZE * HEADS * WIDTH + 1).bfloat16()[1:].view(keys.shape)
    assert "alike" in hopper.unfit(q, odd, odd, size)  # not on a multiple of 16 bytes
