"""Which implementation serves every layer of a model: asked of the calls themselves."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cairn.base.tables import console, table
from cairn.model.cache import Cache
from cairn.model.config import MIXERS
from cairn.model.spans import Spans
from cairn.ops import paths
from cairn.ops.native.library import native

if TYPE_CHECKING:
    from cairn.model.decoder import Decoder

AROUND = "around the layers"


@dataclass(frozen=True)
class Served:
    """One operation of one layer."""

    layer: int | None
    """Its number; None outside of layers."""
    mixer: str
    """What the layer is."""
    calls: tuple[str, ...]
    """Of training, prefill and decode, those that are served like this."""
    op: str
    path: str
    why: str
    """Why no faster path serves it; empty where the fastest does."""


@torch.no_grad()
def served(model: "Decoder", tokens: int = 64, states: torch.dtype | None = None) -> list[Served]:
    """How the model's device serves training, a prefill of `tokens` and a decoded token.

    Recurrent states are in `states` (fp32 at least). It runs all three on tokens 0, but no
    training of weights in 8 bits, and tells where slow paths would be taken instead of raising.
    """
    tokens = min(tokens, model.config.max_positions - 1)
    ids = torch.zeros(tokens, dtype=torch.int64, device=model.device)
    cache = Cache(model.config, 1, tokens + 1, model.device, model.dtype, states=states)

    def train() -> Tensor:
        with torch.enable_grad():
            return model.hidden(ids, Spans.of([tokens]))

    calls: dict[str, Callable[[], Tensor]] = {
        "training": train,
        "prefill": lambda: model.hidden(ids, Spans.of([tokens]), cache),
        "decode": lambda: model.hidden(ids[:1], Spans.of([1]), cache),
    }
    if any(weight.itemsize == 1 for weight in model.parameters()):
        del calls["training"]
    found: dict[tuple[int | None, paths.Choice], list[str]] = {}
    for name, call in calls.items():
        with paths.slow_paths(), paths.recorded() as taken, _marked(model, taken) as starts:
            call()
        for at, choice in enumerate(taken):
            layer = next((i for i, (a, b) in starts.items() if a <= at < b), None)
            names = found.setdefault((layer, choice), [])
            if name not in names:
                names.append(name)
    rows = [_row(model, layer, choice, names) for (layer, choice), names in found.items()]
    last = len(model.config.pattern)
    return sorted(rows, key=lambda row: last if row.layer is None else row.layer)


def print_served(rows: list[Served]) -> None:
    """The same as a table on standard output."""
    shown = table(
        "layer", "mixer", "calls", "operation", "path", "why no faster one", right=("layer",)
    )
    for row in rows:
        layer = "" if row.layer is None else str(row.layer)
        shown.add_row(layer, row.mixer, ", ".join(row.calls), row.op, row.path, row.why)
    if any(row.path == "native" for row in rows):
        shown.caption = f"native: {native().words}"
    console().print(shown)


def _row(model: "Decoder", layer: int | None, choice: paths.Choice, calls: list[str]) -> Served:
    mixer = AROUND if layer is None else MIXERS[model.config.pattern[layer]]
    return Served(layer, mixer, tuple(calls), choice.op, choice.path, choice.why)


@contextmanager
def _marked(model: "Decoder", taken: list[paths.Choice]) -> Iterator[dict[int, tuple[int, int]]]:
    """For every layer, where its choices begin and end in `taken`."""
    starts: dict[int, tuple[int, int]] = {}
    handles = []

    def marks(i: int) -> tuple[Callable[..., None], Callable[..., None]]:
        def begin(block: nn.Module, inputs: object) -> None:
            starts[i] = (len(taken), len(taken))

        def end(block: nn.Module, inputs: object, output: object) -> None:
            starts[i] = (starts[i][0], len(taken))

        return begin, end

    for i, block in enumerate(model.backbone.layers):
        begin, end = marks(i)
        handles += [block.register_forward_pre_hook(begin), block.register_forward_hook(end)]
    try:
        yield starts
    finally:
        for handle in handles:
            handle.remove()
