"""Rows times a weight matrix."""

import torch
from torch import Tensor
from torch.nn import functional

from cairn.ops import paths
from cairn.ops.activation import gelu_tanh, swiglu
from cairn.ops.gradient import recorded
from cairn.ops.native import operations as native
from cairn.ops.native import rows
from cairn.ops.norm import squared_relu
from cairn.ops.order import order_is_fixed, ordered_product

FEW = 16  # rows, up to which our product reads a weight of 16 bits faster than a GPU's library
FEW_OF_DEEP = 1  # the same of a weight with more inputs than outputs
MANY_ROWS = 2048  # from which on tiles of our own product fill a GPU as well as a library's


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """x [..., I] times the transpose of weight [O, I], plus bias [O]: [..., O].

    torch's product, but on the CPU for few rows, where it does not reach the memory's speed, for
    many in bf16 on matrix units, and inside `order.fixed_order`; on a GPU for few rows. With a
    wider `dtype` than x's the result is in that, unrounded where our own product serves.
    """
    wanted = x.dtype if dtype is None else torch.promote_types(x.dtype, dtype)
    if order_is_fixed():
        y = ordered_product(x.reshape(-1, x.shape[-1]), weight).view(*x.shape[:-1], -1)
        y = y if bias is None else y + bias
        return y if dtype is None else y.to(wanted)
    if x.is_cuda:  # soon known, where a launch takes as long as what follows would
        return _on_gpu(x, weight, bias, wanted, dtype)
    why = native.linear_unfit(x, weight)
    many = bool(why) and not rows.dense_unfit(x, weight, bias)
    if paths.choose("linear", x.device, native="" if many else why) == "native":
        if many:
            return rows.dense(x, weight, bias, dtype=wanted)
        y = native.linear(x, weight, wanted)
        return y if bias is None else y.add_(bias)
    y = functional.linear(x, weight, bias)
    return y if dtype is None else y.to(torch.promote_types(y.dtype, dtype))


def _on_gpu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    wanted: torch.dtype,
    dtype: torch.dtype | None,
) -> Tensor:
    """`linear`, whose result is `wanted` in this dtype outside of autocast."""
    few = _few(x, weight, bias)
    triton = "" if few else None  # a library is no slow path
    if paths.choose("linear", x.device, triton=triton) == "triton" and few:
        from cairn.ops.triton.few_rows import product

        if x.ndim == 2:  # as always in a model: views take a microsecond each
            return product(x, weight, bias, wanted)
        y = product(x.reshape(-1, x.shape[-1]), weight, bias, wanted)
        return y.view(*x.shape[:-1], -1)
    y = functional.linear(x, weight, bias)
    return y if dtype is None else y.to(torch.promote_types(y.dtype, dtype))


def _few(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether our product of a few rows serves on a GPU: on Hopper, where it was measured."""
    outputs, inner = weight.shape
    most = (FEW if inner <= outputs else FEW_OF_DEEP) * inner
    if not 0 < x.numel() <= most or not _narrow(x, weight) or weight.stride(1) != 1:
        return False
    if recorded(x, weight, bias):
        return False
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cuda"):
        return False
    return paths.generation(x.device) == 9 and paths.has_triton()


def _narrow(x: Tensor, weight: Tensor) -> bool:
    return x.dtype == weight.dtype and x.dtype in (torch.bfloat16, torch.float16)


def linear_gelu_tanh(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """gelu_tanh(x W^T + bias); x [..., I], weight [O, I], bias [O].

    In one pass, rounded once, for many rows in bf16 on a CPU with matrix units and no gradient.
    """
    if _at_once(x, weight, bias, "linear_gelu_tanh"):
        return rows.dense(x, weight, bias, "gelu_tanh")
    return gelu_tanh(linear(x, weight, bias))


def linear_swiglu(x: Tensor, weight: Tensor, bias: Tensor | None, up: Tensor) -> Tensor:
    """SiLU(x W^T + bias) * up; x [..., I], weight [O, I], bias [O], up [..., O].

    In one pass, rounded once, for many rows in bf16 on a CPU with matrix units and no gradient.
    """
    fits = up.dtype == x.dtype and up.is_contiguous() and not rows.unfit(up)
    if fits and _at_once(x, weight, bias, "linear_swiglu"):
        return rows.dense(x, weight, bias, "silu", times=up)
    return swiglu(linear(x, weight, bias), up)


def _at_once(x: Tensor, weight: Tensor, bias: Tensor | None, op: str) -> bool:
    """Whether the compiled product goes on to the activation."""
    fits = not order_is_fixed() and not rows.dense_unfit(x, weight, bias)
    return fits and paths.choose(op, x.device, native="") == "native"


def linear_squared_relu(x: Tensor, weight: Tensor) -> Tensor:
    """max(x W^T, 0) squared; x [T, I], weight [O, I]. Differentiable once.

    Of many rows in 16 bits without a gradient, on a GPU with a copy engine, the product squares
    what it has before it writes it; on a CPU with matrix units in bf16 too.
    """
    if _at_once(x, weight, None, "linear_squared_relu"):
        return rows.dense(x, weight, None, "relu2")
    if _squares(x, weight):
        path = paths.choose("linear_squared_relu", x.device, triton="")
        if path == "triton":
            from cairn.ops.triton.product import linear_squared_relu as product

            return product(x, weight)
    return squared_relu(linear(x, weight))


def _squares(x: Tensor, weight: Tensor) -> bool:
    many = x.is_cuda and x.ndim == 2 and x.shape[0] >= MANY_ROWS
    if not many or not _narrow(x, weight) or order_is_fixed() or recorded(x, weight):
        return False
    close = x.is_contiguous() and weight.is_contiguous() and x.data_ptr() % 16 == 0
    whole = x.shape[1] % 8 == 0 and len(weight) % 8 == 0  # rows are multiples of 16 bytes
    hopper = paths.generation(x.device) == 9  # where it was measured
    return close and whole and hopper and not torch.is_autocast_enabled("cuda")
