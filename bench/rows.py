"""Products of few rows on an NVIDIA GPU: ours (`ops/triton/few_rows.py`, for E4M3 `rows.py`) beside
the library's, in microseconds and as a share of the time in which the weight is read at the
measured copy rate.

Weights have the shapes of the 9B hybrid, of Qwen3-8B (joined) and its vocabulary, bf16 and E4M3;
float8 counts the cast of the rows.

    python bench/rows.py [--rows 1,2,4,8,16,32,64] [--weights in,out,up,down,...] [--tiles]

`--tiles` tries blocks of our products at the fewest rows. One JSON line a case.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from itertools import product as every
from typing import Any

import torch
from kernel_timing import measure_rates, timed

from cairn.ops import narrow
from cairn.ops.triton import few_rows
from cairn.ops.triton.rows import parts_of, product

SHAPES = {
    "in": (22_656, 4480),
    "out": (4480, 10_240),
    "up": (15_680, 4480),
    "down": (4480, 15_680),
    "qwen-qkv": (6144, 4096),
    "qwen-o": (4096, 4096),
    "qwen-gate-up": (24_576, 4096),
    "qwen-down": (4096, 12_288),
    "qwen-vocabulary": (151_936, 4096),
}
COPIES = 6  # of a weight, in turn: more than the cache holds

WIDE_TILES = [  # outputs, steps at once; few rows of bf16
    (4, 4),
    (2, 4),
    (1, 4),
    (8, 2),
    (4, 5),
]
WIDE_DOTS = [  # outputs, inner, warps, stages, parts; more rows of bf16
    (64, 128, 4, 4, 1),
    (64, 128, 4, 4, 2),
    (64, 128, 4, 4, 4),
    (64, 128, 4, 6, 1),
    (64, 256, 4, 4, 1),
    (32, 256, 2, 4, 1),
    (16, 512, 2, 3, 1),
]
TILES = [  # outputs, inner, warps, stages, parts of the inner dimension (0: by shape)
    (64, 128, 4, 4, 0),
    (64, 128, 4, 6, 0),
    (64, 256, 4, 3, 0),
    (64, 256, 8, 3, 0),
    (32, 256, 4, 4, 0),
    (32, 512, 4, 3, 0),
    (128, 128, 8, 4, 0),
    (64, 256, 4, 3, 1),
    (64, 256, 4, 3, 8),
]

Call = Callable[[], Any]


class Case:
    """One weight in both kinds, and rows."""

    def __init__(self, name: str, rows: int) -> None:
        outputs, inner = SHAPES[name]
        self.x = torch.randn(rows, inner, device="cuda", dtype=torch.bfloat16)
        self.dtype = torch.float32 if "vocabulary" in name else torch.bfloat16
        shape = (COPIES, outputs, inner)
        self.wide = torch.randn(shape, device="cuda", dtype=torch.bfloat16) / inner**0.5
        found = [narrow.narrowed(weight) for weight in self.wide]
        self.narrow, self.inverse = (list(part) for part in zip(*found, strict=True))

    def ours(self, launch: dict[str, int] | None = None) -> Call:
        """bf16, and to fp32 by a vocabulary."""
        kind = self.dtype
        return lambda: [few_rows.product(self.x, w, None, kind, launch) for w in self.wide]

    def library(self) -> Call:
        """bf16, and to fp32 by a vocabulary."""
        linear, kind = torch.nn.functional.linear, self.dtype
        return lambda: [linear(self.x, weight).to(kind) for weight in self.wide]

    def float8(self, few: int, launch: dict[str, int] | None = None) -> Call:
        """Rows cast and multiplied: by ours up to `few` rows, or with a launch of its own."""
        if launch is not None:
            rows, scales = narrow.cast_rows(self.x)
            pairs = list(zip(self.narrow, self.inverse, strict=True))
            return lambda: [
                product(rows, w, scales, i, torch.bfloat16, dict(launch)) for w, i in pairs
            ]

        def call() -> None:
            narrow.FEW = few
            for weight, inverse in zip(self.narrow, self.inverse, strict=True):
                narrow.narrow_linear(self.x, weight, inverse)

        return call


def microseconds(call: Call) -> float:
    """Of one product."""
    return round(timed(call, "cuda", True) / COPIES * 1e6, 2)


def compared(names: list[str], rows: list[int], copy: float) -> Iterator[dict[str, Any]]:
    """All four ways."""
    for name, count in every(names, rows):
        case = Case(name, count)
        calls = {
            "bf16, library": case.library(),
            "bf16, ours": case.ours(),
            "float8, library": case.float8(0),
            "float8, ours": case.float8(10**9),
        }
        found = {what: microseconds(call) for what, call in calls.items()}
        floors = {2: case.wide[0].nbytes / copy * 1e6, 1: case.narrow[0].nbytes / copy * 1e6}
        shares = {
            what: round(floors[2 if "bf16" in what else 1] / spent, 2)
            for what, spent in found.items()
        }
        yield {"weight": name, "rows": count, "us": found, "of_floor": shares}


def tiles(names: list[str], rows: int, copy: float) -> Iterator[dict[str, Any]]:
    """Blocks of our products; with weights in 8 bits without the cast of the rows."""
    for name in names:
        case = Case(name, rows)
        floor, found = case.narrow[0].nbytes / copy * 1e6, {}
        for o, k, warps, stages, parts in TILES:
            parts = parts or parts_of(*SHAPES[name], o, k)
            tile = {"BLOCK_O": o, "BLOCK_K": k, "num_warps": warps, "num_stages": stages}
            spent = microseconds(case.float8(0, tile | {"PARTS": parts}))
            found[f"{o} x {k}, {warps} warps, {stages} stages, {parts} parts"] = spent
        yield _ranked(name, rows, "float8", floor, found)
        yield _ranked(name, rows, "bf16", 2 * floor, _wide(case, rows))


def _wide(case: Case, rows: int) -> dict[str, float]:
    if rows == 1:
        tried = [{"BLOCK_O": o, "UNROLL": steps} for o, steps in WIDE_TILES]
    else:
        tried = [
            {"BLOCK_O": o, "BLOCK_K": k, "num_warps": warps, "num_stages": stages, "PARTS": parts}
            for o, k, warps, stages, parts in WIDE_DOTS
        ]
    return {str(tile): microseconds(case.ours(tile)) for tile in tried}


def _ranked(
    name: str, rows: int, kind: str, floor: float, found: dict[str, float]
) -> dict[str, Any]:
    best = dict(sorted(found.items(), key=lambda pair: pair[1]))
    return {"weight": name, "rows": rows, "kind": kind, "floor_us": round(floor, 2), "us": best}


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="1,8,16,32,64")
    parser.add_argument("--weights", default=",".join(list(SHAPES)[:4]), help=", ".join(SHAPES))
    parser.add_argument("--tiles", action="store_true")
    told = parser.parse_args()
    counts = [int(n) for n in told.rows.split(",")]
    with torch.inference_mode():
        rates = measure_rates("cuda")
        print(json.dumps({"bench": "rows", **rates}), flush=True)
        copy = rates["copy_bytes_per_s"]
        names = told.weights.split(",")
        lines = tiles(names, counts[0], copy) if told.tiles else compared(names, counts, copy)
        for line in lines:
            print(json.dumps({"bench": "rows"} | line), flush=True)


if __name__ == "__main__":
    main()
