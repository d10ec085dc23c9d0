"""A training step of the first layers of Nemotron-H 8B on an NVIDIA GPU: bf16, FP8, and the peer.

    python bench/layers.py [--layers 26] [--tokens 8192] [--mamba-ssm FOLDER] [--without-optimizer]
    python bench/layers.py --profile 20
    python bench/layers.py --products

Prints one JSON line a measurement; times are medians by device events, on random weights and
tokens. A step is forward and backward from the embedding to the last norm, with fp32 parameters and
gradients; AdamW's is timed beside. Shares are of the rate of a bf16 product of 8,192 that is
measured in the same run; operations count all layers' products, attention and scans, three times.
The peer is transformers' model of the same configuration in bf16 autocast with mamba-ssm's fused
kernels, FOLDER holding its package `mamba_ssm`; causal-conv1d's C++ is not needed: cairn's kernels
convolve for it. `--products` times single products by shape, `--profile` lists a step's kernels.
"""

import argparse
import json
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor

from cairn.model import Decoder, ModelConfig, Spans
from cairn.model.decoder import empty
from cairn.model.presets import preset
from cairn.ops import fp8
from cairn.ops.fp8 import Statistics, cast, product
from cairn.train.precision import autocast, scaled

STEPS, WARM = 6, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=26)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--mamba-ssm", type=Path)
    parser.add_argument("--precisions", nargs="+", default=["bf16", "current", "block"])
    parser.add_argument("--without-optimizer", action="store_true")
    parser.add_argument("--products", action="store_true")
    parser.add_argument("--profile", type=int, default=0, help="kernels of a step, most time first")
    arguments = parser.parse_args()
    rate = product_rate()
    name = torch.cuda.get_device_name()
    tell(what="device", name=name, torch=torch.__version__, product_flop_per_s=rate)
    if arguments.products:
        return products(arguments.tokens)
    whole = preset("nemotron-h-8b")
    config = replace(whole, pattern=whole.pattern[: arguments.layers], vocab_size=256)
    operations = 3 * arguments.tokens * forward_flops(config, arguments.tokens)
    tell(what="layers", pattern=config.pattern, parameters=config.parameters)
    base = 0.0
    model = drawn(config)
    for precision in arguments.precisions:
        with scaled(model, precision) as statistics:
            step, clear = ours(model, precision, arguments.tokens)
            seconds, peak = measure(step, clear)
            profile(step, clear, arguments.profile)
        base = base or seconds
        line = {"ms": seconds * 1e3, "of_product_rate": operations / seconds / rate, "peak": peak}
        line["times_as_fast_as_first"] = base / seconds
        tell(what=f"cairn {precision}", **line, **(statistics.take() if statistics else {}))
    if not arguments.without_optimizer:
        tell(what="AdamW", ms=optimizer_time(model) * 1e3)
    del model
    torch.cuda.empty_cache()
    if arguments.mamba_ssm:
        peer = transformers_model(config, arguments.mamba_ssm)
        step, clear = theirs(peer, config, arguments.tokens)
        seconds, peak = measure(step, clear)
        profile(step, clear, arguments.profile)
        share = operations / seconds / rate
        tell(what="transformers bf16", ms=seconds * 1e3, of_product_rate=share, peak=peak)


def tell(**line: Any) -> None:
    print(
        json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in line.items()}),
        flush=True,
    )


def product_rate() -> float:
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * 8192**3 / median(lambda: a @ b)


def median(call: Callable[[], Any], warmup: int = 50, rep: int = 200) -> float:
    """Seconds, by device events."""
    found = triton.testing.do_bench(call, warmup=warmup, rep=rep, return_mode="median")
    return float(found) / 1e3  # type: ignore[arg-type]


def forward_flops(config: ModelConfig, tokens: int) -> int:
    """Of a token, without the output matrix, at the mean context of a causal sequence."""
    products = config.matmul_flops_per_token() - 2 * config.hidden_size * config.vocab_size
    return products + config.attention_flops_per_token(tokens // 2) + config.scan_flops_per_token()


def drawn(config: ModelConfig) -> Decoder:
    """Random weights, drawn on the device: on the host that takes a minute."""
    model = empty(config, "cuda")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.02)
            elif name.endswith("A_log"):
                parameter.uniform_(1, 16).log_()
            elif name.endswith("dt_bias"):
                parameter.uniform_(-7, -2)
            else:
                parameter.fill_(1)
    return model


Step = Callable[[], None]


def ours(model: Decoder, precision: str, tokens: int) -> tuple[Step, Step]:
    ids = torch.randint(model.config.vocab_size, (tokens,), device="cuda")
    spans = Spans.of([tokens])
    grad = torch.randn(tokens, model.config.hidden_size, device="cuda")

    def step() -> None:
        with autocast(precision, model.device):
            hidden = model.hidden(ids, spans)
        hidden.backward(grad.to(hidden.dtype))

    return step, lambda: model.zero_grad(set_to_none=True)


def theirs(model: Any, config: ModelConfig, tokens: int) -> tuple[Step, Step]:
    ids = torch.randint(config.vocab_size, (1, tokens), device="cuda")
    grad = torch.randn(1, tokens, config.hidden_size, device="cuda")

    def step() -> None:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            hidden = model(input_ids=ids, use_cache=False).last_hidden_state
        hidden.backward(grad.to(hidden.dtype))

    return step, lambda: model.zero_grad(set_to_none=True)


def measure(step: Step, clear: Step) -> tuple[float, int]:
    """Seconds of a step, the median of a few; and the most bytes on the device."""
    for _ in range(WARM):
        step()
        clear()
    torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(STEPS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        step()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
        clear()
    return sorted(times)[STEPS // 2], torch.cuda.max_memory_allocated()


def profile(step: Step, clear: Step, rows: int) -> None:
    """Tells the kernels of one step that take the most time, and how long all took together."""
    if not rows:
        return
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as found:
        step()
        torch.cuda.synchronize()
    clear()
    kernels = sorted(found.key_averages(), key=lambda one: -one.device_time_total)
    tell(what="all kernels", ms=sum(one.device_time_total for one in kernels) / 1e3)
    for one in kernels[:rows]:
        tell(what="kernel", ms=one.device_time_total / 1e3, calls=one.count, name=one.key[:90])


def optimizer_time(model: Decoder) -> float:
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)
    optimizer.step()
    return median(optimizer.step, 1, 20)


# -- single products -----------------------------------------------------------------------------


def products(tokens: int) -> None:
    """Rates of the products of the 8B's widest layers, and bytes per second of casts, apart."""
    for outer, inner in ((18_560, 4096), (4096, 8192), (21_504, 4096), (4096, 21_504)):
        x = torch.randn(tokens, inner, device="cuda", dtype=torch.bfloat16)
        w = torch.randn(outer, inner, device="cuda")
        g = torch.randn(tokens, outer, device="cuda", dtype=torch.bfloat16)
        operations = 2 * tokens * outer * inner
        half = w.bfloat16()
        line: dict[str, Any] = {"outer": outer, "inner": inner}
        line["bf16_forward"] = operations / timed(torch.mm, x, half.t())
        line["bf16_of_x"] = operations / timed(torch.mm, g, half)
        line["bf16_of_weight"] = operations / timed(torch.mm, g.t(), x)
        for recipe in ("current", "block"):
            line |= scaled_products(recipe, x, w, g, operations)
        tell(
            what="product", **{k: v / 1e12 if isinstance(v, float) else v for k, v in line.items()}
        )


def scaled_products(
    recipe: Any, x: Tensor, w: Tensor, g: Tensor, operations: int
) -> dict[str, Any]:
    statistics = Statistics("cuda")
    a, a_turned = cast(x, "activations", recipe, statistics)
    b, b_turned = cast(w, "weights", recipe, statistics)
    c, c_turned = cast(g, "gradients", recipe, statistics)
    half, single = torch.bfloat16, torch.float32
    line = {
        "forward": operations / timed(product, a, b, half),
        "of_x": operations / timed(product, c, b_turned, half),
        "of_weight": operations / timed(product, c_turned, a_turned, single),
        "cast_of_x_bytes": 4.0 * x.numel() / timed(cast, x, "activations", recipe, statistics),
        "cast_of_w_bytes": 6.0 * w.numel() / timed(cast, w, "weights", recipe, statistics),
        "cast_of_g_bytes": 4.0 * g.numel() / timed(cast, g, "gradients", recipe, statistics),
    }
    if recipe == "current" and a is not None and b is not None:
        scales = a.inverse, b.inverse
        seconds = median(
            lambda: torch._scaled_mm(
                a.values, b.values.t(), *scales, out_dtype=half, use_fast_accum=True
            )
        )
        line["forward_with_fast_accumulation"] = operations / seconds
    return {f"{recipe}_{name}": rate for name, rate in line.items()}


def timed(call: Callable[..., Any], *inputs: Any) -> float:
    return median(lambda: call(*inputs), 10, 60)


# -- the peer ------------------------------------------------------------------------------------


def transformers_model(config: ModelConfig, folder: Path) -> Any:
    """transformers' layers of the configuration, on mamba-ssm's kernels."""
    from scan import compile_in_parallel

    compile_in_parallel()
    install_convolution()
    package = types.ModuleType("mamba_ssm")
    package.__path__ = [str(folder / "mamba_ssm")]
    sys.modules["mamba_ssm"] = package
    import transformers
    from mamba_ssm.ops.triton import ssd_combined  # type: ignore[import-not-found]

    assert ssd_combined.causal_conv1d_fwd_function is not None
    told = transformers.AutoConfig.for_model(**config.to_json())
    with torch.device("cuda"):
        model = transformers.AutoModel.from_config(told)
    from transformers.models.nemotron_h import modeling_nemotron_h as code

    chosen = code.mamba2_split_conv1d_scan_combined
    tell(what="peer", scan=getattr(chosen, "__module__", "?"), version=transformers.__version__)
    return model.train()


def install_convolution() -> None:
    """What mamba-ssm calls of causal-conv1d, by cairn's kernels."""
    from cairn.ops.triton.conv import conv_backward, conv_forward
    from cairn.ops.triton.tables import Tables

    def tables(x: Tensor) -> Tables:
        assert x.shape[0] == 1
        return Tables.of([x.shape[2]], x.device)

    def forward(x: Tensor, weight: Tensor, bias: Tensor, *rest: Any) -> Tensor:
        rows = x[0].t()  # [tokens, channels], channels together
        y = torch.empty(rows.shape, dtype=x.dtype, device=x.device)
        conv_forward(rows, weight.float(), bias, None, tables(x), y)
        return y.t().unsqueeze(0)

    def backward(
        x: Tensor, weight: Tensor, bias: Tensor, dout: Tensor, seq: Any, initial: Any, final: Any,
        dx: Tensor | None, *rest: Any,
    ) -> tuple[Any, ...]:  # fmt: skip
        dx = torch.empty_like(x) if dx is None else dx
        grads = conv_backward(
            x[0].t(), weight.float(), bias, None, tables(x), dout[0].t(), dx[0].t()
        )
        return dx, grads[0].to(weight.dtype), grads[1].to(bias.dtype), None

    package, functions = types.ModuleType("causal_conv1d"), types.ModuleType("cpp_functions")
    package.causal_conv1d_fn = None  # type: ignore[attr-defined]
    functions.causal_conv1d_fwd_function = forward  # type: ignore[attr-defined]
    functions.causal_conv1d_bwd_function = backward  # type: ignore[attr-defined]
    functions.causal_conv1d_update_function = None  # type: ignore[attr-defined]
    package.__path__ = []
    sys.modules |= {"causal_conv1d": package, "causal_conv1d.cpp_functions": functions}


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("bench/layers.py needs an NVIDIA GPU")
    why = fp8.problem("current", torch.device("cuda"))
    if why:
        sys.exit(why)
    main()
