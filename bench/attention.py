"""Attention on an NVIDIA GPU beside libraries: cuDNN and FlashAttention 2 through PyTorch, flex
attention, and FlashInfer (with its FlashAttention 3 kernels) where it can be imported.

32 query and 8 key heads of width 128, bf16, causal. Prints one JSON line a case, in microseconds.
`cairn` is what `cairn.ops.attention` chooses, `any GPU` our kernel that needs no Hopper GPU.

    python bench/attention.py [--own]
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from kernels import inputs, library, timed
from torch import Tensor
from torch.nn import functional

from cairn.ops.attention import AttentionPlan, Pages, attention
from cairn.ops.triton import attention as kernels_of_attention

HEADS, SHARED, WIDTH = 32, 8, 128
OWN = False  # whether libraries but cuDNN are left out
RAGGED = [4096, 1000, 300, 77, 2048]
Call = Callable[[], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--own", action="store_true", help="cairn and cuDNN alone")
    global OWN
    OWN = parser.parse_args().own
    with torch.no_grad():
        first_calls()
        for lengths, window in (([8192], None), (RAGGED, None), ([8192], 1024)):
            tell(f"prefill {lengths}, window {window}", fresh(lengths, window))
        for new, past in ((512, 32_768), (8192, 57_344)):
            tell(f"{new} tokens after {past}, pages of 16", chunk(new, past))
        for batch, past in ((64, 4096), (256, 2048)):
            tell(f"decode of {batch} after {past}, pages of 16", decode(batch, past))


def tell(case: str, calls: dict[str, Call]) -> None:
    found: dict[str, Any] = {"case": case}
    for name, call in calls.items():
        if OWN and not name.startswith(("cairn", "any GPU", "SDPA cuDNN", "cuDNN")):
            continue
        try:
            found[name] = round(timed(call, "cuda", True) * 1e6, 1)
        except Exception as error:  # of any library
            torch.cuda.synchronize()
            found[name] = f"{type(error).__name__} {error}"[:120]
    print(json.dumps(found), flush=True)


def first_calls() -> None:
    """Milliseconds of the first call at a length, after one at another, and of one more."""
    found: dict[str, Any] = {"case": "first call of a length, ms"}
    for name in ("cairn", "cuDNN"):
        for length in (4000, 5000, 6000):
            q, k, v = (inputs("cuda", length, n, WIDTH) for n in (HEADS, SHARED, SHARED))
            plan = AttentionPlan.of([length], None, "cuda")
            own = partial(attention, q, k, v, plan)
            call = own if name == "cairn" else library([q, k, v], [length], None)["SDPA cuDNN"]
            spent = []
            for _ in range(2):
                torch.cuda.synchronize()
                began = time.perf_counter()
                call()
                torch.cuda.synchronize()
                spent.append(round((time.perf_counter() - began) * 1000, 2))
            found[f"{name}, {length}"] = spent
    print(json.dumps(found), flush=True)


def any_gpu(q: Tensor, pages: Pages, plan: AttentionPlan) -> Call:
    """Our kernel that serves any GPU."""
    return lambda: kernels_of_attention.attend(q, pages, plan, {"BLOCK_M": 128})


def fresh(lengths: list[int], window: int | None) -> dict[str, Call]:
    """Spans without a past."""
    q, k, v = (inputs("cuda", sum(lengths), n, WIDTH) for n in (HEADS, SHARED, SHARED))
    plan = AttentionPlan.of(lengths, None, "cuda", window)
    calls: dict[str, Call] = {"cairn": lambda: attention(q, k, v, plan)}
    flat = Pages(k, v, plan.bounds(k.device)[:-1, None])
    calls["any GPU"] = any_gpu(q, flat, plan)
    calls |= library([q, k, v], lengths, window)
    calls["flex"] = flex(q, k, v, lengths, window)
    calls["FlashInfer, FA3"] = flashinfer_ragged(q, k, v, lengths, window)
    return calls


def flex(q: Tensor, k: Tensor, v: Tensor, lengths: list[int], window: int | None) -> Call:
    """Flex attention of spans side by side, compiled."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    span = torch.arange(len(lengths), device="cuda").repeat_interleave(
        torch.tensor(lengths, device="cuda")
    )

    def seen(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        found = (i >= j) & (span[i] == span[j])
        return found if window is None else found & (i - j < window)

    mask = create_block_mask(seen, None, None, len(q), len(q), device="cuda")
    compiled = torch.compile(flex_attention)
    heads = [x.transpose(0, 1)[None].contiguous() for x in (q, k, v)]
    return lambda: compiled(*heads, block_mask=mask, enable_gqa=True)


def flashinfer_ragged(
    q: Tensor, k: Tensor, v: Tensor, lengths: list[int], window: int | None
) -> Call:
    made: list[Any] = []

    def call() -> Tensor:
        if not made:
            import flashinfer  # type: ignore[import-not-found]

            space = torch.empty(2**28, dtype=torch.uint8, device="cuda")
            made.append(
                flashinfer.BatchPrefillWithRaggedKVCacheWrapper(space, "NHD", backend="fa3")
            )
            bounds = torch.tensor([0, *lengths]).cumsum(0).int().cuda()
            made[0].plan(
                bounds, bounds, HEADS, SHARED, WIDTH, causal=True, q_data_type=q.dtype,
                window_left=-1 if window is None else window - 1,
            )  # fmt: skip
        return made[0].run(q, k, v)

    return call


def chunk(new: int, past: int) -> dict[str, Call]:
    """Some tokens of one sequence after a past in shuffled pages; libraries gather them first."""
    q = inputs("cuda", new, HEADS, WIDTH)
    count = (past + new) // 16
    pools = [inputs("cuda", count, SHARED, 16, WIDTH) for _ in range(2)]
    order = torch.randperm(count, device="cuda")
    k, v = (x[order].transpose(1, 2).flatten(0, 1)[-new:] for x in pools)
    pages = Pages(pools[0], pools[1], order.int()[None])
    plan = AttentionPlan.of([new], [past], "cuda")

    def gathered() -> list[Tensor]:
        return [x[order].transpose(0, 1).reshape(1, SHARED, -1, WIDTH) for x in pools]

    def in_one_piece() -> Tensor:
        keys, values = gathered()
        table = torch.zeros(1, 1, device="cuda", dtype=torch.int32)
        return any_gpu(q, Pages(keys, values, table), plan)()

    def theirs() -> Tensor:
        import flashinfer  # type: ignore[import-not-found]

        keys, values = gathered()
        return flashinfer.single_prefill_with_kv_cache(
            q, keys[0], values[0], causal=True, kv_layout="HND", backend="fa3"
        )

    return {
        "cairn": lambda: attention(q, k, v, plan, pages=pages),
        "any GPU": any_gpu(q, pages, plan),
        "any GPU, gathered": in_one_piece,
        "varlen, gathered": varlen_after(q, gathered),
        "cuDNN in two, gathered": in_two(q, gathered, past),
        "flex, gathered": flex_after(q, gathered, past),
        "FlashInfer, FA3": theirs,
    }


def varlen_after(q: Tensor, gathered: Callable[[], list[Tensor]]) -> Call:
    """FlashAttention 2: the last query sees all keys."""
    from torch.nn.attention.varlen import varlen_attn

    keys = len(gathered()[0][0, 0])
    ends = [torch.tensor([0, size], dtype=torch.int32, device="cuda") for size in (len(q), keys)]

    def call() -> Tensor:
        keys, values = (x[0].transpose(0, 1).contiguous() for x in gathered())
        return varlen_attn(q, keys, values, *ends, len(q), len(keys), window_size=(-1, 0))

    return call


def in_two(q: Tensor, gathered: Callable[[], list[Tensor]], past: int) -> Call:
    """cuDNN over the past without a mask and over the new causally, joined by their sums."""
    op = torch.ops.aten._scaled_dot_product_cudnn_attention
    heads = q.transpose(0, 1)[None].contiguous()

    def part(keys: Tensor, values: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
        out, sums, *_ = op(heads, keys, values, None, True, 0.0, causal)
        return out, sums.view(1, HEADS, -1, 1)

    def call() -> Tensor:
        keys, values = gathered()
        before, a = part(keys[:, :, :past], values[:, :, :past], False)
        own, b = part(keys[:, :, past:], values[:, :, past:], True)
        share = torch.sigmoid(a - b)
        return torch.lerp(own.float(), before.float(), share).to(q.dtype)

    return call


def flex_after(q: Tensor, gathered: Callable[[], list[Tensor]], past: int) -> Call:
    """Flex attention, compiled."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def seen(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return i + past >= j

    mask = create_block_mask(seen, None, None, len(q), past + len(q), device="cuda")
    compiled, heads = torch.compile(flex_attention), q.transpose(0, 1)[None].contiguous()
    return lambda: compiled(heads, *gathered(), block_mask=mask, enable_gqa=True)


def decode(batch: int, past: int) -> dict[str, Call]:
    """One token of every sequence, its keys in shuffled pages."""
    count = -(-past // 16)
    keys, values = (inputs("cuda", batch * count, SHARED, 16, WIDTH) for _ in range(2))
    table = torch.randperm(batch * count, device="cuda").int().view(batch, count)
    q, k = inputs("cuda", batch, HEADS, WIDTH), inputs("cuda", batch, SHARED, WIDTH)
    plan = AttentionPlan.of([1] * batch, [past - 1] * batch, "cuda")
    pages, made = Pages(keys, values, table), []

    def theirs() -> Tensor:
        if not made:
            import flashinfer  # type: ignore[import-not-found]

            space = torch.empty(2**28, dtype=torch.uint8, device="cuda")
            made.append(
                flashinfer.BatchDecodeWithPagedKVCacheWrapper(space, "HND", use_tensor_cores=True)
            )
            bounds = torch.arange(0, batch * count + 1, count, dtype=torch.int32, device="cuda")
            last = torch.full((batch,), past - (count - 1) * 16, dtype=torch.int32, device="cuda")
            made[0].plan(
                bounds, table.flatten(), last, HEADS, SHARED, WIDTH, 16, q_data_type=q.dtype
            )
        return made[0].run(q, (keys, values))

    def gathered() -> Tensor:
        whole = [
            x[table.flatten()].view(batch, count, SHARED, 16, WIDTH).transpose(1, 2).flatten(2, 3)
            for x in (keys, values)
        ]
        return functional.scaled_dot_product_attention(q[:, :, None], *whole, enable_gqa=True)

    return {
        "cairn": lambda: attention(q, k, k, plan, pages=pages),
        "SDPA, gathered": gathered,
        "FlashInfer": theirs,
    }


if __name__ == "__main__":
    main()
