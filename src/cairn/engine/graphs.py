"""Decoding as captured CUDA graphs, one for each number of rows and length of the keys.

A step of hundreds of small kernels takes the host longer to launch than a GPU to run; a graph is
launched at once. Rows are filled up to the next size with rows that are nobody's: they read and
write no slot and no page.
"""

from bisect import bisect_left
from dataclasses import dataclass

import torch
from torch import Tensor

from cairn.engine.captures import Captures
from cairn.engine.piecewise import Piecewise
from cairn.engine.pool import Pool
from cairn.model import Decoder
from cairn.model.layout import Layout
from cairn.model.steps import Step
from cairn.ops.transfer import on_device

SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256)  # rows
MORE = 64  # beyond those: multiples of it


@dataclass(frozen=True)
class Captured:
    """A graph, what it leaves, and what it reads that would go otherwise."""

    graph: torch.cuda.CUDAGraph
    hidden: Tensor
    layout: Layout


class Graphs:
    """Steps of one token a row; graphs are captured when they are first needed."""

    def __init__(self, model: Decoder, pool: Pool) -> None:
        self._model, self._pool = model, pool
        self._steps: dict[int, Step] = {}
        self._graphs: dict[tuple[int, int], Captured] = {}
        self._captures = Captures(model.device)
        self.piecewise = Piecewise(model, pool, self._captures)
        """For tokens that are no rows."""
        self._weights = _addresses(model)

    def __len__(self) -> int:
        """How many were captured."""
        return len(self._graphs)

    def check(self) -> None:
        """Forget graphs whose weights lie elsewhere now: a graph knows them by address."""
        if self._weights != (now := _addresses(self._model)):
            self.clear()
            self._weights = now

    def clear(self) -> None:
        """Forget all graphs."""
        self._graphs.clear()
        self.piecewise.clear()

    def ready(self, count: int, keys: int) -> bool:
        """Whether there is a graph for so many rows, the longest of which reads so many keys.

        Of few keys there is one soon, since all lengths up to there share it.
        """
        pieces = _pieces(keys)
        return pieces == 1 or (rows_for(count), pieces) in self._graphs

    @staticmethod
    def serve(model: Decoder) -> bool:
        """Whether a model can be run so: on a GPU, by kernels alone."""
        scaling = model.config.rope_scaling
        checked = scaling is not None and scaling.kind == "dynamic"  # looks at positions
        return model.device.type == "cuda" and model.dtype != torch.float64 and not checked

    def run(self, tokens: Tensor, slots: list[int], past: list[int]) -> Tensor:
        """Hidden states [S, D] after each of `tokens` int64 [S] in its slot, which holds `past`.

        A slot may come several times, with one token more in its past each time: keys of all rows
        are there before any is read. States of recurrent layers are not.
        They stay as they are until the next graph is replayed.
        """
        count = len(slots)
        rows = rows_for(count)
        pieces = _pieces(max(past) + 1)
        step = self._steps.get(rows)
        if step is None:
            step = self._steps[rows] = Step(rows, self._model.device)
        empty = [0] * (rows - count)
        given = [slots + [-1] * (rows - count), past + empty]
        step.given.copy_(on_device(given, torch.int64, self._model.device), non_blocking=True)
        step.tokens[:count].copy_(tokens)
        self._pool.send_tables()
        captured = self._graphs.get((rows, pieces))
        if captured is None:
            hidden, _ = self._forward(step, pieces)  # compiles kernels, and is this step
            self._graphs[rows, pieces] = self._capture(step, pieces)
            return hidden[:count]
        captured.graph.replay()
        return captured.hidden[:count]

    def _forward(self, step: Step, pieces: int) -> tuple[Tensor, Layout]:
        cache = self._pool.cache
        layout = step.layout(self._model.config, cache, self._pool.tables, pieces)
        with self._captures.counting():
            return self._model.run(step.tokens, layout, cache), layout

    def _capture(self, step: Step, pieces: int) -> "Captured":
        with self._captures.open(), self._captures.graph() as graph:
            hidden, layout = self._forward(step, pieces)
        return Captured(graph, hidden, layout)


def rows_for(count: int) -> int:
    """Rows of the graph that runs so many."""
    return SIZES[bisect_left(SIZES, count)] if count <= SIZES[-1] else -(-count // MORE) * MORE


def _addresses(model: Decoder) -> int:
    return hash(tuple(weight.data_ptr() for weight in model.parameters()))


def _pieces(keys: int) -> int:
    """Pieces that hold so many keys: a power of two, so that few graphs serve all lengths."""
    from cairn.ops.triton.attention import PIECE

    return 1 << max(0, (-(-keys // PIECE) - 1).bit_length())
