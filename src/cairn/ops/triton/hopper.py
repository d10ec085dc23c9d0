"""Attention of long spans on Hopper GPUs: one warp copies keys and values, two warp groups compute.

The bulk copy engine brings blocks of keys and values from pages into shared memory while two
groups of four warps, each with half of a tile's rows, multiply; a group takes the exponentials of
one block while the products of the block before it run (after FlashAttention-3, arXiv 2407.08608).
A tile's rows and its order of keys are those of `cairn.ops.triton.attention`, so that a span gets
the same bits in any company here too.
"""

# pyright: reportAttributeAccessIssue=false, reportMissingImports=false, reportIndexIssue=false
# pyright: reportArgumentType=false, reportAssignmentType=false, reportOperatorIssue=false
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia import hopper
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

if TYPE_CHECKING:
    from cairn.ops.attention import Pages
    from cairn.ops.triton.attention import Tables

ROWS = 128  # of a tile: 64 a warp group
BLOCK = 128  # keys that are multiplied at a time
BOX = 16  # keys of one copy: a page holds one or more of them whole
PANEL = 64  # channels of one copy: 128 bytes, the widest swizzle
STAGES = 2  # blocks that are on their way or in use
WIDTHS = (64, 128)
_LOG2E = 1.4426950408889634
# Names of Triton 3.6 and of those after it.
_barrier = getattr(gl, "barrier", None) or gl.thread_barrier
_load = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared
_SWIZZLED = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)


@gluon.jit
def _scores(queries, keys, SCORES: gl.constexpr, BLOCK_N: gl.constexpr):
    """Begin the product of queries with a block of keys."""
    zeros = gl.zeros([64, BLOCK_N], gl.float32, SCORES)
    return hopper.warpgroup_mma(queries, keys.permute((1, 0)), zeros, use_acc=False, is_async=True)


@gluon.jit
def _softmax(
    scores, top, total, j, position, high, SCORES: gl.constexpr, SCALE: gl.constexpr,
    WINDOW: gl.constexpr, MASKED: gl.constexpr, BLOCK_N: gl.constexpr,
):  # fmt: skip
    """Weights of a block, and what they do to the largest score and the sum of weights."""
    if MASKED:
        n = j * BLOCK_N + gl.arange(0, BLOCK_N, layout=gl.SliceLayout(0, SCORES))
        seen = (n[None, :] <= position[:, None]) & (n[None, :] < high)
        if WINDOW:
            seen &= n[None, :] > position[:, None] - WINDOW
        scores = gl.where(seen, scores, float("-inf"))
    higher = gl.maximum(top, gl.max(scores, 1) * SCALE)
    level = higher
    if WINDOW:
        level = gl.where(higher == float("-inf"), 0.0, higher)
    weights = gl.exp2(scores * SCALE - level[:, None])
    fade = gl.exp2(top - level)
    total = total * fade + gl.sum(weights, 1)
    return weights, fade, higher, total


@gluon.jit
def _clear(
    values, j, end, dtype: gl.constexpr, BLOCK_N: gl.constexpr, BOX: gl.constexpr,
    WIDTH: gl.constexpr,
):  # fmt: skip
    """Zeros for the values of a block that lie beyond the span's end, whatever they were."""
    PANELS: gl.constexpr = WIDTH // 64
    BOXES: gl.constexpr = BLOCK_N // BOX
    flat: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    spread: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0])
    boxes = values._reinterpret(dtype, [PANELS * BOXES, BOX, 64], flat)
    row = gl.arange(0, BOX, layout=gl.SliceLayout(1, spread))
    for g in range((end - j * BLOCK_N) // BOX, BOXES):
        inside = j * BLOCK_N + g * BOX + row < end
        for p in gl.static_range(PANELS):
            box = boxes.index(p * BOXES + g)
            x = box.load(spread)
            box.store(gl.where(inside[:, None], x, 0.0))
    hopper.fence_async_shared()


@gluon.jit
def _step(
    i, low, queries, keys, values, k_full, v_full, k_free, v_free, weights, top, total, acc,
    position, high, SCORES: gl.constexpr, SUMS: gl.constexpr, WEIGHTS: gl.constexpr,
    SCALE: gl.constexpr, WINDOW: gl.constexpr, MASKED: gl.constexpr, BLOCK_N: gl.constexpr,
    STAGES: gl.constexpr,
):  # fmt: skip
    """The scores of block i, while the values of the block before it are weighted."""
    stage, phase = i % STAGES, (i // STAGES) & 1
    last, before = (i - 1) % STAGES, ((i - 1) // STAGES) & 1
    mbarrier.wait(k_full.index(stage), phase)
    scores = _scores(queries, keys.index(stage), SCORES, BLOCK_N)
    mbarrier.wait(v_full.index(last), before)
    acc = hopper.warpgroup_mma(weights, values.index(last), acc, is_async=True)
    scores = hopper.warpgroup_mma_wait(1, deps=[scores])
    mbarrier.arrive(k_free.index(stage))
    found, fade, top, total = _softmax(
        scores, top, total, low + i, position, high, SCORES, SCALE, WINDOW, MASKED, BLOCK_N
    )
    acc = hopper.warpgroup_mma_wait(0, deps=[acc])
    mbarrier.arrive(v_free.index(last))
    acc = acc * gl.convert_layout(fade, gl.SliceLayout(1, SUMS))[:, None]
    return gl.convert_layout(found.to(weights.dtype), WEIGHTS), top, total, acc


@gluon.jit
def _compute(
    part: gl.constexpr, q, out, row0, kv, stop, past, first, low, inner, full, blocks, high, end,
    q_row, q_head, queries, keys, values, k_full, v_full, k_free, v_free,
    HEADS: gl.constexpr, SHARE: gl.constexpr, WIDTH: gl.constexpr, WINDOW: gl.constexpr,
    SCALE: gl.constexpr, BLOCK_N: gl.constexpr, BOX: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Half the rows of a tile, by one warp group."""
    TOKENS: gl.constexpr = 128 // SHARE
    dtype: gl.constexpr = q.dtype.element_ty
    SCORES: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, BLOCK_N, 16]
    )
    SUMS: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, WIDTH, 16]
    )
    WEIGHTS: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=SUMS, k_width=2)
    spread: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0])
    # Queries, once, through registers: heads that share keys are rows beside each other.
    r = part * 64 + gl.arange(0, 64, layout=gl.SliceLayout(1, spread))
    w = gl.arange(0, WIDTH, layout=gl.SliceLayout(0, spread))
    row, head = row0 + first + r // SHARE, kv * SHARE + r % SHARE
    r_in = (r < TOKENS * SHARE) & (row < stop)
    at = row.to(gl.int64)[:, None] * q_row + head[:, None] * q_head + w[None, :]
    mine = queries.index(part)
    mine.store(gl.load(q + at, mask=r_in[:, None], other=0.0))
    hopper.fence_async_shared()
    _barrier()
    s = part * 64 + gl.arange(0, 64, layout=gl.SliceLayout(1, SCORES))
    position = past + first + s // SHARE
    top = gl.full([64], float("-inf"), gl.float32, gl.SliceLayout(1, SCORES))
    total = gl.zeros([64], gl.float32, gl.SliceLayout(1, SCORES))
    acc = gl.zeros([64, WIDTH], gl.float32, SUMS)
    mbarrier.wait(k_full.index(0), 0)
    scores = _scores(mine, keys.index(0), SCORES, BLOCK_N)
    scores = hopper.warpgroup_mma_wait(0, deps=[scores])
    mbarrier.arrive(k_free.index(0))
    found, _, top, total = _softmax(
        scores, top, total, low, position, high, SCORES, SCALE, WINDOW, True, BLOCK_N
    )
    weights = gl.convert_layout(found.to(dtype), WEIGHTS)
    if WINDOW:
        for i in range(1, gl.minimum(inner, blocks)):
            weights, top, total, acc = _step(
                i, low, mine, keys, values, k_full, v_full, k_free, v_free, weights, top, total,
                acc, position, high, SCORES, SUMS, WEIGHTS, SCALE, WINDOW, True, BLOCK_N, STAGES,
            )  # fmt: skip
    for i in range(inner, full):
        weights, top, total, acc = _step(
            i, low, mine, keys, values, k_full, v_full, k_free, v_free, weights, top, total, acc,
            position, high, SCORES, SUMS, WEIGHTS, SCALE, WINDOW, False, BLOCK_N, STAGES,
        )  # fmt: skip
    for i in range(gl.maximum(full, inner), blocks):
        weights, top, total, acc = _step(
            i, low, mine, keys, values, k_full, v_full, k_free, v_free, weights, top, total, acc,
            position, high, SCORES, SUMS, WEIGHTS, SCALE, WINDOW, True, BLOCK_N, STAGES,
        )  # fmt: skip
    last = (blocks - 1) % STAGES
    mbarrier.wait(v_full.index(last), ((blocks - 1) // STAGES) & 1)
    if (low + blocks) * BLOCK_N > end:
        _clear(values.index(last), low + blocks - 1, end, dtype, BLOCK_N, BOX, WIDTH)
        _barrier()
    acc = hopper.warpgroup_mma(weights, values.index(last), acc, is_async=True)
    acc = hopper.warpgroup_mma_wait(0, deps=[acc])
    total = gl.where(total > 0, total, 1.0)
    share = gl.convert_layout(1.0 / total, gl.SliceLayout(1, SUMS))
    y = gl.convert_layout((acc * share[:, None]).to(dtype), spread)
    flat = row.to(gl.int64) * HEADS + head
    gl.store(out + flat[:, None] * WIDTH + w[None, :], y, mask=r_in[:, None])


@gluon.jit
def _bring(
    desc, target, full, table, row, block, end, column, page_rows, PAGE: gl.constexpr,
    WIDTH: gl.constexpr, BLOCK_N: gl.constexpr, BOX: gl.constexpr,
):  # fmt: skip
    """Begin the copies of one block, by boxes of 16 keys and 64 channels."""
    PANELS: gl.constexpr = WIDTH // 64
    BOXES: gl.constexpr = BLOCK_N // BOX
    boxes = target._reinterpret(desc.dtype, [PANELS * BOXES, BOX, 64], desc.layout)
    mbarrier.expect(full, BLOCK_N * WIDTH * 2)
    for g in gl.static_range(BOXES):
        # Beyond the end the last box will do: what it holds is neither seen nor kept.
        key = gl.minimum(block * BOXES + g, (end - 1) // BOX) * BOX
        place = row + key
        if PAGE:
            place = row + gl.load(table + key // PAGE) * page_rows + key % PAGE
        for p in gl.static_range(PANELS):
            _load(desc, [place, column + p * 64], full, boxes.index(p * BOXES + g))


@gluon.jit
def _copy(
    k_desc, v_desc, table, row, kv, low, blocks, end, keys, values, k_full, v_full, k_free,
    v_free, page_rows, head_columns, PAGE: gl.constexpr, WIDTH: gl.constexpr,
    BLOCK_N: gl.constexpr, BOX: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Keys and values, block by block, into whatever stage is free."""
    column = kv * head_columns
    for i in range(blocks):
        stage, phase = i % STAGES, (i // STAGES) & 1
        mbarrier.wait(k_free.index(stage), phase ^ 1)
        _bring(
            k_desc, keys.index(stage), k_full.index(stage), table, row, low + i, end, column,
            page_rows, PAGE, WIDTH, BLOCK_N, BOX,
        )  # fmt: skip
        mbarrier.wait(v_free.index(stage), phase ^ 1)
        _bring(
            v_desc, values.index(stage), v_full.index(stage), table, row, low + i, end, column,
            page_rows, PAGE, WIDTH, BLOCK_N, BOX,
        )  # fmt: skip


@gluon.jit(do_not_specialize=["table_row", "page_rows", "head_rows", "head_columns"])
def _attend(
    q, k_desc, v_desc, out, table, bounds, ends, tiles, q_row, q_head, table_row, page_rows,
    head_rows, head_columns, HEADS: gl.constexpr, SHARE: gl.constexpr, WIDTH: gl.constexpr,
    PAGE: gl.constexpr, WINDOW: gl.constexpr, SCALE: gl.constexpr, BLOCK_N: gl.constexpr,
    BOX: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Queries of a tile against the keys of its span that they see."""
    TOKENS: gl.constexpr = 128 // SHARE
    dtype: gl.constexpr = q.dtype.element_ty
    form: gl.constexpr = k_desc.layout
    span = gl.load(tiles + gl.program_id(0) * 2)
    first = gl.load(tiles + gl.program_id(0) * 2 + 1)
    kv = gl.program_id(1)
    start, stop, end = gl.load(bounds + span), gl.load(bounds + span + 1), gl.load(ends + span)
    past = end - (stop - start)
    high = gl.minimum(end, past + first + TOKENS)
    # Blocks from `low` on; all rows see all keys of those from `inner` to `full`.
    low = first * 0
    full = (past + first + 1) // BLOCK_N
    inner = low + 1
    if WINDOW:
        low = gl.maximum(0, past + first - WINDOW + 1) // BLOCK_N
        full -= low
        inner = gl.maximum(0, high - WINDOW) + BLOCK_N - 1
        inner = gl.maximum(inner // BLOCK_N - low, 1)
    blocks = (high + BLOCK_N - 1) // BLOCK_N - low
    table += span.to(gl.int64) * table_row
    row = kv * head_rows
    if PAGE == 0:
        row += gl.load(table) * page_rows
    queries = gl.allocate_shared_memory(dtype, [2, 64, WIDTH], form)
    keys = gl.allocate_shared_memory(dtype, [STAGES, BLOCK_N, WIDTH], form)
    values = gl.allocate_shared_memory(dtype, [STAGES, BLOCK_N, WIDTH], form)
    bar: gl.constexpr = mbarrier.MBarrierLayout()
    k_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], bar)
    v_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], bar)
    k_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], bar)
    v_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], bar)
    for s in gl.static_range(STAGES):
        mbarrier.init(k_full.index(s), count=1)
        mbarrier.init(v_full.index(s), count=1)
        mbarrier.init(k_free.index(s), count=2)
        mbarrier.init(v_free.index(s), count=2)
    hopper.fence_async_shared()
    gl.warp_specialize(
        [
            (_compute, (
                0, q, out, start, kv, stop, past, first, low, inner, full, blocks, high, end, q_row,
                q_head, queries, keys, values, k_full, v_full, k_free, v_free, HEADS, SHARE,
                WIDTH, WINDOW, SCALE, BLOCK_N, BOX, STAGES,
            )),
            (_compute, (
                1, q, out, start, kv, stop, past, first, low, inner, full, blocks, high, end, q_row,
                q_head, queries, keys, values, k_full, v_full, k_free, v_free, HEADS, SHARE,
                WIDTH, WINDOW, SCALE, BLOCK_N, BOX, STAGES,
            )),
            (_copy, (
                k_desc, v_desc, table, row, kv, low, blocks, end, keys, values, k_full, v_full,
                k_free, v_free, page_rows, head_columns, PAGE, WIDTH, BLOCK_N, BOX, STAGES,
            )),
        ],
        [4, 1],
        [240, 24],
    )  # fmt: skip


@dataclass(frozen=True)
class Matrix:
    """Keys as rows of a matrix: key k of a head in a page begins at row `page * page_rows + head *
    head_rows + k`, column `head * head_columns`."""

    whole: Tensor
    page_rows: int
    head_rows: int
    head_columns: int

    @classmethod
    def of(cls, x: Tensor) -> "Matrix | None":
        """From keys or values of `Pages`; None where they lie otherwise, or unevenly.

        The copy engine asks for addresses and rows that are multiples of 16 bytes.
        """
        lies = rows_of(x)
        if lies is None:
            return None
        (last, columns, row), steps = lies
        return cls(x.as_strided((last, columns), (row, 1)), *steps)

    @property
    def steps(self) -> tuple[int, int, int]:
        """Rows from page to page and from head to head, and columns from head to head."""
        return self.page_rows, self.head_rows, self.head_columns


Lies = tuple[tuple[int, int, int], tuple[int, int, int]]
"""Rows and columns of a matrix, and how far its rows lie apart; the `steps` of a `Matrix`."""


def rows_of(x: Tensor) -> Lies | None:
    """How `Matrix.of` sees keys or values; None where it cannot."""
    return None if x.data_ptr() % 16 else _rows_of(x.shape, x.stride(), x.itemsize)


@lru_cache(maxsize=64)  # pools have few shapes; keys of one call alone as many as calls have
def _rows_of(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> Lies | None:
    count, heads, width = shape[0], shape[1], shape[-1]
    size = 1 if len(shape) == 3 else shape[2]
    page, head, row = strides[0], strides[1], strides[2 if len(shape) == 4 else 0]
    if strides[-1] != 1 or row * itemsize % 16 or page % row:
        return None
    last = (count - 1) * (page // row) + size
    if head == width:  # heads beside each other
        return (last, heads * width, row), (page // row, 0, width)
    if len(shape) == 3 or row != width or head % row:
        return None
    last += (heads - 1) * (head // row)  # heads below each other
    return (last, width, row), (page // row, head // row, 0)


def unfit(q: Tensor, keys: Tensor, values: Tensor, size: int | None) -> str:
    """Why these kernels cannot serve such tensors on a Hopper GPU; empty where they can.

    keys and values as in `Pages`, of whose pages `size` keys are each (None: each span has one).
    """
    if q.dtype not in (torch.bfloat16, torch.float16) or keys.dtype != q.dtype:
        return f"queries in {q.dtype}, keys in {keys.dtype}"
    if q.shape[2] not in WIDTHS or q.shape[1] // keys.shape[1] > ROWS:
        return f"heads of {q.shape[2]}, {q.shape[1] // keys.shape[1]} for those of a key"
    if size is not None and size % BOX:
        return f"pages of {size}"
    one, other = rows_of(keys), rows_of(values)
    if one is None or other is None or one[1] != other[1]:
        return "keys and values do not lie alike, in even rows"
    return ""


def _boxes(pages: "Pages") -> tuple[list[TensorDescriptor], tuple[int, int, int]]:
    """Keys and values as the copy engine reads them, and the `steps` of both."""
    keys, values = Matrix.of(pages.keys), Matrix.of(pages.values)
    assert keys is not None
    assert values is not None
    boxes = [TensorDescriptor.from_tensor(x.whole, [BOX, PANEL], _SWIZZLED) for x in (keys, values)]
    return boxes, keys.steps


def attend_many(
    q: Tensor, pages: "Pages", out: Tensor, tables: "Tables", window: int | None
) -> None:
    """Fill the rows of `out` [T, heads, width] that `tables.many` names, tiles of ROWS rows.

    q [T, heads, width] of any strides whose channels lie together; `unfit` must be empty.
    """
    heads, width = q.shape[1:]
    share = heads // pages.keys.shape[1]
    if "boxes" not in pages.kept:
        pages.kept["boxes"] = _boxes(pages)
    boxes, steps = pages.kept["boxes"]
    _attend[tables.tiles[0], heads // share](
        q, *boxes, out, pages.table, tables.bounds, tables.ends, tables.many, q.stride(0),
        q.stride(1), pages.table.stride(0), *steps, HEADS=heads, SHARE=share, WIDTH=width,
        PAGE=pages.size or 0, WINDOW=window or 0, SCALE=width**-0.5 * _LOG2E, BLOCK_N=BLOCK,
        BOX=BOX, STAGES=STAGES, num_warps=4,
    )  # fmt: skip
