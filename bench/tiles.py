"""Block sizes and warps of kernels on a GPU: what their defaults were chosen from.

Prints a line a setting: microseconds, and the share of the copy rate (state update, decoding) or
TFLOP/s (prefill) of the same run.

    python bench/tiles.py [state | replay | decode | prefill]
"""

import argparse
from functools import partial
from itertools import product
from typing import Any

import torch
from kernel_timing import measure_rates, timed
from kernels import FORM, inputs, library, mamba_ssm, mixer, stored

from cairn.ops.attention import AttentionPlan, Pages, attention
from cairn.ops.state import Ring, Rows
from cairn.ops.triton import attention as kernels_of_attention
from cairn.ops.triton.replay import replay as replay_kernel
from cairn.ops.triton.state import update

STATES = ((128, 64, 128), (128, 80, 128))  # H, P, N of 8B and 12B hybrids
TILES = ((16, 1), (16, 2), (32, 1), (32, 2), (32, 4), (64, 2), (64, 4), (64, 8))
HEADS, SHARED, WIDTH, PAGE = 32, 8, 128, 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    choices = {"state": state, "replay": replay, "decode": decode, "prefill": prefill}
    parser.add_argument("what", nargs="?", choices=choices)
    what = parser.parse_args().what
    rates = measure_rates("cuda")
    print(rates)
    with torch.no_grad():
        for name, run in choices.items():
            if what in (None, name):
                run(rates)


def state(rates: dict[str, Any]) -> None:
    """One token of every sequence."""
    for (H, P, N), batch in product(STATES, (64, 1)):
        weights, C = mixer("cuda", H, P, N), H * P + 2 * FORM.groups * N
        parts = inputs("cuda", batch, H * P + C + H).split([H * P, C, H], -1)
        for dtype in (torch.float32, torch.float16, torch.int8):
            memory = stored("cuda", batch, H, P, N, dtype)
            rows = Rows.of([1] * batch, list(range(batch)), "cuda", positions=[99] * batch, seed=1)
            scales = 8 if dtype == torch.int8 else 0
            moved = batch * H * P * (2 * N * memory.state.itemsize + scales)
            for block, warps in TILES:
                tile = {"BLOCK": block, "num_warps": warps}
                call = partial(update, *parts, weights, FORM, memory, rows, tile)
                us = timed(call, "cuda", True) * 1e6
                share = moved / us * 1e6 / rates["copy_bytes_per_s"]
                print(f"state {H}x{P}x{N} {dtype} batch {batch} {tile} {us:.1f} us {share:.3f}")
        memory = stored("cuda", batch, H, P, N, torch.float32)
        us = timed(mamba_ssm(memory.state), "cuda", True) * 1e6
        print(f"mamba-ssm {H}x{P}x{N} fp32 batch {batch} {us:.1f} us, the state alone")


def replay(rates: dict[str, Any]) -> None:
    """The replayed form with few and many tokens to replay, and where it writes (15)."""
    for (H, P, N), batch in product(STATES, (64, 1)):
        weights, C = mixer("cuda", H, P, N), H * P + 2 * FORM.groups * N
        parts = inputs("cuda", batch, H * P + C + H).split([H * P, C, H], -1)
        memory = stored("cuda", batch, H, P, N, torch.float32)
        held = inputs("cuda", batch, 16, H * P + FORM.groups * N)
        steps = torch.rand(batch, 16, H, device="cuda") * 0.1
        ring = Ring(memory.window, held, steps, memory.state, None, 15)
        for (block, warps), fresh in product(TILES, (0, 14, 15)):
            tile = {"BLOCK": block, "num_warps": warps}
            rows = Rows.of([1] * batch, list(range(batch)), "cuda", positions=[99] * batch,
                           fresh=[fresh] * batch)  # fmt: skip
            call = partial(replay_kernel, *parts, weights, FORM, ring, rows, tile)
            us = timed(call, "cuda", True) * 1e6
            print(f"replay {H}x{P}x{N} batch {batch} {tile} fresh {fresh} {us:.1f} us")


def decode(rates: dict[str, Any]) -> None:
    """One query a sequence, keys in shuffled pages, by the length of pieces that keys are split in.

    The last line of each is what is taken unless told.
    """
    chosen = kernels_of_attention.split_of
    for batch, past, window in (
        (1, 2100, None), (8, 2100, None), (64, 2100, None), (256, 2100, None),
        (1, 32_768, None), (64, 4096, None), (64, 16_384, 4096),
    ):  # fmt: skip
        each = -(-past // PAGE)
        keys, values = (inputs("cuda", batch * each, PAGE, SHARED, WIDTH) for _ in range(2))
        table = torch.randperm(batch * each, device="cuda").int().view(batch, each)
        pages = Pages(keys.transpose(1, 2), values.transpose(1, 2), table)
        q, k = inputs("cuda", batch, HEADS, WIDTH), inputs("cuda", batch, SHARED, WIDTH)
        plan = AttentionPlan.of([1] * batch, [past - 1] * batch, "cuda", window)
        for piece in (128, 256, 512, 1024, 2048, None):
            fixed = chosen if piece is None else partial(_always, piece)
            kernels_of_attention.split_of = fixed
            us = timed(partial(attention, q, k, k, plan, pages=pages), "cuda", True) * 1e6
            moved = batch * min(past, window or past) * SHARED * WIDTH * 4
            share = moved / us * 1e6 / rates["copy_bytes_per_s"]
            print(f"decode {batch} x {past} window {window} pieces {piece} {us:.1f} us {share:.2f}")


def _always(piece: int, programs: int, pieces: int) -> int:
    return piece


def prefill(rates: dict[str, Any]) -> None:
    """Spans without and with a past, by the tile; PyTorch's kernels for the first."""
    for new, past in ((8192, 0), (512, 32_768), (2048, 8192)):
        q = inputs("cuda", new, HEADS, WIDTH)
        keys, values = (inputs("cuda", 1, SHARED, past + new, WIDTH) for _ in range(2))
        pages = Pages(keys, values, torch.zeros(1, 1, device="cuda", dtype=torch.int32))
        flops = 4 * HEADS * WIDTH * (new * past + new * new / 2)
        for m, n, warps in ((64, 64, 4), (128, 64, 8), (128, 128, 8)):
            tile = {"BLOCK_M": m, "BLOCK_N": n, "num_warps": warps, "num_stages": 3}
            plan = AttentionPlan.of([new], [past], "cuda")
            call = partial(kernels_of_attention.attend, q, pages, plan, tile)
            rate = flops / timed(call, "cuda", True) / 1e12
            print(f"prefill {new} after {past} {tile} {rate:.0f} TFLOP/s")
        if past == 0:
            flat = [q, *(x[0].transpose(0, 1).contiguous() for x in (keys, values))]
            for name, peer in library(flat, [new], None).items():
                print(
                    f"prefill {new} {name} {flops / timed(peer, 'cuda', True) / 1e12:.0f} TFLOP/s"
                )


if __name__ == "__main__":
    main()
