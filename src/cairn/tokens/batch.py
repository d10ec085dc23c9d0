"""What a training step eats: flat tokens, what follows each, and where they came from."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Batch:
    """T tokens in S spans; a span is one text, and nothing is predicted across its border.

    tokens  int64 [T]
    targets int64 [T]: the next token of the same span; 0 at a span's last token
    weights float32 [T]: how much each prediction counts; 0 at a span's last token
    bounds  int32 [S + 1]: span s is tokens[bounds[s]:bounds[s + 1]]; from 0 to T, increasing
    rows    (ledger_row, start, stop): tokens[start:stop] were made from that row's file
    sources: of a blend, the component of each window of T / len(sources) tokens; empty elsewhere
    names: of the components
    """

    tokens: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    bounds: np.ndarray
    rows: list[tuple[int, int, int]]
    sources: tuple[int, ...] = ()
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Window:
    """One sequence: tokens (any integer type) and spans; after the first `used` is padding."""

    tokens: np.ndarray
    bounds: list[int]
    rows: list[tuple[int, int, int]]
    used: int
    learned: np.ndarray | None = None  # float32 [T]: weight of each token as a target; None: all 1


def assemble(windows: Sequence[Window]) -> Batch:
    """Windows of equal length, end to end, with targets shifted inside each span."""
    length = len(windows[0].tokens)
    tokens = np.concatenate([window.tokens for window in windows]).astype(np.int64)
    bounds, rows = [0], []
    weights = np.zeros(len(tokens), np.float32)
    for place, window in enumerate(windows):
        offset = place * length
        bounds.extend(offset + bound for bound in window.bounds[1:])
        rows.extend((row, offset + start, offset + stop) for row, start, stop in window.rows)
        if window.used:
            learned = 1.0 if window.learned is None else window.learned[1 : window.used]
            weights[offset : offset + window.used - 1] = learned
    edges = np.asarray(bounds, np.int32)
    targets = np.zeros_like(tokens)
    targets[:-1] = tokens[1:]
    last = edges[1:] - 1
    targets[last] = 0
    weights[last] = 0.0
    return Batch(tokens, targets, weights, edges, rows)


def pack(
    texts: Sequence[tuple[Sequence[int], Sequence[float], int | None]], length: int, padding: int
) -> Window:
    """One window of whole texts: (ids, weight of each id as a target, ledger row or None).

    Weights belong to the ids themselves, as `chat.conversation` gives them; `assemble` moves them
    to the position that predicts. What is over `length` tokens is cut off; the rest is padding.
    """
    tokens = np.full(length, padding, np.int64)
    learned = np.zeros(length, np.float32)
    bounds, rows, used = [0], [], 0
    for ids, weights, row in texts:
        if len(ids) != len(weights):
            raise ValueError(f"{len(ids)} ids with {len(weights)} weights")
        stop = min(used + len(ids), length)
        if stop == used:
            continue
        tokens[used:stop] = ids[: stop - used]
        learned[used:stop] = weights[: stop - used]
        if row is not None:
            rows.append((row, used, stop))
        bounds.append(stop)
        used = stop
    if used < length:
        bounds.append(length)
    return Window(tokens, bounds, rows, used, learned)
