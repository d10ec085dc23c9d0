"""Rotary positions: the frequency of every pair of channels, and a forward's angles.

Every step is taken in fp32 in the order of transformers, since at position 100,000 a rounding of
the frequency is a visible angle.
Legend: T tokens, R rotated pairs of a head.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

from cairn.base.errors import UserError
from cairn.model.config import ModelConfig
from cairn.model.rope import RopeScaling


def tables(config: ModelConfig, positions: Tensor) -> tuple[Tensor, Tensor] | None:
    """Cosines and sines fp32 [T, R] of positions int64 [T]; None where there are no positions."""
    if not config.turned:
        return None
    assert config.rope_theta is not None
    scaling = config.rope_scaling
    if scaling is not None and scaling.kind == "dynamic" and len(positions):
        _refuse_stale(config, int(positions.max()))
    place = positions.device
    frequencies, scale = _there(config.rope_theta, config.head_dim, scaling, place)
    angles = positions.float().unsqueeze(1) * frequencies
    cos, sin = angles.cos(), angles.sin()
    return (cos, sin) if scale == 1 else (cos * scale, sin * scale)


@lru_cache(maxsize=64)
def _there(
    theta: float, width: int, scaling: RopeScaling | None, device: torch.device
) -> tuple[Tensor, float]:
    """`rotations`, on a device."""
    frequencies, scale = rotations(theta, width, scaling)
    return frequencies.to(device), scale


def rotations(theta: float, width: int, scaling: RopeScaling | None) -> tuple[Tensor, float]:
    """Radians a token fp32 [R] for heads of `width`, and what cosines and sines are scaled by."""
    plain = 1.0 / (theta ** (torch.arange(0, width, 2).float() / width))
    if scaling is None or scaling.kind == "dynamic":  # dynamic: up to max_positions the base stays
        return plain, 1.0
    if scaling.kind == "linear":
        return plain / scaling.factor, 1.0
    if scaling.kind == "llama3":
        return _llama3(plain, scaling), 1.0
    return _yarn(theta, width, scaling)


def _llama3(plain: Tensor, scaling: RopeScaling) -> Tensor:
    """Long waves stretched, short ones kept, and a blend between."""
    assert scaling.original_positions is not None
    length = scaling.original_positions
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    wave = 2 * math.pi / plain
    kept = torch.where(wave > length / low, plain / scaling.factor, plain)
    share = (length / wave - low) / (high - low)
    blend = (1 - share) * kept / scaling.factor + share * kept
    between = (wave >= length / high) & (wave <= length / low)
    return torch.where(between, blend, kept)


def _yarn(theta: float, width: int, scaling: RopeScaling) -> tuple[Tensor, float]:
    """arXiv 2309.00071, section 3.2, with the temperature of section 3.4 as a factor."""
    assert scaling.original_positions is not None
    length = scaling.original_positions

    def channel(turns: float) -> float:  # the channel that turns so often over the length
        return width * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = channel(scaling.beta_fast), channel(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    if low == high:
        high += 0.001
    ramp = ((torch.arange(width // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    powers = theta ** (torch.arange(0, width, 2).float() / width)
    kept = 1 - ramp
    return (1.0 / (scaling.factor * powers)) * (1 - kept) + (1.0 / powers) * kept, _heat(scaling)


def _heat(scaling: RopeScaling) -> float:
    if scaling.attention_factor is not None:
        return scaling.attention_factor

    def of(mscale: float) -> float:
        return 0.1 * mscale * math.log(scaling.factor) + 1.0 if scaling.factor > 1 else 1.0

    if scaling.mscale and scaling.mscale_all_dim:
        return of(scaling.mscale) / of(scaling.mscale_all_dim)
    return of(1.0)


def _refuse_stale(config: ModelConfig, last: int) -> None:
    if last >= config.max_positions:
        raise UserError(
            "rope_scaling.kind",
            "dynamic",
            f"would turn the keys of {last + 1} tokens otherwise than it turned those in memory",
            f"stay within max_positions={config.max_positions}, or use yarn",
        )
