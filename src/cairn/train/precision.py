"""Precision of the matrix products. Parameters, gradients' sums and moments stay fp32."""

from contextlib import AbstractContextManager, nullcontext

import torch

from cairn.base import UserError


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
    """The region in which the forward runs."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
