"""Kernels compiled and graphs captured before anybody waits for them.

Triton compiles a kernel anew for each kind of arguments: whether a number is 1 or a multiple of
16, and which blocks suit a size. Forwards over tokens and memory that are nobody's meet the kinds
that requests have, and leave graphs for decoding.
"""

import itertools
import time
from collections.abc import Iterator

import torch

from cairn.base import UserError
from cairn.engine.graphs import rows_for
from cairn.engine.pages import NULL, PAGE
from cairn.engine.runner import FEW, MANY, Batch, Rows, Runner
from cairn.ops.order import fixed_order

LEAST = 16  # tokens: Triton tells multiples of it from other numbers
KINDS = 1, 2, LEAST  # rows that decoding kernels tell apart


@torch.inference_mode()
def warm_up(runner: Runner, budget: int, fixed: bool, busy: bool) -> float:
    """Forwards of up to `budget` tokens, in any of a slot's memory; seconds that they took.

    With `fixed`, in the order of sums that `ops.order` fixes. UserError where requests are `busy`,
    whose memory that is.
    """
    if busy:
        raise UserError("kernels are warmed up between requests: wait for those that run")
    began = time.perf_counter()
    sizes, device = runner.pool.sizes, runner.model.device
    _onto_nobody(runner)
    with fixed_order(fixed):
        for batch in (*_prompts(sizes.slots, sizes.capacity, budget), *_decoding(runner)):
            tokens = torch.zeros(sum(batch.sizes), dtype=torch.int64, device=device)
            rows = Rows(runner.compute_together(tokens, batch), [])
            runner.logits(rows, [end - 1 for end in itertools.accumulate(batch.sizes)])
    for group in range(len(runner.pool.cache.tables)):
        runner.pool.scrub(group, [NULL])  # its zeros are what unused parts of tables point to
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _onto_nobody(runner: Runner) -> None:
    """Have the tables of all slots point to the page that is nobody's."""
    for group, table in enumerate(runner.pool.cache.tables):
        for slot in range(len(table)):
            runner.pool.assign(slot, group, 0, [NULL] * table.shape[1])


def _prompts(slots: int, capacity: int, budget: int) -> Iterator[Batch]:
    """Prompts of halving lengths, one that goes on, many short ones, and ends of some.

    Kernels read keys that lie in one page otherwise than those in several.
    """
    length = most = min(budget, capacity)
    while length > FEW:
        even = length // LEAST * LEAST
        for size in {length, even, even - 1}:
            if size > FEW:
                yield _spans([size], [0])
        length //= 2
    past = min(most, capacity - most)
    if past > 0:
        yield _spans([most], [past])
    many = min(slots, most // (FEW + 1))
    for count in {many, many // LEAST * LEAST, many // LEAST * LEAST - 1}:
        if count > 1:
            yield _spans([FEW + 1] * count, [0] * count)
    for few in range(2, min(FEW, most) + 1):
        for past in (0, PAGE):
            if past + few <= capacity:
                yield _spans([few], [past])


def _decoding(runner: Runner) -> Iterator[Batch]:
    """A token for each of so many sequences; those of graphs are nobody's, of any length."""
    slots, capacity = runner.pool.sizes.slots, runner.pool.sizes.capacity
    if runner.graphs is None:
        for rows in KINDS:
            if rows <= slots:
                yield _spans([1] * rows, [0] * rows)
        return
    from cairn.ops.triton.attention import PIECE

    for rows in sorted({rows_for(count) for count in range(1, slots + 1)}):
        past = 0
        while past == 0 or (rows in KINDS and past < capacity):
            yield Batch([1] * rows, [-1] * rows, [past] * rows, 0)
            past = 2 * past or PIECE


def _spans(sizes: list[int], past: list[int]) -> Batch:
    """In the first slots; the last row of each is looked at."""
    ends = [end - 1 for end in itertools.accumulate(sizes)]
    asked = ends if sum(sizes) >= MANY else None
    return Batch(sizes, list(range(len(sizes))), past, 0, asked)
