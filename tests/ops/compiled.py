"""Compile kernels for a GPU that is not here, and print what became of them, one JSON line each.

`python tests/ops/compiled.py CAPABILITY CASE ...`: a process of its own, since Triton decides when
it is imported whether it interprets kernels. Nothing is launched.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime import driver, jit

BF16, FP32 = torch.bfloat16, torch.float32
TOUCHES_PTX = re.compile(r"(@\S+ )?(ld|st|atom|red|cp)\.(?!param|shared)")
TOUCHES = re.compile(r"(LDG|STG|LD|ST|ATOM|ATOMG|RED|REDG|LDGSTS|UBLKCP|UTMALDG|UTMASTG|EXIT)\b")


class Absent:
    """A GPU of a capability, as far as compiling asks."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int = 0) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)


def told(kernel: Any) -> dict[str, Any]:
    """Shared memory of a compiled kernel, and what it does before it waits for those ahead."""
    ptx = [line.strip() for line in kernel.asm["ptx"].splitlines()]
    waits = [i for i, line in enumerate(ptx) if "griddepcontrol.wait" in line]
    before = [line for line in ptx[: waits[0]] if TOUCHES_PTX.match(line)] if waits else []
    if waits:
        code = instructions(kernel.asm["cubin"])
        waited = next(i for i, line in enumerate(code) if "ACQBULK" in line)
        bare = [re.sub(r"^@!?U?P\d+\s+", "", line) for line in code[:waited]]
        before += [line for line in bare if TOUCHES.match(line)]
    shared, early = kernel.metadata.shared, kernel.metadata.launch_pdl
    return {"shared": shared, "early": early, "waits": len(waits), "before": before}


def instructions(cubin: bytes) -> list[str]:
    """Machine code, an instruction a line."""
    tool = next(Path(triton.__file__).parent.rglob("nvdisasm"))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([tool, "-c", file.name], capture_output=True, text=True, check=True)
    found = (re.search(r"/\*[0-9a-f]{4,}\*/\s+(.*?);", line) for line in text.stdout.splitlines())
    return [match.group(1).strip() for match in found if match]


def e(*shape: int, dtype: torch.dtype = BF16) -> Tensor:
    return torch.empty(*shape, dtype=dtype)


def products() -> None:
    from cairn.ops.triton.few_rows import product

    product(e(1, 4096), e(6144, 4096))
    product(e(1, 15680), e(4480, 15680), e(4480))
    product(e(8, 4096), e(4096, 4096))
    product(e(8, 4096), e(24576, 4096), None, FP32)


def between() -> None:
    from cairn.ops.triton import activation, norm
    from cairn.ops.triton.prelude import prelude

    norm.add_rms_norm(e(3, 4096), e(3, 4096), e(4096), 1e-5)
    norm.gated_rms_norm(e(3, 4096, dtype=FP32), e(3, 4096), e(4096), 8, 1e-5)
    activation.swiglu(e(3, 4096), e(3, 4096))
    q, k, v = (x.unflatten(1, (-1, 128)) for x in e(3, 6144).split([4096, 1024, 1024], 1))
    angles, places = e(3, 64, dtype=FP32), torch.zeros(3, dtype=torch.int64)
    pools, norms = (e(64, 8, 128), e(64, 8, 128)), (e(128), e(128), 1e-6)
    prelude((q, k, v), pools, places, norms, (angles, angles))


def state() -> None:
    from cairn.ops.mamba import MixerForm, MixerWeights
    from cairn.ops.state import Rows, Stored
    from cairn.ops.triton.state import update

    H, P, N, G = 16, 80, 128, 8
    z, xbc, dt = e(3, 2 * H * P + 2 * G * N + H).split([H * P, H * P + 2 * G * N, H], 1)
    C, head = xbc.shape[1], e(H, dtype=FP32)
    weights = MixerWeights(e(C, 1, 4), e(C), head, head, head, e(H * P))
    for dtype in (FP32, torch.int8):
        scales = e(4, H, P, dtype=FP32) if dtype == torch.int8 else None
        stored = Stored(e(4, 3, C), e(4, H, P, N, dtype=dtype), scales)
        rows = Rows.of([1] * 3, [0, 1, 2], positions=[3] * 3, seed=0)
        update(z, xbc, dt, weights, MixerForm(G, G, 1e-5), stored, rows)


def attention(width: int = 128, dtypes: tuple[torch.dtype, ...] = (BF16,)) -> None:
    from cairn.ops.attention import AttentionPlan, Pages
    from cairn.ops.triton.attention import attend

    for dtype in dtypes:
        pool = e(64, 2, 16, width, dtype=dtype)
        for lengths, past in (((1, 1), (2000, 40)), ((200,), (30,))):
            pages = Pages(pool, pool, torch.zeros(len(lengths), 256, dtype=torch.int32))
            plan = AttentionPlan.of(lengths, past, "cpu")
            attend(e(sum(lengths), 8, width, dtype=dtype), pages, plan)


def wide_heads() -> None:
    attention(256, (BF16, FP32))


CASES = {f.__name__: f for f in (products, between, state, attention, wide_heads)}


def main(capability: int, names: list[str]) -> None:
    original = jit.JITFunction.run

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **more: Any) -> Any:
        kernel = original(self, *args, grid=grid, warmup=True, **more)
        name = f"{Path(self.fn.__code__.co_filename).stem}.{self.fn.__name__}"
        sys.stdout.write(json.dumps({"name": name} | told(kernel)) + "\n")
        return kernel

    room = 101376 if capability in (86, 89, 120) else 166912
    driver.set_active(Absent(capability))  # type: ignore[arg-type]
    jit.JITFunction.run = run
    torch.cuda.get_device_capability = lambda device=None: divmod(capability, 10)
    torch.cuda.get_device_properties = lambda device=None: SimpleNamespace(
        multi_processor_count=100, shared_memory_per_block_optin=room
    )
    from cairn.ops.triton import attention as kernels
    from cairn.ops.triton import early

    # Tensors are the host's: what is asked of their device is answered for the absent one.
    there = torch.device("cuda")
    kernels._small = (lambda ask: lambda device: ask(there))(kernels._small)
    early._can = (lambda ask: lambda device: ask(there))(early._can)
    Tensor.is_cuda = property(lambda x: True)  # type: ignore[assignment]
    for name in names:
        CASES[name]()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
