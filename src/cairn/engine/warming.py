"""Kernels compiled and graphs captured before anybody waits for them.

Triton compiles a kernel anew for each kind of arguments: whether a number is 1 or a multiple of
16, and which blocks suit a size. Forwards over tokens and memory that are nobody's meet the kinds
that requests have, and leave graphs for decoding.
"""

import itertools
import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from cairn.base import UserError
from cairn.engine.captures import out_of_memory
from cairn.engine.graphs import rows_for
from cairn.engine.pages import NULL, PAGE
from cairn.engine.piecewise import SIZES
from cairn.engine.pool import Sizes
from cairn.engine.runner import (
    FEW,
    MANY,
    MOST_READ,
    MOST_ROWS,
    Batch,
    Rows,
    Runner,
    spans_are_rows,
)
from cairn.model import ModelConfig
from cairn.ops.order import fixed_order
from cairn.ops.triton.tables import CHUNK

log = logging.getLogger(__name__)

LEAST = 16  # tokens: Triton tells multiples of it from other numbers
KINDS = 1, 2, LEAST  # rows that decoding kernels tell apart
SHORT = FEW + 1  # tokens of the shortest prompt that is computed with the prompts
HEADS = 2, 32, 64  # rows whose logits are asked for at once: what products tell apart


@torch.inference_mode()
def warm_up(runner: Runner, budget: int, fixed: bool, busy: bool) -> float:
    """Forwards of up to `budget` tokens, in any of a slot's memory; seconds that they took.

    With `fixed`, in the order of sums that `ops.order` fixes. UserError where requests are `busy`,
    whose memory that is.
    """
    if busy:
        raise UserError("kernels are warmed up between requests: wait for those that run")
    began = time.perf_counter()
    device = runner.model.device
    _onto_nobody(runner)
    with fixed_order(fixed):
        for number, given in enumerate(_batches(runner, budget)):
            batch = replace(given, spans_as_rows=False)  # or kernels of spans would not be met
            count = sum(batch.sizes)
            tokens = torch.zeros(count, dtype=torch.int64, device=device)
            rows = Rows(_computed(runner, tokens, batch), [])
            runner.logits(rows, [end - 1 for end in itertools.accumulate(batch.sizes)])
            for asked in HEADS if not number else ():  # no batch of fewer tokens has as many
                runner.logits(rows, list(range(min(asked, count))))
    for group in range(len(runner.pool.cache.tables)):
        runner.pool.scrub(group, [NULL])  # its zeros are what unused parts of tables point to
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _computed(runner: Runner, tokens: Tensor, batch: Batch) -> Tensor:
    """Hidden states; where memory is short, graphs in pieces give theirs back.

    They are captured first, and long prompts have to fit beside them.
    """
    try:
        return runner.compute_together(tokens, batch)
    except RuntimeError as error:
        if runner.graphs is None or not len(runner.graphs.piecewise) or not out_of_memory(error):
            raise
    runner.graphs.piecewise.give_way()
    log.warning("too little memory for graphs of short prompts beside long ones")
    return runner.compute_together(tokens, batch)


def _onto_nobody(runner: Runner) -> None:
    """Have the tables of all slots point to the page that is nobody's."""
    for group, table in enumerate(runner.pool.cache.tables):
        for slot in range(len(table)):
            runner.pool.assign(slot, group, 0, [NULL] * table.shape[1])


def _batches(runner: Runner, budget: int) -> Iterator[Batch]:
    sizes, config = runner.pool.sizes, runner.model.config
    if runner.graphs is not None:
        yield from _pieced(sizes, max(budget, sizes.slots))
    yield from _prompts(sizes, budget)
    if runner.pool.recurrent:
        yield from _chunks(sizes, budget)
    yield from _ends(sizes, max(budget, sizes.slots))
    if runner.graphs is None:
        yield from _decoding(sizes)
    else:
        yield from _graphs(sizes, config, budget)
    if config.count("*") and runner.model.device.type == "cuda":
        yield from _long(sizes, config, max(budget, sizes.slots), alone=runner.graphs is None)


def _pieced(sizes: Sizes, budget: int) -> Iterator[Batch]:
    """As many tokens as each forward has that is captured in pieces; the most first, for their
    memory serves the others."""
    most = min(budget, sizes.slots * sizes.capacity)
    for fewer, size in reversed(list(itertools.pairwise((1, *SIZES)))):
        count = min(size, most)
        if count > fewer:
            spans = _filling(count, sizes.capacity)
            yield _spans(spans, [sizes.capacity - span for span in spans])


def _prompts(sizes: Sizes, budget: int) -> Iterator[Batch]:
    """Tokens of prompts, halved from the most on; a prompt that goes on; many short ones.

    Halves are rounded up, so that no doubling of chunks is left out.
    """
    capacity = sizes.capacity
    most = tokens = min(budget, sizes.slots * capacity)
    while tokens > FEW:
        even = -(-tokens // LEAST) * LEAST
        for total in (even if even <= most else even - LEAST, tokens - (tokens % LEAST == 0)):
            spans = _filling(total, capacity)
            if len(spans) > 1 and spans[-1] < SHORT:
                spans[-2:] = capacity + spans[-1] - SHORT, SHORT
            if spans and min(spans) > FEW:
                yield _spans(spans, [0] * len(spans), every=tokens == most)
        tokens = -(-tokens // 2)
    size = min(budget, capacity)
    if capacity - size > 0:
        past = min(size, capacity - size)
        yield _spans([size], [past])
    count = min(sizes.slots, budget // SHORT)
    if count > 1 and capacity >= SHORT:
        yield _spans([SHORT] * count, [0] * count)


def _chunks(sizes: Sizes, budget: int) -> Iterator[Batch]:
    """Chunks of scans, halved from the most on that tokens can be cut into: a scan's blocks are
    chosen by how many there are."""
    spans = min(sizes.slots, budget // SHORT) if sizes.capacity >= SHORT else 0
    more = max(0, budget - spans * SHORT - LEAST) // CHUNK
    most = spans + min(more, spans * ((sizes.capacity - SHORT) // CHUNK))
    in_prompts = -(-min(budget, sizes.slots * sizes.capacity) // CHUNK)
    for even in (True, False):
        chunks = most
        while chunks > in_prompts:
            count = min(spans, chunks)
            each, longer = divmod(chunks, count)
            lengths = [SHORT + CHUNK * (each - 1 + (span < longer)) for span in range(count)]
            over = sum(lengths) % LEAST
            lengths[-1] += -over % LEAST if even else int(over == 0)
            if lengths[-1] <= sizes.capacity and sum(lengths) <= budget:
                yield _spans(lengths, [0] * count)
                chunks = -(-chunks // 2)
            else:
                chunks -= 1


def _ends(sizes: Sizes, budget: int) -> Iterator[Batch]:
    """Ends of prompts, beside a row that decodes where there is room.

    Kernels read keys that lie in one page otherwise than those in several.
    """
    for few, past in itertools.product((2, FEW), (0, PAGE)):
        end = min(few, sizes.capacity - past, budget)
        if end > 1:
            beside = int(sizes.slots > 1 and end < budget)
            yield Batch([end] + [1] * beside, [0, 1][: 1 + beside], [past] * (1 + beside), 0)


def _decoding(sizes: Sizes) -> Iterator[Batch]:
    """A token for each of so many sequences, without graphs."""
    for rows, past in itertools.product(KINDS, (0, PAGE)):
        if rows <= sizes.slots and past < sizes.capacity:
            yield Batch([1] * rows, list(range(rows)), [past] * rows, 0)


def _graphs(sizes: Sizes, config: ModelConfig, budget: int) -> Iterator[Batch]:
    """The same of rows that are nobody's: all numbers of them, of a few all lengths, and of those
    that spans may be all that these may read."""
    from cairn.ops.triton.attention import PIECE

    spans = min(MOST_ROWS, budget) if spans_are_rows(bool(config.count("M"))) else 0
    every = sorted({rows_for(count) for count in range(1, max(sizes.slots, spans) + 1)})
    lengths = [1]
    while lengths[-1] * PIECE < sizes.capacity:
        lengths.append(2 * lengths[-1])
    pairs = list(itertools.product(every, lengths))
    usual = [
        (rows, pieces)
        for rows, pieces in pairs
        if pieces == 1 or rows in KINDS or (rows <= spans and rows * pieces * PIECE <= MOST_READ)
    ]
    split = _splits(usual + pairs, sizes, config) if config.count("*") else []
    for rows, pieces in dict.fromkeys(usual + split):
        past = pieces // 2 * PIECE
        yield Batch([1] * rows, [-1] * rows, [past] * rows, 0)


def _long(sizes: Sizes, config: ModelConfig, budget: int, alone: bool) -> Iterator[Batch]:
    """Rows after so many keys that these are split, beside an end of a prompt, or also `alone`."""
    from cairn.ops.triton.attention import FEW_ROWS, PIECE

    share = config.attention_heads // config.key_value_heads
    lengths = [-(-sizes.capacity // PIECE)]
    lengths += [1 << power for power in range((lengths[0] - 1).bit_length())]
    for end in (1, 2) if alone else (2,):
        most = min(sizes.slots, budget - end + 1)
        without = int(end * share > FEW_ROWS)  # an end that is not split
        counts = range(1, most + 1 - without)
        for count, pieces in _splits(itertools.product(counts, lengths), sizes, config):
            past = min(pieces * PIECE, sizes.capacity) - end
            rows = count + without
            if share <= FEW_ROWS and past > 0:
                yield Batch([end] + [1] * (rows - 1), list(range(rows)), [past] * rows, 0)


def _splits(
    pairs: Iterable[tuple[int, int]], sizes: Sizes, config: ModelConfig
) -> list[tuple[int, int]]:
    """Of numbers of rows and of pieces of PIECE keys the first for each length of split keys."""
    from cairn.ops.triton.attention import PIECE, split_of

    found: dict[int, tuple[int, int]] = {}
    for rows, pieces in pairs:
        split = split_of(rows * config.key_value_heads, pieces)
        if split < min(pieces * PIECE, sizes.capacity):
            found.setdefault(split, (rows, pieces))
    return list(found.values())


def _filling(count: int, capacity: int) -> list[int]:
    """Spans of `count` tokens, all but the last of which fill a slot."""
    return [min(capacity, count - at) for at in range(0, count, capacity)]


def _spans(sizes: list[int], past: list[int], every: bool = False) -> Batch:
    """In the first slots; the last row of each is looked at, or `every` row."""
    ends = [end - 1 for end in itertools.accumulate(sizes)]
    asked = ends if sum(sizes) >= MANY and not every else None
    return Batch(sizes, list(range(len(sizes))), past, 0, asked)
