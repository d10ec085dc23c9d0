"""Precision of the matrix products. Parameters, gradients' sums and moments stay fp32.

In FP8 (Nemotron-H, section 2; Nano 2, section 2) all linear layers' three products are, but for
the first four and the last four: of two layers at either end, as the products of a layer that read
the same input (queries, keys and values; gate and up) are one. Convolutions, scans, attention's
inner products, norms, embeddings and the output matrix are as in bf16.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import cast

import torch
from torch.distributed import ProcessGroup

from cairn.base import UserError
from cairn.model import Decoder
from cairn.model.linear import Linear
from cairn.ops import fp8
from cairn.ops.fp8_linear import Scaled

FP8 = ("current", "block")
KEPT_LAYERS = 2  # at either end, each of two products


def pick_device(device: str) -> torch.device:
    """`auto`: a GPU when there is one. UserError for a device that is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        raise UserError("device", device, "is no device", "write cpu, cuda or auto") from None
    if found.type == "cuda" and not torch.cuda.is_available():
        raise UserError("device", device, "is not there", "write cpu or auto")
    return found


def pick_precision(precision: str, device: torch.device) -> str:
    """`auto`: bf16 where the hardware multiplies bf16 matrices faster than fp32 ones.

    That is GPUs with bf16, and CPUs whose instructions multiply bf16 (AMX or AVX-512 BF16): a
    training step of the pico model takes two thirds of its fp32 time there (LOG.md).
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    fast = any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)
    return "bf16" if fast else "fp32"


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """The region in which the forward runs: of FP8 too, what is not FP8 being bf16."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


@contextmanager
def scaled(
    model: Decoder, precision: str, group: ProcessGroup | None = None
) -> Iterator[fp8.Statistics | None]:
    """Inside, the model's layers multiply by an FP8 recipe within `autocast`; yields the counts.

    None for other precisions. `group`: the ranks that share every matrix. On a CPU, the definition
    emulates FP8. UserError where the recipe leaves no layer, a matrix's width is no multiple of 16,
    or the GPU has no such products.
    """
    if precision not in FP8:
        yield None
        return
    recipe = cast(fp8.Recipe, precision)
    layers = scaled_layers(model)
    _check(model, recipe, layers)
    statistics = fp8.Statistics(model.device)
    for layer in layers.values():
        layer.scaled = Scaled(recipe, statistics, group=group)
    try:
        yield statistics
    finally:
        for layer in layers.values():
            layer.scaled = None


def scaled_layers(model: Decoder) -> dict[str, Linear]:
    """The linear layers that FP8 is for, by name."""
    inner = list(enumerate(model.backbone.layers))[KEPT_LAYERS:-KEPT_LAYERS]
    return {
        f"backbone.layers.{number}.{name}": module
        for number, block in inner
        for name, module in block.named_modules()
        if isinstance(module, Linear)
    }


def _check(model: Decoder, recipe: fp8.Recipe, layers: dict[str, Linear]) -> None:
    if not layers:
        ends = f"the first and last {KEPT_LAYERS} layers stay in bf16"
        problem = f"leaves none of the model's {len(model.config.pattern)} layers: {ends}"
        raise UserError("precision", recipe, problem, "take bf16, or a pattern of five or more")
    for name, layer in layers.items():
        shape = layer.weight.shape
        if shape[0] % fp8.WIDTH or shape[1] % fp8.WIDTH:
            problem = (
                f"needs widths in multiples of {fp8.WIDTH}, and {name} is {shape[0]} x {shape[1]}"
            )
            mend = "change the model's widths or number of heads, or take bf16"
            raise UserError("precision", recipe, problem, mend)
    why = fp8.problem(recipe, model.device)
    if why and model.device.type == "cuda" and not fp8.emulated():
        raise UserError("precision", recipe, why, "take bf16 on this GPU")
