"""SSD scan over flat tokens with Triton kernels, forward and backward.

Three kernels forward: time steps and their decays, states before chunks, outputs. Four backward:
states again, their gradients, gradients of tokens, of time steps. States before chunks are not
kept for backward, since they are as large as the inputs.
Legend: T tokens, S spans, K chunks, H heads, P head width, G groups, N state size.
"""

# pyright: reportAttributeAccessIssue=false, reportMissingImports=false, reportIndexIssue=false
# pyright: reportPossiblyUnboundVariable=false, reportOperatorIssue=false

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, NamedTuple, TypedDict

import torch
import triton
from torch import Tensor
from torch.nn import functional

from cairn.ops.gradient import once, run
from cairn.ops.triton.scan_backward import far_kernel, pair_kernel, step_gradient_kernel
from cairn.ops.triton.scan_forward import decay_kernel, output_kernel, state_kernel
from cairn.ops.triton.tables import Tables, fitting

BLOCK = 64  # tokens: matrix units of Hopper take 64 rows at a time
TILE = 64  # columns of a head that are computed together
COLUMNS = 64  # of [H * P], whose states one program carries along a span


class Launch(TypedDict):
    """Launch settings of one kernel."""

    num_warps: int
    num_stages: int


def _launch(num_warps: int, num_stages: int) -> Launch:
    return {"num_warps": num_warps, "num_stages": num_stages}


class Launches(NamedTuple):
    """Of the four large kernels: functions of sizes and dtype alone, so that bits are too."""

    state: Launch
    output: Launch
    pair: Launch
    far: Launch

    @classmethod
    def of(cls, P: int, N: int, wide: bool) -> "Launches":
        """Measured on an H200 for P = 64, N = 128 in bf16; elsewhere what fits shared memory."""
        if N <= 128 and not wide:
            output = _launch(4, 2 if P <= TILE else 1)
            return cls(_launch(4, 3), output, _launch(4, 1), _launch(4, 1))
        many = 8 if N > 128 else 4
        return cls(_launch(many, 2), _launch(4, 1), _launch(4, 1), _launch(many, 1))


class Steps(NamedTuple):
    """How time steps come from what is given: dt, a bias, softplus, limits."""

    dt: Tensor
    """[T, H]."""
    bias: Tensor | None
    """[H]."""
    softplus: bool
    limits: tuple[float, float] | None


def ssd_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    tables: Tables,
    state: Tensor | None = None,
    *,
    bias: Tensor | None = None,
    softplus: bool = False,
    limits: tuple[float, float] | None = None,
) -> tuple[Tensor, Tensor]:
    """The scan y_t = S_t C_t + D x_t, S_t = exp(dt_t A) S_(t-1) + dt_t x_t B_t^T, over spans.

    x [T, H, P]; dt [T, H], with `bias` [H], softplus and limits still to come where asked for;
    A [H] < 0; B, C [T, G, N] in x's dtype; D [H]; state [S, H, P, N] (zeros where None).
    x may be bf16, fp16 or fp32; decays and states are in fp32. Returns y [T, H, P] in x's dtype
    and the last states [S, H, P, N] in fp32. Differentiable once in all tensors.
    """
    P, N = x.shape[2], B.shape[2]
    wide, high = fitting(P, N)
    if (wide, high) != (P, N):  # no released model: sizes that tiles cannot cut, so with zeros
        x, B, C = (
            functional.pad(t, (0, more))
            for t, more in ((x, wide - P), (B, high - N), (C, high - N))
        )
        state = None if state is None else functional.pad(state, (0, high - N, 0, wide - P))
    steps = (dt, bias, softplus, limits)
    y, last = run(_Scan, x, *steps, A, B, C, D, state, tables)
    return y[..., :P], last[:, :, :P, :N]


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dt: Tensor,
        bias: Tensor | None,
        softplus: bool,
        limits: tuple[float, float] | None,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        state: Tensor | None,
        tables: Tables,
    ) -> tuple[Tensor, Tensor]:
        steps = Steps(dt, bias, softplus, limits)
        y = x.new_empty(x.shape)
        last, decays = scan_forward(x, steps, A, B, C, D, tables, state, y)
        ctx.rules, ctx.tables = (softplus, limits), tables
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, dt, bias, A, B, C, D, state, *decays)
        return y, last

    @staticmethod
    @once
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        x, dt, bias, A, B, C, D, state, *decays = ctx.saved_tensors
        gy, g_last = grads
        gy = torch.zeros_like(x) if gy is None else gy
        outs = Gradients(*(t.new_empty(t.shape) for t in (x, dt, B, C)))
        steps = Steps(dt, bias, *ctx.rules)
        gA, gD, g_bias, g_state = scan_backward(
            x, steps, A, B, C, D, ctx.tables, state, (decays[0], decays[1]), gy, g_last, outs
        )
        g_state = None if state is None or g_state is None else g_state.to(state.dtype)
        return (
            outs.x, outs.dt, g_bias, None, None, gA, outs.B, outs.C, gD, g_state, None,
        )  # fmt: skip


class Gradients(NamedTuple):
    """Where gradients of token inputs are written; rows may lie apart."""

    x: Tensor
    dt: Tensor
    B: Tensor
    C: Tensor


@dataclass(frozen=True)
class _Form:
    """Sizes, and the launch settings that follow from them alone: found once for all layers."""

    H: int
    P: int
    G: int
    N: int
    Q: int
    dtype: torch.dtype

    @classmethod
    def of(cls, x: Tensor, B: Tensor, tables: Tables) -> "_Form":
        (T, H, P), (_, G, N) = x.shape, B.shape
        _, head, last = x.stride()
        _, group, last_of_group = B.stride()
        assert last == last_of_group == 1, "the last dimension must be contiguous"
        assert head == P, "heads must lie together"
        assert group == N, "groups must lie together"
        assert tables.tokens == T
        return _form(H, P, G, N, tables.chunk_size, x.dtype)

    @cached_property
    def launches(self) -> Launches:
        """Of this state size and dtype."""
        return Launches.of(self.P, self.N, self.wide)

    @cached_property
    def wide(self) -> bool:
        """Whether states before chunks are in fp32."""
        return state_type(self.dtype) == torch.float32

    @cached_property
    def precision(self) -> str:
        """Of products of fp32 tensors: three of tf32 keep about what fp32 does."""
        return "tf32x3" if self.dtype == torch.float32 else "tf32"

    @cached_property
    def block(self) -> int:
        """Tokens of a block."""
        return min(BLOCK, self.Q)

    @cached_property
    def blocks(self) -> int:
        """Blocks of a chunk: one or two."""
        return self.Q // self.block

    @cached_property
    def share(self) -> int:
        """Heads of a group."""
        return self.H // self.G

    @cached_property
    def widths(self) -> tuple[int, int, int]:
        """Columns of the tiles that a head is cut into, and P: what is over is masked.

        Tiles of 16 and 32 columns would waste nothing for P = 80, and gave wrong gradients of x
        on an H200 with Triton 3.6.0; so there are only tiles of 64.
        """
        return TILE, TILE if self.P > TILE else 0, self.P

    @cached_property
    def columns(self) -> int:
        """Columns of [H * P] that one program carries states of: of one group."""
        width = self.share * self.P
        return TILE if self.rest else min(width & -width, COLUMNS)

    @cached_property
    def rest(self) -> int:
        """Columns of a head beside those, where a program carries one head's: of 80, 64 and 16."""
        return self.P - TILE if self.P in (TILE + 16, TILE + 32) else 0

    @cached_property
    def tile(self) -> int:
        """The largest power of two that divides a head's columns and a program's."""
        return TILE if self.rest else min(self.P & -self.P, self.columns)

    def output_heads(self, chunks: int) -> int:
        """Heads that one program computes outputs of, where there are so many chunks."""
        programs, heads = chunks * self.blocks * self.G, self.share
        while heads % 2 == 0 and programs * (self.share // heads) < 1024:
            heads //= 2
        return heads


_form = cache(_Form)


def state_type(dtype: torch.dtype) -> torch.dtype:
    """How states before chunks are kept: in bf16 for bf16 inputs, else in fp32 (fp16 overflows)."""
    return torch.bfloat16 if dtype == torch.bfloat16 else torch.float32


def decays_of(steps: Steps, A: Tensor, tables: Tables) -> tuple[Tensor, Tensor]:
    """Time steps, and the base-2 logarithm of what they leave since a chunk began: fp32 [H, T]."""
    dt, bias, softplus, limits = steps
    T, H = dt.shape
    times, decays = torch.empty(2, H, T, dtype=torch.float32, device=dt.device).unbind()
    low, high = limits or (0.0, 0.0)
    heads = min(16, 1 << (H - 1).bit_length())
    decay_kernel[tables.chunks, -(-H // heads)](
        dt, bias, A, times, decays, tables.by_chunk, tables.chunks, T, H,
        dt.stride(0), low, high, bias is not None, softplus, limits is not None,
        tables.chunk_size, heads, num_warps=4,
    )  # fmt: skip
    return times, decays


def _recur(
    form: _Form,
    tables: Tables,
    u: Tensor,
    v: Tensor,
    decays: tuple[Tensor, Tensor],
    first: Tensor | None,
    last: Tensor | None,
    reverse: bool,
) -> Tensor:
    """States before chunks, or gradients of states after them, [K, H, P, N]."""
    kind = state_type(u.dtype)
    out = torch.empty(tables.chunks, form.H, form.P, form.N, dtype=kind, device=u.device)
    grid = form.H * form.P // (form.columns + form.rest), tables.spans
    state_kernel[grid](
        u, v, *decays, first, last, out, tables.by_span, tables.spans, tables.tokens, form.H,
        form.share * form.P, u.stride(0), v.stride(0), form.P, form.N, tables.chunk_size,
        form.block, form.columns, form.rest, form.tile, reverse, first is not None,
        last is not None, form.precision, **form.launches.state,
    )  # fmt: skip
    return out


def scan_forward(
    x: Tensor,
    steps: Steps,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    tables: Tables,
    state: Tensor | None,
    y: Tensor,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Fills y [T, H, P]; returns the last states [S, H, P, N] and what `decays_of` does."""
    form, T = _Form.of(x, B, tables), tables.tokens
    state = None if state is None else state.contiguous()
    decays = decays_of(steps, A, tables)
    sizes = tables.spans, form.H, form.P, form.N
    last = torch.empty(*sizes, dtype=torch.float32, device=x.device)
    states = _recur(form, tables, x, B, decays, state, last, reverse=False)
    heads = form.output_heads(tables.chunks)
    output_kernel[tables.chunks * form.blocks, form.H // heads](
        x, B, C, D, *decays, states, y, tables.by_chunk, tables.chunks, T, form.H, form.share,
        x.stride(0), B.stride(0), C.stride(0), y.stride(0), *form.widths, form.N, form.blocks,
        form.block, heads, D is not None, form.precision, **form.launches.output,
    )  # fmt: skip
    return last, decays


def scan_backward(
    x: Tensor,
    steps: Steps,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    tables: Tables,
    state: Tensor | None,
    decays: tuple[Tensor, Tensor],
    gy: Tensor,
    g_last: Tensor | None,
    outs: Gradients,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Fills `outs`; returns the gradients of A, D, the bias and the first states."""
    form, K, T = _Form.of(x, B, tables), tables.chunks, tables.tokens
    state = None if state is None else state.contiguous()
    gy = gy.contiguous()
    g_last = None if g_last is None else g_last.contiguous()
    g_state = None if state is None else torch.empty_like(state, dtype=torch.float32)
    states = _recur(form, tables, x, B, decays, state, None, reverse=False)
    g_states = _recur(form, tables, gy, C, decays, g_last, g_state, reverse=True)
    g_steps, g_decay = torch.empty_like(decays[0]), torch.empty_like(decays[1])
    g_skip = decays[0].new_empty(K * form.blocks, form.H)
    near = decays[0].new_empty(2, T, form.G, form.N)
    widths, precision = form.widths, form.precision
    pair_kernel[K * form.blocks, form.G](
        x, B, C, D, *decays, gy, outs.x, near, g_steps, g_decay, g_skip, tables.by_chunk, K,
        T, form.H, form.share, x.stride(0), B.stride(0), C.stride(0), gy.stride(0),
        outs.x.stride(0), *widths, form.N, form.blocks, form.block, D is not None, precision,
        **form.launches.pair,
    )  # fmt: skip
    for reverse in (False, True):
        taker, giver = (gy, C, states), (x, B, g_states)
        (u, v, held), (other_u, other_v, other_held) = (giver, taker) if reverse else (taker, giver)
        gv = outs.B if reverse else outs.C
        far_kernel[K * form.blocks, form.G](
            u, v, other_u, other_v, held, other_held, *decays, near[0 if reverse else 1], gv,
            outs.x, g_steps, g_decay, tables.by_chunk, K, T, form.H, form.share,
            u.stride(0), v.stride(0), other_u.stride(0), other_v.stride(0), gv.stride(0),
            outs.x.stride(0), *widths, form.N, form.blocks, form.block, reverse, precision,
            **form.launches.far,
        )  # fmt: skip
    g_rates = decays[0].new_empty(2, K * form.blocks, form.H)
    low, high = steps.limits or (0.0, 0.0)
    heads = min(16, triton.next_power_of_2(form.H))
    step_gradient_kernel[K * form.blocks, triton.cdiv(form.H, heads)](
        steps.dt, steps.bias, A, decays[0], g_steps, g_decay, outs.dt, g_rates, tables.by_chunk, K,
        T, form.H, steps.dt.stride(0), outs.dt.stride(0), low, high, steps.bias is not None,
        steps.softplus, steps.limits is not None, form.blocks, form.block, heads, num_warps=4,
    )  # fmt: skip
    gA, g_bias = g_rates.sum(1)
    return (
        gA.to(A.dtype),
        None if D is None else g_skip.sum(0).to(D.dtype),
        None if steps.bias is None else g_bias.to(steps.bias.dtype),
        g_state,
    )
