"""Where an epoch's run of tokens is cut into windows: anywhere, or between contexts.

Cutting anywhere wastes nothing and splits most long documents. Long-context training wants the
opposite: Nemotron Nano 2 (arXiv 2508.14444, section 2) trains at four times the served length so
that fewer documents are split. Packing whole contexts does that at any length.
"""

from bisect import bisect_left, insort

import numpy as np

from cairn.tokens.contexts import Layout


def cut_anywhere(layout: Layout, length: int) -> np.ndarray:
    """Edges int64 [windows + 1] of windows of `length` tokens; the last may be shorter."""
    end = int(layout.starts[-1])
    return np.append(np.arange(0, end, length), end).astype(np.int64)


def pack_whole(layout: Layout, length: int) -> tuple[Layout, np.ndarray]:
    """The layout with its contexts in another order, and edges int64 [windows + 1] between them.

    No context that fits into a window is cut. A longer one fills windows of its own from its
    beginning, and what is left at its end shares a window with others. Best fit, longest first.
    """
    opens = np.flatnonzero(layout.opens)
    sizes = np.diff(np.append(layout.starts[:-1][opens], layout.starts[-1]))
    order: list[int] = []
    windows: list[int] = []  # tokens of each
    for contexts in best_fit(sizes % length, sizes // length > 0, length):
        order += contexts
        windows += [length] * int(sizes[contexts[0]] // length)
        windows.append(int(sizes[contexts[0]] % length + sizes[contexts[1:]].sum()))
    edges = np.concatenate([[0], np.cumsum([size for size in windows if size])])
    return _reordered(layout, np.asarray(order, np.int64)), edges.astype(np.int64)


def best_fit(sizes: np.ndarray, leads: np.ndarray, length: int) -> list[list[int]]:
    """Items in bins of `length`: each into the fullest bin with room, the longest first.

    An item that `leads` opens a bin of its own, at whose beginning it stays.
    """
    bins = [[int(item)] for item in np.flatnonzero(leads)]
    rooms = sorted((length - int(sizes[items[0]]), number) for number, items in enumerate(bins))
    others = np.flatnonzero(~leads)
    for item in others[np.argsort(-sizes[others], kind="stable")].tolist():
        size = int(sizes[item])
        at = bisect_left(rooms, (size, -1))
        if at == len(rooms):
            bins.append([item])
            insort(rooms, (length - size, len(bins) - 1))
        else:
            room, number = rooms.pop(at)
            bins[number].append(item)
            insort(rooms, (room - size, number))
    return bins


def _reordered(layout: Layout, order: np.ndarray) -> Layout:
    """The layout with context order[0] first, then order[1], and so on."""
    opens, count = np.flatnonzero(layout.opens), len(layout.documents)
    sizes = np.diff(np.append(opens, count))[order]  # in documents
    ends = np.cumsum(sizes)
    places = np.repeat(opens[order] - (ends - sizes), sizes) + np.arange(count)
    stretches = np.diff(layout.starts)[places]
    return Layout(
        documents=layout.documents[places],
        starts=np.concatenate([[0], np.cumsum(stretches)]).astype(np.int64),
        contexts=np.repeat(np.arange(len(order)), sizes),
        opens=layout.opens[places],
        closes=layout.closes[places],
        bare=layout.bare[places],
        metadata=layout.metadata[order],
        infilling=layout.infilling[order],
    )
