"""Attention on an NVIDIA GPU beside libraries: cuDNN and FlashAttention 2 through PyTorch, flex
attention, and FlashInfer (with its FlashAttention 3 kernels) where it can be imported.

32 query and 8 key heads of width 128, bf16, causal. Prints one JSON line a case, in microseconds.
`cairn` is what `cairn.ops.attention` chooses, `ours` its own kernel.

    python bench/attention.py
"""

import json
from collections.abc import Callable
from typing import Any

import torch
from kernels import inputs, library, timed
from torch import Tensor

from cairn.ops import paths
from cairn.ops.attention import AttentionPlan, Pages, attention

HEADS, SHARED, WIDTH = 32, 8, 128
RAGGED = [4096, 1000, 300, 77, 2048]
Call = Callable[[], Any]


def main() -> None:
    with torch.no_grad():
        for lengths, window in (([8192], None), (RAGGED, None), ([8192], 1024)):
            tell(f"prefill {lengths}, window {window}", fresh(lengths, window))
        tell("512 tokens after 32768", chunk(512, 32_768))
        for batch, past in ((64, 4096), (256, 2048)):
            tell(f"decode of {batch} after {past}, pages of 16", decode(batch, past))


def tell(case: str, calls: dict[str, Call]) -> None:
    found: dict[str, Any] = {"case": case}
    for name, call in calls.items():
        try:
            found[name] = round(timed(call, "cuda", True) * 1e6, 1)
        except Exception as error:  # of any library
            torch.cuda.synchronize()
            found[name] = f"{type(error).__name__} {error}"[:120]
    print(json.dumps(found), flush=True)


def forced(call: Call) -> Call:
    def run() -> Any:
        with paths.only("triton"):
            return call()

    return run


def fresh(lengths: list[int], window: int | None) -> dict[str, Call]:
    """Spans without a past."""
    q, k, v = (inputs("cuda", sum(lengths), n, WIDTH) for n in (HEADS, SHARED, SHARED))
    plan = AttentionPlan.of(lengths, None, "cuda", window)
    calls: dict[str, Call] = {"cairn": lambda: attention(q, k, v, plan)}
    calls["ours"] = forced(calls["cairn"])
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
    """Some tokens of one sequence after a past in one piece."""
    q = inputs("cuda", new, HEADS, WIDTH)
    keys, values = (inputs("cuda", 1, SHARED, past + new, WIDTH) for _ in range(2))
    k, v = (x[0].transpose(0, 1)[-new:] for x in (keys, values))
    pages = Pages(keys, values, torch.zeros(1, 1, device="cuda", dtype=torch.int32))
    plan = AttentionPlan.of([new], [past], "cuda")

    def theirs() -> Tensor:
        import flashinfer  # type: ignore[import-not-found]

        return flashinfer.single_prefill_with_kv_cache(
            q, keys[0], values[0], causal=True, kv_layout="HND", backend="fa3"
        )

    return {"cairn": lambda: attention(q, k, v, plan, pages=pages), "FlashInfer, FA3": theirs}


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

    return {"cairn": lambda: attention(q, k, k, plan, pages=pages), "FlashInfer": theirs}


if __name__ == "__main__":
    main()
