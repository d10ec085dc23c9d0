"""Every operation but the scan: time over the floor of the bytes it must move or the arithmetic
it must do, at the device's own copy and matrix rates of the same run, beside peers.

Prints one JSON line a measurement. Peers: the plain PyTorch path (`torch`), torch.compile where
it is fair, PyTorch's own attention kernels, causal-conv1d and mamba-ssm's Triton state update where
they can be imported (it computes the state alone: no convolution, gate or norm). On a CPU shapes
are small.

    python bench/kernels.py [--device cuda] [--only state] [--no-compile]
"""

import argparse
import json
from collections.abc import Callable, Iterator
from typing import Any

import torch
from kernel_timing import Call, Measured, backward, inputs, measure_rates, plain, report
from torch import Tensor
from torch.nn import functional

from cairn.ops import paths
from cairn.ops.activation import gelu_tanh, swiglu
from cairn.ops.attention import AttentionPlan, Pages, attention
from cairn.ops.conv import causal_conv
from cairn.ops.layernorm import layer_norm
from cairn.ops.loss import linear_cross_entropy, linear_kl
from cairn.ops.mamba import MixerForm, MixerWeights
from cairn.ops.norm import add_rms_norm, gated_rms_norm, squared_relu
from cairn.ops.ragged import Chunks
from cairn.ops.rotary import rotate
from cairn.ops.state import Ring, Rows, Stored, replayed_update, state_update


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=device, choices=("cpu", "cuda"))
    parser.add_argument("--only", help="a part of the operation's name")
    parser.add_argument("--no-compile", dest="compiled", action="store_false")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    device = arguments.device
    rates = measure_rates(device)
    print(json.dumps(rates), flush=True)
    compiled = arguments.compiled and device == "cuda"
    for group in (state, convolutions, rows, attentions, losses):
        for one in group(device, compiled):
            if not arguments.only or arguments.only in one.op:
                report(one, device, rates)


FORM = MixerForm(groups=8, norm_groups=8, eps=1e-5)


def mixer(device: str, H: int, P: int, N: int) -> MixerWeights:
    """Parameters as fresh models have them."""
    C = H * P + 2 * FORM.groups * N
    dt = torch.empty(H, device=device).uniform_(-6.9, -2.3).exp()
    return MixerWeights(
        inputs(device, C, 1, 4) * 0.3,
        inputs(device, C) * 0.1,
        torch.empty(H, device=device).uniform_(1, 16).log(),
        torch.ones(H, device=device),
        dt + torch.log(-torch.expm1(-dt)),
        torch.ones(H * P, device=device, dtype=inputs(device, 1).dtype),
    )


def stored(device: str, slots: int, H: int, P: int, N: int, dtype: torch.dtype) -> Stored:
    C = H * P + 2 * FORM.groups * N
    values = torch.randn(slots, H, P, N, device=device).mul_(10).to(dtype)
    scales = torch.rand(slots, H, P, device=device) if dtype == torch.int8 else None
    return Stored(inputs(device, slots, 3, C), values, scales)


def state(device: str, compiled: bool) -> Iterator[Measured]:
    """One token of many sequences: the usual form in three dtypes, and replayed."""
    gpu = device == "cuda"
    shapes = ((128, 64, 128), (128, 80, 128)) if gpu else ((16, 64, 128),)
    for H, P, N in shapes:
        weights = mixer(device, H, P, N)
        C = H * P + 2 * FORM.groups * N
        for batch in (1, 64, 256) if gpu else (4,):
            parts = inputs(device, batch, H * P + C + H).split([H * P, C, H], -1)
            rest = batch * (2 * H * P + 7 * C + H) * parts[0].itemsize  # z, y, window and inputs
            for dtype in (torch.float32, torch.float16, torch.int8):
                memory = stored(device, batch, H, P, N, dtype)
                seed = None if dtype == torch.float32 else 1
                at = Rows.of([1] * batch, list(range(batch)), device, positions=[99] * batch,
                             seed=seed)  # fmt: skip
                size = memory.state.itemsize * N + (4 if dtype == torch.int8 else 0)
                peers = {"mamba-ssm": mamba_ssm(memory.state)} if gpu and seed is None else {}
                if gpu and seed is None:
                    peers["torch"] = eager_step(memory, parts, weights)
                yield Measured(
                    "state_update", f"{H}x{P}x{N} {str(dtype)[6:]} batch {batch}",
                    lambda p=parts, w=weights, m=memory, a=at: state_update(*p, w, FORM, m, a),
                    bytes=2 * batch * H * P * size + rest, peers=peers,
                )  # fmt: skip
            for fresh in (7, 15):
                memory = stored(device, batch, H, P, N, torch.float32)
                held = inputs(device, batch, 16, H * P + FORM.groups * N)
                steps = torch.rand(batch, 16, H, device=device) * 0.1
                ring = Ring(memory.window, held, steps, memory.state, None, 15)
                at = Rows.of([1] * batch, list(range(batch)), device, positions=[99] * batch,
                             fresh=[fresh] * batch)  # fmt: skip
                writes = fresh == 15
                yield Measured(
                    "replayed_update",
                    f"{H}x{P}x{N} float32 batch {batch} {'writing' if writes else 'not writing'}",
                    lambda p=parts, w=weights, r=ring, a=at: replayed_update(*p, w, FORM, r, a),
                    bytes=batch * H * P * N * 4 * (2 if writes else 1) + rest
                    + batch * fresh * held.shape[2] * held.itemsize,
                )  # fmt: skip


def mamba_ssm(memory: Tensor) -> Call:
    """Its state update on the same pool."""
    batch, H, P, N = memory.shape
    device = memory.device
    x, B = inputs("cuda", batch, H, P), inputs("cuda", batch, 8, N)
    A = -torch.rand(H, device=device)[:, None, None].expand(H, P, N)
    dt = inputs("cuda", batch, H)[:, :, None].expand(batch, H, P)
    D = torch.ones(H, device=device)[:, None].expand(H, P)
    at = torch.arange(batch, device=device, dtype=torch.int32)

    def call() -> Tensor:
        from mamba_ssm.ops.triton.selective_state_update import (  # type: ignore[import-not-found]
            selective_state_update,
        )

        return selective_state_update(
            memory, x, dt, A, B, B, D, dt_bias=D, dt_softplus=True, state_batch_indices=at
        )

    return call


def eager_step(memory: Stored, parts: tuple[Tensor, ...], weights: MixerWeights) -> Call:
    """All sequences at once, in PyTorch's operations."""
    z, xbc, dt = parts
    batch, H, P, N = memory.state.shape
    inner = H * P

    def call() -> Tensor:
        seen = torch.cat([memory.window, xbc[:, None]], 1)
        memory.window.copy_(seen[:, 1:])
        mixed = functional.silu((seen * weights.conv[:, 0].t()).sum(1) + weights.conv_bias).float()
        x, B, C = mixed.split([inner, 8 * N, 8 * N], -1)
        B, C = (m.view(batch, 8, N).repeat_interleave(H // 8, 1) for m in (B, C))
        step = functional.softplus(dt.float() + weights.dt_bias)
        x = x.view(batch, H, P)
        memory.state.mul_(torch.exp(-step * weights.A_log.exp())[..., None, None])
        memory.state.addcmul_((step[..., None] * x)[..., None], B[:, :, None])
        y = (memory.state @ C[..., None])[..., 0] + weights.D[:, None] * x
        with paths.only("torch"):
            return gated_rms_norm(y.flatten(1), z, weights.norm, 8, 1e-5)

    return call


def convolutions(device: str, compiled: bool) -> Iterator[Measured]:
    """The convolution of long spans with SiLU, beside causal-conv1d's, forward and backward."""
    T, C = (65_536, 10_240) if device == "cuda" else (512, 768)
    x, weight, bias = inputs(device, T, C), inputs(device, C, 1, 4), inputs(device, C)
    chunks = Chunks.of([T], 128, 3, device)
    moved = T * C * x.itemsize
    run: Call = lambda: causal_conv(x, weight, bias, chunks)  # noqa: E731
    peers = {"torch": plain(run), "causal-conv1d": conv1d(x, weight, bias)}
    yield Measured("causal_conv", f"{T}x{C}", run, 2 * moved, peers=peers)
    leaves = [v.detach().requires_grad_() for v in (x, weight, bias)]
    with torch.enable_grad():
        own = backward(lambda: causal_conv(*leaves, chunks), leaves)
    peers = {"causal-conv1d": conv1d(x, weight, bias, torch.randn_like(x))}
    yield Measured("causal_conv backward", f"{T}x{C}", own, 3 * moved, peers=peers, graph=False)


def conv1d(x: Tensor, weight: Tensor, bias: Tensor, grad: Tensor | None = None) -> Call:
    """Its kernels over one sequence whose channels lie together, as a model's do."""
    like = [t.t()[None] for t in (x, torch.empty_like(x), torch.empty_like(x))]
    taps = weight[:, 0].contiguous()

    def call() -> Tensor:
        import causal_conv1d_cuda as kernels  # type: ignore[import-not-found]

        if grad is None:
            kernels.causal_conv1d_fwd(like[0], taps, bias, None, None, like[1], None, True)
            return like[1]
        to_taps, to_bias = (torch.zeros_like(t, dtype=torch.float32) for t in (taps, bias))
        kernels.causal_conv1d_bwd(
            like[0], taps, bias, grad.t()[None], None, None, None, like[1], to_taps, to_bias, None,
            True,
        )  # fmt: skip
        return like[1]

    return call


def rows(device: str, compiled: bool) -> Iterator[Measured]:
    """Norms, activations and rotary positions, forward and backward."""
    T, D, F = (16_384, 4096, 21_504) if device == "cuda" else (512, 512, 1024)
    x, other, wide, gate = (inputs(device, T, n) for n in (D, D, F, F))
    z, weight, bias = inputs(device, T, 2 * D), inputs(device, D), inputs(device, D)
    q, k = inputs(device, T, 32, D // 32), inputs(device, T, 8, D // 32)
    cos, sin = torch.rand(2, T, D // 64, device=device).unbind(0)
    cases: list[tuple[str, Callable[..., Any], list[Tensor], int, int]] = [
        # operation, call, inputs, tensors read and written forward, backward (in elements)
        ("add_rms_norm", lambda *a: add_rms_norm(*a, 1e-5), [x, other, weight], 4 * D, 4 * D),
        ("gated_rms_norm", lambda x, z, w: gated_rms_norm(x, z[:, D:], w, 8, 1e-5),
         [x, z, weight], 3 * D, 5 * D),
        ("layer_norm", lambda *a: layer_norm(*a, 1e-5), [x, weight, bias], 2 * D, 3 * D),
        ("squared_relu", squared_relu, [wide], 2 * F, 3 * F),
        ("gelu_tanh", gelu_tanh, [wide], 2 * F, 3 * F),
        ("swiglu", swiglu, [gate, wide], 3 * F, 5 * F),
        ("rotate", lambda q, k: rotate(q, k, cos, sin), [q, k], 5 * D // 2, 5 * D // 2),
    ]  # fmt: skip
    fused = {
        "add_rms_norm": lambda x, r, w: (functional.rms_norm(x + r, (D,), w, 1e-5), x + r),
        "swiglu": lambda g, u: functional.silu(g) * u,
    }
    for name, call, values, forward, back in cases:
        run: Call = lambda c=call, v=values: c(*v)  # noqa: E731
        peers = {"torch": plain(run)}
        if compiled and name in fused:
            whole = torch.compile(fused[name])
            peers["torch.compile"] = lambda c=whole, v=values: c(*v)
        yield Measured(name, f"{T} rows", run, bytes=forward * T * x.itemsize, peers=peers)
        wanting = [v.detach().requires_grad_() for v in values]
        with torch.enable_grad():
            own = backward(lambda c=call, v=wanting: c(*v), wanting)
            twin = backward(plain(lambda c=call, v=wanting: c(*v)), wanting)
        bytes_ = back * T * x.itemsize
        peers = {"torch": twin}
        yield Measured(f"{name} backward", f"{T} rows", own, bytes_, peers=peers, graph=False)


def attentions(device: str, compiled: bool) -> Iterator[Measured]:
    """Prefill of one length, of ragged lengths, of a chunk, with a window; decode from pages."""
    gpu = device == "cuda"
    heads, shared, width = (32, 8, 128) if gpu else (8, 2, 64)
    long = 8192 if gpu else 512

    def one(lengths: list[int], past: list[int] | None, window: int | None) -> Measured:
        new = [inputs(device, sum(lengths), n, width) for n in (heads, shared, shared)]
        plan = AttentionPlan.of(lengths, past, device, window)
        old = past or [0] * len(lengths)
        seen = [
            min(window or j + 1, j + 1)
            for n, b in zip(lengths, old, strict=True)
            for j in range(b, b + n)
        ]
        keys = sum(min(n + b, (window or n + b) + n) for n, b in zip(lengths, old, strict=True))
        moved = 2 * (keys * shared + sum(lengths) * heads) * width * new[0].itemsize
        kept = memory(lengths, old) if past else None
        read = None if gpu or kept is None else reader(kept, lengths, old)
        shape = f"{len(lengths)} spans, {sum(lengths)} tokens, past {max(old)}, window {window}"
        peers = {} if past or not gpu else library(new, lengths, window)
        return Measured(
            "attention", shape, lambda: attention(*new, plan, read, kept),
            bytes=moved, flops=4 * sum(seen) * heads * width, peers=peers,
        )  # fmt: skip

    def memory(lengths: list[int], old: list[int]) -> Pages:
        counts = [-(-(n + b) // 16) for n, b in zip(lengths, old, strict=True)]
        held = [inputs(device, sum(counts), 16, shared, width).transpose(1, 2) for _ in range(2)]
        table = torch.zeros(len(counts), max(counts), dtype=torch.int32)
        order = torch.randperm(sum(counts)).int()
        for s, part in enumerate(order.split(counts)):
            table[s, : len(part)] = part
        return Pages(held[0], held[1], table.to(device))

    def reader(kept: Pages, lengths: list[int], old: list[int]) -> Any:
        def read(spans: tuple[int, ...], start: int, stop: int) -> tuple[Tensor, Tensor]:
            at = kept.table[list(spans)].long()
            whole = (x[at].transpose(2, 3).flatten(1, 2) for x in (kept.keys, kept.values))
            keys, values = (x[:, start:stop].transpose(1, 2) for x in whole)
            return keys, values

        return read

    ragged = [long // 2, 1000, 300, 77, long // 4] if gpu else [200, 77, 40]
    yield one([long], None, None)
    yield one(ragged, None, None)
    yield one([long], None, long // 8)
    yield one([long // 16], [long * 4], None)
    for batch, past in ((1, 8 * long), (64, long // 2), (256, long // 4)) if gpu else ((4, 256),):
        yield one([1] * batch, [past - 1] * batch, None)
    yield one([1] * 8, [long - 1] * 8, long // 4)


def library(new: list[Tensor], lengths: list[int], window: int | None) -> dict[str, Call]:
    """PyTorch's kernels for keys of this call."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.attention.varlen import varlen_attn

    bounds = torch.tensor([0, *lengths]).cumsum(0).int().cuda()
    left = -1 if window is None else window - 1
    found: dict[str, Call] = {
        "varlen": lambda: varlen_attn(*new, bounds, bounds, *[max(lengths)] * 2,
                                      window_size=(left, 0)),
    }  # fmt: skip
    heads = [x.transpose(0, 1)[None] for x in new]

    def fused(backend: SDPBackend) -> Tensor:
        with sdpa_kernel(backend):
            return functional.scaled_dot_product_attention(*heads, is_causal=True, enable_gqa=True)

    if len(lengths) == 1 and window is None:
        found["SDPA flash"] = lambda: fused(SDPBackend.FLASH_ATTENTION)
        found["SDPA cuDNN"] = lambda: fused(SDPBackend.CUDNN_ATTENTION)
    return found


def losses(device: str, compiled: bool) -> Iterator[Measured]:
    """Loss and gradients over a large vocabulary."""
    T, D, V = (8192, 4096, 131_072) if device == "cuda" else (256, 64, 4096)
    hidden, weight = inputs(device, T, D), inputs(device, V, D) * 0.02
    teacher = inputs(device, T, D), inputs(device, V, D) * 0.02
    targets, weights = torch.randint(V, (T,), device=device), torch.ones(T, device=device)
    leaves = [hidden.requires_grad_(), weight.detach().requires_grad_()]

    def step(loss: Callable[[], Tensor]) -> Call:
        return lambda: torch.autograd.grad(loss(), leaves)

    def whole() -> Tensor:
        logits = functional.linear(*leaves).float()
        return functional.cross_entropy(logits, targets, reduction="sum")

    own = step(lambda: linear_cross_entropy(*leaves, targets, weights))
    distilled = step(lambda: linear_kl(*leaves, *teacher, weights))
    product = 2 * T * D * V
    for name, call, flops, peers in (
        ("linear_cross_entropy", own, 3 * product, {"full logits": step(whole)}),
        ("linear_kl", distilled, 4 * product, {}),
    ):
        peers["torch"] = plain(call)
        yield Measured(name, f"{T}x{D}x{V}", call, flops=flops, peers=peers, graph=False)
    if device == "cuda":
        for name, call in (("slices", own), ("full logits", step(whole))):
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            call()
            peak = torch.cuda.max_memory_allocated() - before
            print(json.dumps({"op": f"cross-entropy memory, {name}", "bytes": peak}), flush=True)


if __name__ == "__main__":
    main()
