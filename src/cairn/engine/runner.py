"""Slices of sequences through the one forward: flat tokens and spans in, hidden states out."""

from dataclasses import dataclass, replace
from operator import add, mul

import torch
from torch import Tensor

from cairn.base import UserError
from cairn.engine.graphs import Graphs
from cairn.engine.pool import Pool
from cairn.engine.scheduler import Slice
from cairn.engine.team import Team
from cairn.model import Decoder, Spans
from cairn.ops.order import order_is_fixed
from cairn.ops.transfer import on_device

MANY = 64  # tokens: from here on rows that nobody looks at are left out where they can be
MOST_ROWS = 128  # tokens of spans, up to which each may be a row of a graph
MOST_READ = 32_768  # keys that these rows read: a span's kernel reads them once for many tokens
FEW = 8  # tokens: spans up to this long go together, apart from the prompts


@dataclass(frozen=True)
class Batch:
    """Spans of one step, in the order in which their rows lie."""

    sizes: list[int]
    """Tokens of each."""
    slots: list[int]
    past: list[int]
    """Tokens that each slot holds before."""
    few: int
    """How many of them, the first, have a forward of their own; 0 where all go together."""
    asked: list[int] | None = None
    """Of the rows of spans that are no `few`, those that somebody looks at; None for all."""
    spans_as_rows: bool = True
    """Whether each token of a span may be a row of a graph."""

    def part(self, start: int = 0, stop: int | None = None) -> "Batch":
        """Some of the spans, together."""
        own = slice(start, stop)
        sizes, slots, past = self.sizes[own], self.slots[own], self.past[own]
        return replace(self, sizes=sizes, slots=slots, past=past, few=0)


@dataclass(frozen=True)
class Rows:
    """What a step computed of its T tokens, and where each slice's rows begin."""

    hidden: Tensor | None
    """[T, D]; None where one of the others is there."""
    starts: list[int]
    logits: Tensor | None = None
    """fp32 [T, V], of the same call."""
    likeliest: tuple[Tensor, Tensor] | None = None
    """The highest logits fp32 [T] and whose they are int64 [T], of the same call."""
    tokens: int = 0
    """T."""


@dataclass(frozen=True)
class Held:
    """States from before the slices with drafts."""

    states: tuple[Tensor, ...]
    slots: list[int]


class Runner:
    """One model and the pool that its sequences live in.

    A token that was drawn and is not known on the host yet is read where it was drawn: `remember`
    keeps the last one of every slot. `graphs` says whether launches for few tokens are captured;
    None does so where it can be. With a `team`, its other ranks compute what is computed here, each
    its share.
    """

    def __init__(
        self, model: Decoder, pool: Pool, graphs: bool | None = None, team: Team | None = None
    ) -> None:
        self.model, self.pool, self._team = model, pool, team
        if graphs and not Graphs.serve(model):
            raise UserError("graphs", graphs, "cannot be had here", "they are for GPUs: leave out")
        captured = Graphs.serve(model) if graphs is None else graphs
        self.graphs = Graphs(model, pool) if captured else None
        if team is not None:
            team.before_end(self.release)
        slots = pool.cache.slots
        self._last = torch.zeros(slots, dtype=torch.int64, device=model.device)
        self._alone = team is None and model.device.type == "cpu"
        self._spans: tuple[list[int], list[int], Spans] = [], [], Spans.of([0])

    def run(self, slices: list[Slice]) -> Rows:
        """Compute the slices; the pool remembers their tokens afterwards.

        Where sequences that draw run beside prompts, each kind has a forward of its own: a scan
        pads every span to a chunk, and a chunk for one token is wasted; and graphs of rows are for
        those of one token, and for a few of a span. The rows stay as they are until the next call.
        On a CPU one token each goes through the output matrix in the same call; sequences that are
        all `plain` leave no logits.
        """
        if self._alone and all(part.size == 1 and part.reaches_end for part in slices):
            return self._run_whole(slices)
        few = [number for number, part in enumerate(slices) if part.size <= FEW]
        order = list(range(len(slices)))
        if not few or len(few) == len(slices) or not self._parted(slices):
            few = []
        else:
            order.sort(key=lambda number: slices[number].size > FEW)
        parts = [slices[number] for number in order]
        sizes, slots = [part.size for part in parts], [part.slot for part in parts]
        batch = Batch(
            sizes, slots, [part.start for part in parts], len(few), _asked(parts[len(few) :])
        )
        tokens = self._tokens(parts)
        starts, at = [0] * len(slices), 0
        for number, size in zip(order, sizes, strict=True):
            starts[number] = at
            at += size
        return Rows(self.compute_together(tokens, batch), starts, tokens=at)

    def _parted(self, slices: list[Slice]) -> bool:
        """Whether those of few tokens have a forward of their own."""
        if self.graphs is None:
            return self.pool.recurrent
        sizes, past = [part.size for part in slices], [part.start for part in slices]
        return not self._each_a_row(sizes, past)

    def _run_whole(self, slices: list[Slice]) -> Rows:
        """A token of each sequence, and what it predicts."""
        tokens = self._tokens(slices)
        slots = [part.slot for part in slices]
        self.pool.cache.hold(slots, [part.start for part in slices])
        given = tokens, self._spans_of([1] * len(slices), slots), self.pool.cache
        starts = list(range(len(slices)))
        if all(part.sequence.plain for part in slices):
            found = self.model.likeliest(*given)
            return Rows(None, starts, likeliest=found, tokens=len(slices))
        return Rows(None, starts, logits=self.model(*given), tokens=len(slices))

    def _spans_of(self, sizes: list[int], slots: list[int]) -> Spans:
        """Those of the step before, where they are the same."""
        if (sizes, slots) != self._spans[:2]:
            self._spans = sizes, slots, Spans.of(sizes, slots)
        return self._spans[2]

    def compute_together(self, tokens: Tensor, batch: Batch) -> Tensor:
        """`compute`, on all ranks."""
        if self._team is None:
            return self.compute(tokens, batch)
        with self._team.together("run", batch, len(tokens)):
            self._team.share(tokens)
            return self.compute(tokens, batch)

    def compute(self, tokens: Tensor, batch: Batch) -> Tensor:
        """Hidden states [T, D] of `tokens` int64 [T], which lie on the device."""
        if not batch.few:
            return self._forward(tokens, batch)
        few, rest = batch.part(stop=batch.few), batch.part(start=batch.few)
        count = sum(few.sizes)
        first = self._forward(tokens[:count], replace(few, asked=None))
        if self.graphs is not None:
            first = first.clone()  # the next graph may leave its own in that place
        return torch.cat([first, self._forward(tokens[count:], rest)])

    def logits(self, rows: Rows, places: list[int]) -> Tensor:
        """Logits [R, V] of the rows at `places`, and of no others, in the dtype of `head`."""
        if rows.logits is not None:
            return rows.logits if places == rows.starts else rows.logits[places]
        assert rows.hidden is not None
        if self._team is None:
            return self.head(rows.hidden, places)
        with self._team.together("head", places):
            return self.head(rows.hidden, places)

    def head(self, hidden: Tensor, places: list[int]) -> Tensor:
        """Logits [R, V] of some rows of `hidden` [T, D], in the dtype in which they come."""
        if places != list(range(len(hidden))):
            hidden = hidden[on_device(places, torch.int64, hidden.device)]
        return self.model.head(hidden, widened=False)

    def remember(self, slots: list[int], tokens: Tensor) -> None:
        """`tokens` int64 [R] were drawn in these slots, all different."""
        self._last.index_copy_(0, on_device(slots, torch.int64, self._last.device), tokens)

    def check(self) -> None:
        """The weights may lie elsewhere now."""
        if self._team is not None:
            self._team.tell("check")
        if self.graphs is not None:
            self.graphs.check()

    def release(self) -> None:
        """Nothing more is computed here: connections between ranks end after the graphs in which
        they were captured."""
        if self.graphs is not None:
            self.graphs.clear()

    def hold(self, slices: list[Slice]) -> Held | None:
        """The states that a rejected draft would spoil; None if there are none."""
        slots = [part.slot for part in slices if part.drafts]
        if not slots or not self.pool.recurrent:
            return None
        return Held(self.pool.hold(slots), slots)

    def put_back(self, held: Held, slots: list[int]) -> None:
        """Take back what the drafts did to the states of `slots`."""
        self.pool.put_back(held.states, [held.slots.index(slot) for slot in slots], slots)

    def _forward(self, tokens: Tensor, batch: Batch) -> Tensor:
        """All spans together."""
        sizes, slots, past = batch.sizes, batch.slots, batch.past
        if self.graphs is not None and self._each_a_row(sizes, past, batch.spans_as_rows):
            return self.graphs.run(tokens, *_rows_of(sizes, slots, past))
        self.pool.cache.hold(slots, past)
        spans = self._spans_of(sizes, slots)
        found = None if self.graphs is None else self.graphs.piecewise.run(tokens, spans)
        if found is not None:
            return found
        return self.model.hidden(tokens, spans, self.pool.cache, batch.asked)

    def _each_a_row(self, sizes: list[int], past: list[int], spans_too: bool = True) -> bool:
        """Whether tokens run as rows of a decoding step, which is one graph.

        Those of spans too, where that graph is there already: but not in recurrent models, nor
        where the order of sums must not depend on company.
        """
        if all(size == 1 for size in sizes):
            return True
        if not spans_too or self.graphs is None or not spans_are_rows(self.pool.recurrent):
            return False
        count, ends = sum(sizes), list(map(add, sizes, past))
        few = count <= MOST_ROWS and sum(map(mul, sizes, ends)) <= MOST_READ
        return few and self.graphs.ready(count, max(ends))

    def _tokens(self, slices: list[Slice]) -> Tensor:
        """int64 [T] on the device: what is known here, and the rest from where it was drawn."""
        tokens: list[int] = []
        unknown = 0
        for part in slices:
            known = part.sequence.tokens(part.start, part.stop)
            tokens += known
            if len(known) < part.stop - part.start:
                tokens.append(-1 - part.slot)
                unknown += 1
            tokens += part.drafts
        if unknown == len(tokens):  # as in most steps that draw ahead
            return self._last[on_device([-1 - t for t in tokens], torch.int64, self.model.device)]
        found = on_device(tokens, torch.int64, self.model.device)
        if not unknown:
            return found
        return torch.where(found < 0, self._last[(-1 - found).clamp(min=0)], found)


def spans_are_rows(recurrent: bool) -> bool:
    """Whether tokens of a span may be rows of a graph at all."""
    return not recurrent and not order_is_fixed()


def _rows_of(sizes: list[int], slots: list[int], past: list[int]) -> tuple[list[int], list[int]]:
    """The slot of every token, and how many tokens it holds before it."""
    spans = list(zip(sizes, slots, past, strict=True))
    each = [slot for size, slot, _ in spans for _ in range(size)]
    return each, [old + n for size, _, old in spans for n in range(size)]


def _asked(parts: list[Slice]) -> list[int] | None:
    """Rows of these slices that logits may be asked of; None where the rest is no great part."""
    rows, at = [], 0
    for part in parts:
        first = at + part.size if not part.reaches_end else at + part.stop - part.start - 1
        if part.sequence.params.prompt_logprobs is not None:
            first = at
        at += part.size
        rows += range(first, at)
    return rows if at >= MANY and len(rows) * 2 <= at else None
