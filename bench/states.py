"""What narrow recurrent states cost: the error of a mixer over a real text, token by token.

Prints one JSON line a dtype: the relative error against fp32 states, averaged over each quarter
of the text. The mixer has the decays and time steps of fresh models; its projection is random.

    python bench/states.py [--device cuda] [--steps 4096]
"""

import argparse
import json
from pathlib import Path

import torch
from kernel_timing import inputs
from kernels import FORM, mixer, stored

from cairn.ops.state import Rows, state_update


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=device, choices=("cpu", "cuda"))
    parser.add_argument("--steps", type=int, default=4096)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    with torch.no_grad():
        accuracy(arguments.device, arguments.steps)


def accuracy(device: str, steps: int) -> None:
    """Error of a mixer's outputs by the state's dtype, over a real text, against fp32 states."""
    H, P, N = (128, 64, 128) if device == "cuda" else (8, 16, 32)
    text = Path(argparse.__file__).read_bytes()[:steps]
    C = H * P + 2 * FORM.groups * N
    table = inputs(device, 256, H * P + C + H)
    tokens = table[torch.tensor(list(text), device=device)]
    weights = mixer(device, H, P, N)
    kinds = {
        "float32": (torch.float32, None),
        "float16 to nearest": (torch.float16, None),
        "float16 at random": (torch.float16, 1),
        "int8 to nearest": (torch.int8, None),
        "int8 at random": (torch.int8, 1),
    }
    exact = None
    for name, (dtype, seed) in kinds.items():
        memory = stored(device, 1, H, P, N, dtype)
        memory.state.zero_()
        memory.window.zero_()
        out = []
        for t in range(steps):
            parts = tokens[t : t + 1].split([H * P, C, H], -1)
            at = Rows.of([1], [0], device, positions=[t], seed=seed)
            out.append(state_update(*parts, weights, FORM, memory, at))
        y = torch.cat(out).float()
        exact = y if exact is None else exact
        error = (y - exact).norm(dim=-1) / exact.norm(dim=-1)
        quarters = [round(float(part.mean()), 6) for part in error.chunk(4)]
        print(json.dumps({"op": "accuracy", "state": name, "steps": steps,
                          "relative error by quarter": quarters}), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
