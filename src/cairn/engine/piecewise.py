"""Forwards of some tokens as captured CUDA graphs, cut where tokens of a span meet.

Short prompts, ends of prompts and guesses take a GPU a few milliseconds, and the host several times
as long to launch. What is done to each token by itself (norms, matrices, activations: most of all
launches) is the same whatever the spans are, and is captured once for each of a few numbers of
tokens. In between attention and scans run as they would without graphs, over the tokens that are
there. Tokens are filled up to the next number with some that are nobody's: no row sees another.
"""

import logging
from bisect import bisect_left
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from cairn.engine.captures import Captures, out_of_memory, release
from cairn.engine.pool import Pool
from cairn.model import Decoder, Spans
from cairn.model.layout import Core, Layout

log = logging.getLogger(__name__)

SIZES = (8, 16, 32, *range(64, 513, 64), *range(640, 1025, 128))
"""Tokens: up to some 256 reading the weights takes longest, and padding costs little; above the
last one the GPU takes longer than the host."""


@dataclass(frozen=True)
class Cut:
    """A graph, and what runs after it."""

    graph: torch.cuda.CUDAGraph
    core: Core
    parts: tuple[Tensor, ...]
    """What the graph leaves for the core [T, _]; views that own nothing."""
    memory: Any
    found: Tensor
    """[T, W]: where the next graph looks for what the core gives."""


@dataclass(frozen=True)
class Pieced:
    """The forward of one number of tokens."""

    tokens: Tensor
    """int64 [T]."""
    cuts: list[Cut]
    last: torch.cuda.CUDAGraph
    hidden: Tensor
    """[T, D]."""


class Piecewise:
    """The graphs of all numbers of tokens, captured when they are first needed."""

    def __init__(self, model: Decoder, pool: Pool, captures: Captures) -> None:
        self._model, self._pool, self._captures = model, pool, captures
        self._held: dict[int, Pieced] = {}
        self._most = SIZES[-1]
        self._room: dict[tuple[int, torch.dtype], Tensor] = {}

    def __len__(self) -> int:
        """For how many numbers of tokens there are graphs."""
        return len(self._held)

    def clear(self) -> None:
        """Forget all graphs."""
        self._held.clear()
        self._room.clear()

    def give_way(self, most: int = 0) -> None:
        """Leave memory to others: forget all, and serve at most so many tokens from here on.

        Graphs of rows that are there already keep the memory that all graphs share, so that others
        have it only where these came first.
        """
        self._most = min(most, self._most)
        self.clear()
        release()

    def run(self, tokens: Tensor, spans: Spans) -> Tensor | None:
        """`Decoder.hidden` [T, D] of `tokens` int64 [T], which the pool's cache remembers.

        The rows stay as they are until the next graph is replayed. None, and nothing done, where
        tokens are too many for graphs, or for graphs in the memory that is left.
        """
        if not 0 < len(tokens) <= self._most:
            return None
        count, cache, model = len(tokens), self._pool.cache, self._model
        size = SIZES[bisect_left(SIZES, count)]
        held = self._held.get(size) or self._captured(size)
        if held is None:
            return None
        layout = Layout.of(model.config, spans, cache, model.device)
        held.tokens[:count].copy_(tokens)
        for cut in held.cuts:
            cut.graph.replay()
            parts = tuple([x[:count] for x in cut.parts])
            cut.found[:count].copy_(cut.core(parts, layout, cut.memory))
        held.last.replay()
        cache.end(spans.slot_numbers, spans.lengths)
        return held.hidden[:count]

    def _captured(self, size: int) -> Pieced | None:
        try:
            self._held[size] = self._capture(size)
            return self._held[size]
        except RuntimeError as error:
            shared = dist.is_available() and dist.is_initialized()  # other ranks would go on
            if shared or not out_of_memory(error):
                raise
        self.give_way(max((fewer for fewer in SIZES if fewer <= size // 4), default=0))
        log.warning("too little memory for graphs of %d tokens: they are launched anew", size)
        return None

    def _capture(self, size: int) -> Pieced:
        tokens = torch.zeros(size, dtype=torch.int64, device=self._model.device)
        with self._captures.counting():
            self._forward(tokens, lambda core, parts, memory: self._found(parts))  # compiles
        with self._captures.open(), _Seams(self) as seams:
            hidden = self._forward(tokens, seams)
        assert seams.ended is not None
        return Pieced(tokens, seams.cuts, seams.ended, hidden)

    def _forward(self, tokens: Tensor, seam: Any) -> Tensor:
        layout = Layout.of_no_spans(tokens.device, seam)
        return self._model.run(tokens, layout, self._pool.cache)

    def _found(self, parts: tuple[Tensor, ...]) -> Tensor:
        """Where a core's result goes: one place for all, since the next graph takes it from there.

        It is made by the forward that comes before any capture.
        """
        size, width = parts[0].shape
        kind = width, parts[0].dtype
        if kind not in self._room or len(self._room[kind]) < size:
            self._room[kind] = parts[0].new_zeros(size, width)
        return self._room[kind][:size]


class _Seams:
    """Ends a graph at every core, and begins the next."""

    def __init__(self, owner: Piecewise) -> None:
        self._owner, self._captures = owner, owner._captures
        self.cuts: list[Cut] = []
        self._begun: torch.cuda.CUDAGraph | None = None
        self.ended: torch.cuda.CUDAGraph | None = None
        """The graph before."""

    def __enter__(self) -> "_Seams":
        self._begun = self._captures.begin()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if self._begun is None:
            return
        with nullcontext() if kind is None else suppress(RuntimeError):  # the first error counts
            self._end()

    def __call__(self, core: Core, parts: tuple[Tensor, ...], memory: Any) -> Tensor:
        graph, found = self._end(), self._owner._found(parts)
        self.cuts.append(Cut(graph, core, tuple(map(unowned, parts)), memory, found))
        self._begun = self._captures.begin()
        return found

    def _end(self) -> torch.cuda.CUDAGraph:
        assert self._begun is not None
        self.ended, self._begun = self._begun, None
        self._captures.end(self.ended)
        return self.ended


class _Address:
    """A place on a GPU, as NumPy-like libraries tell each other."""

    def __init__(self, x: Tensor) -> None:
        size = x.element_size()
        self.__cuda_array_interface__ = {
            "shape": tuple(x.shape),
            "strides": tuple(stride * size for stride in x.stride()),
            "typestr": f"<i{size}",
            "data": (x.data_ptr(), False),
            "version": 2,
        }


def unowned(x: Tensor) -> Tensor:
    """`x` by its address alone: its memory may be given out again.

    Between graphs of one pool: what the next one writes there, it writes after this was read.
    """
    return torch.as_tensor(_Address(x), device=x.device).view(x.dtype)
