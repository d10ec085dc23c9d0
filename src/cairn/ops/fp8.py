"""Matrix products of 8-bit floats: how a tensor is scaled and cast, and what a product of two is.

Everything here in plain PyTorch is the definition, on any device; on a GPU, kernels cast and its
library multiplies. A matrix [outer, inner] is always multiplied along `inner`, so that a tensor
that enters two products is cast in both orders. Legend: R rows, C columns, K the inner dimension.

`current` (Nemotron-H 56B, section 2): one scale a tensor, the format's largest number over the
tensor's own largest magnitude; E4M3, and E5M2 for gradients.
`block` (Nano 2, section 2; DeepSeek-V3, section 3.3): E4M3, a scale for 128 values along K, for
128 x 128 values of a weight; the largest power of two that does not overflow, so that scaling is
exact. Activations and gradients are cast from what arrives once for each order.

In both, a magnitude below the smallest number becomes 0, and what is not finite becomes NaN.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.nn import functional

from cairn.ops import paths

Recipe = Literal["current", "block"]
Role = Literal["activations", "weights", "gradients"]
Kind = Literal["tensor", "row", "tile"]
Before = Literal["squared_relu", "squared_relu_gradient"]

ROLES: tuple[Role, ...] = ("activations", "weights", "gradients")
COUNTED = ("nan", "overflow", "underflow")  # NaN, infinite, and what becomes 0 without being 0
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
LIMITS = {E4M3: 448.0, E5M2: 57344.0}
BLOCK = 128
WIDTH = 16  # a matrix unit takes outer and inner dimensions in multiples of this
LARGEST_SCALE = 2.0**126  # its inverse is the smallest normal number


@dataclass(frozen=True)
class Operand:
    """One side of a product."""

    values: Tensor
    """FP8 [outer, K], contiguous; zeros fill it up."""
    inverse: Tensor
    """fp32, what values are multiplied with: [1] for a tensor, [K / 128, outer] for rows,
    [outer / 128, K / 128 up to a multiple of 4] for tiles."""
    kind: Kind


Cast = tuple[Operand | None, Operand | None]


class Statistics:
    """What casts met: elements that were NaN, infinite or became 0, by role; on the device."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.counts = torch.zeros(len(ROLES), len(COUNTED), dtype=torch.int64, device=device)
        self.elements = [0] * len(ROLES)

    def take(self, total: Callable[[list[float]], list[float]] = list) -> dict[str, float]:
        """Since the last call: numbers of NaN and overflows, shares of underflows by role.

        `total` sums over ranks, which all come here alike.
        """
        met = total([*self.counts.flatten().tolist(), *self.elements])
        nan, overflow = (int(sum(met[at : 3 * len(ROLES) : 3])) for at in (0, 1))
        found: dict[str, float] = {"fp8_nan": nan, "fp8_overflow": overflow}
        for at, role in enumerate(ROLES):
            found[f"fp8_underflow_{role}"] = met[3 * at + 2] / max(met[3 * len(ROLES) + at], 1)
        self.counts.zero_()
        self.elements = [0] * len(ROLES)
        return found


_emulated: ContextVar[bool] = ContextVar("emulated", default=False)


@contextmanager
def emulation(on: bool = True) -> Iterator[None]:
    """Inside, the definition computes on a GPU too; forward and backward passes of what begins."""
    token = _emulated.set(on)
    try:
        yield
    finally:
        _emulated.reset(token)


def emulated() -> bool:
    """Whether the definition is asked for."""
    return _emulated.get()


def problem(recipe: Recipe, device: torch.device) -> str:
    """Why a device's library cannot multiply by a recipe; empty where it can."""
    if device.type != "cuda":
        return f"{device.type} has no FP8 products"
    capability = torch.cuda.get_device_capability(device)
    if recipe == "block" and capability[0] != 9:
        return "blocks of 128 are multiplied on Hopper alone (compute capability 9.0)"
    return "" if capability >= (8, 9) else "FP8 products need compute capability 8.9 or higher"


def format_of(recipe: Recipe, role: Role) -> torch.dtype:
    """The FP8 format of a tensor."""
    return E5M2 if recipe == "current" and role == "gradients" else E4M3


def cast(
    x: Tensor,
    role: Role,
    recipe: Recipe,
    statistics: Statistics,
    *,
    rows: bool = True,
    columns: bool = True,
    before: Before | None = None,
    of: Tensor | None = None,
    group: ProcessGroup | None = None,
) -> Cast:
    """x [R, C] as operands [R, C] and [C, R], each where it is asked for; else None.

    The number of rows is filled up to a multiple of 16; C has to be one. `before` the cast, in
    fp32: "squared_relu" takes max(x, 0)^2, "squared_relu_gradient" the gradient of that at
    `of` [R, C] from the result's gradient x. `group`: the ranks that have parts of x, whose largest
    magnitude is the tensor's; all of them come here alike. Blocks do not ask them.
    """
    statistics.elements[ROLES.index(role)] += x.numel()
    triton = None if emulated() else paths.for_kernel(x)
    if paths.choose("fp8_cast", x.device, triton=triton) == "triton":
        from cairn.ops.triton import fp8

        return fp8.cast(x, role, recipe, statistics.counts, rows, columns, before, of, group)
    x = x.float()
    if before == "squared_relu":
        x = functional.relu(x).square()
    elif before == "squared_relu_gradient":
        assert of is not None
        x = x * (2 * functional.relu(of.float()))
    counts = statistics.counts[ROLES.index(role)]
    if recipe == "current":
        return _cast_tensor(x, format_of(recipe, role), counts, rows, columns, group)
    if role == "weights":
        return _cast_tiles(x, counts, rows, columns)
    first = _cast_rows(x, counts) if rows else None
    second = _cast_rows(x.t(), None if rows else counts) if columns else None
    return first, second


def product(a: Operand, b: Operand, dtype: torch.dtype) -> Tensor:
    """a [M, K] times the transpose of b [N, K]: [M, N], summed in fp32, then rounded to dtype."""
    recipe: Recipe = "current" if a.kind == "tensor" else "block"
    why = "emulation" if emulated() else problem(recipe, a.values.device)
    if paths.choose("fp8_product", a.values.device, library=why) != "library":
        return _plain_product(a, b).to(dtype)
    left, right = a.values, b.values.t()
    if recipe == "current":
        # Not the fast accumulation: it rounds sums to some 14 bits on Hopper.
        return torch._scaled_mm(  # type: ignore[attr-defined]
            left, right, a.inverse, b.inverse, out_dtype=dtype, use_fast_accum=False
        )
    scaling = functional.ScalingType  # type: ignore[attr-defined]
    kinds = {"row": scaling.BlockWise1x128, "tile": scaling.BlockWise128x128}
    return functional.scaled_mm(  # type: ignore[attr-defined]
        left, right, a.inverse.t(), kinds[a.kind], b.inverse.t(), kinds[b.kind], output_dtype=dtype
    )


def _plain_product(a: Operand, b: Operand) -> Tensor:
    """In fp32. Every FP8 number, and one times a power of two, is exact in bf16."""
    left, right = _widened(a), _widened(b)
    if left.device.type == "cuda":
        wide = torch.mm(left, right.t(), out_dtype=torch.float32)
    else:
        wide = left @ right.t()
    return wide * (a.inverse * b.inverse) if a.kind == "tensor" else wide


def _widened(x: Operand) -> Tensor:
    """Values times inverse scales; of a tensor's one scale, the values alone."""
    values = x.values.to(torch.bfloat16 if x.values.device.type == "cuda" else torch.float32)
    if x.kind == "tensor":
        return values
    outer, K = values.shape
    inverse = x.inverse.to(values.dtype)
    if x.kind == "row":
        return values * inverse.t().repeat_interleave(BLOCK, 1)[:, :K]
    inverse = inverse.repeat_interleave(BLOCK, 0)[:outer].repeat_interleave(BLOCK, 1)
    return values * inverse[:, :K]


def _cast_tensor(
    x: Tensor,
    dtype: torch.dtype,
    counts: Tensor,
    rows: bool,
    columns: bool,
    group: ProcessGroup | None,
) -> Cast:
    largest = magnitudes(x).amax()
    if group is not None:
        dist.all_reduce(largest, dist.ReduceOp.MAX, group)
    scale = scale_of(largest, LIMITS[dtype], whole=False)
    values = filled(rounded(x, scale, dtype, counts), WIDTH, WIDTH)
    inverse = (1 / scale).reshape(1)
    first = Operand(values, inverse, "tensor") if rows else None
    second = Operand(values.t().contiguous(), inverse, "tensor") if columns else None
    return first, second


def _cast_rows(x: Tensor, counts: Tensor | None) -> Operand:
    """Scales for 128 values along the inner dimension."""
    x = filled(x, WIDTH, BLOCK)
    parts = x.unflatten(1, (-1, BLOCK))
    scale = scale_of(magnitudes(parts).amax(2, keepdim=True), LIMITS[E4M3])
    values = rounded(parts, scale, E4M3, counts).flatten(1)
    return Operand(values, (1 / scale).squeeze(2).t().contiguous(), "row")


def _cast_tiles(x: Tensor, counts: Tensor, rows: bool, columns: bool) -> Cast:
    """Scales for 128 x 128 values."""
    R, C = x.shape
    parts = filled(x, BLOCK, BLOCK).unflatten(1, (-1, BLOCK)).unflatten(0, (-1, BLOCK))
    scale = scale_of(magnitudes(parts).amax((1, 3), keepdim=True), LIMITS[E4M3])
    values = rounded(parts, scale, E4M3, counts).flatten(2).flatten(0, 1)
    inverse = (1 / scale).squeeze(3).squeeze(1)
    first = Operand(values[:R], filled(inverse, 1, 4), "tile") if rows else None
    if not columns:
        return first, None
    turned = values.t().contiguous()[:C]
    return first, Operand(turned, filled(inverse.t(), 1, 4), "tile")


def magnitudes(x: Tensor) -> Tensor:
    """Magnitudes, of what is not finite 0."""
    size = x.abs()
    return torch.where(size < torch.inf, size, 0.0)


def scale_of(largest: Tensor, limit: float, whole: bool = True) -> Tensor:
    """limit / largest, 1 for 0; `whole` down to a power of two."""
    scale = (
        torch.full_like(largest, limit) / largest
    )  # a Python number would multiply by 1 / largest
    scale = scale.clamp(max=LARGEST_SCALE)
    if whole:
        scale = (scale.view(torch.int32) & 0x7F800000).view(torch.float32)
    return torch.where(largest > 0, scale, 1.0)


def rounded(x: Tensor, scale: Tensor, dtype: torch.dtype, counts: Tensor | None) -> Tensor:
    """x * scale in dtype, to nearest, even on ties; counts what went wrong."""
    limit, scaled = LIMITS[dtype], x * scale
    finite = x.abs() < torch.inf
    values = torch.where(finite, scaled.clamp(-limit, limit), torch.nan).to(dtype)
    if counts is not None:
        nan = x.isnan()
        over = ~finite & ~nan  # a scaled number exceeds the limit by a rounding at most
        # Comparisons of FP8 are not implemented; the sign bit aside, zero is zero.
        under = (values.view(torch.uint8) & 0x7F == 0) & (x != 0)
        counts += torch.stack([part.sum() for part in (nan, over, under)])
    return values


def filled(x: Tensor, rows: int, columns: int) -> Tensor:
    """x [R, C] contiguous, with zeros up to multiples."""
    R, C = x.shape
    more = -R % rows, -C % columns
    if more == (0, 0):
        return x.contiguous()
    out = x.new_zeros(R + more[0], C + more[1])
    out[:R, :C] = x
    return out
