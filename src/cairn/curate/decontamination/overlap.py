"""How much of an item a text holds: near copies that an exact search misses.

Texts are compared by their letters and digits alone, so that neither layout nor the marks of a
comment count. A run of 40 of them (about eight words) that also stands in the item covers that part
of it; an item of which more than a share is covered is held. Runs that several problems of a
benchmark have in common are its wording, and not counted; neither are those that stand twice in one
item, `a.a.a.a` say, which is in many a file.
"""

from collections.abc import Sequence

import numpy as np

from cairn.curate.decontamination.exact import WORD, Table, keys, keys_at_every_byte, words_of

COUNT = 5  # words of eight letters in a run
RUN = WORD * COUNT
COMMON = 3  # problems of one file that share a run make it the benchmark's wording
_GAP = b"\0" * RUN


class OverlapSearch:
    """Which of many texts a text holds most of."""

    def __init__(
        self,
        texts: Sequence[bytes],
        problems: Sequence[tuple[int, int]],
        share: float,
        least: int,
    ) -> None:
        """`problems`: (number of the file, number of the problem) of each text.

        Texts of which fewer than `least` bytes are left to compare are passed over.
        """
        self._share = share
        lengths = np.array([len(text) for text in texts], np.int64)
        self._begins = np.cumsum(lengths + RUN) - lengths - RUN
        # (at most 2 GB of items, so that places are int32)
        every = keys_at_every_byte(_GAP.join([*texts, b""]), COUNT)
        windows = np.maximum(lengths - RUN + 1, 0)
        owners = np.repeat(np.arange(len(texts), dtype=np.int32), windows)
        ends = np.cumsum(windows)
        shift = (self._begins - ends + windows).astype(np.int32)
        places = np.arange(len(owners), dtype=np.int32) + np.repeat(shift, windows)
        found = every[places]
        pairs = np.array(problems, np.int32).reshape(-1, 2)
        rare = ~np.isin(found, _wording(found, owners, pairs)) & ~_repeated(found, owners)
        self._owner_of = np.full(int((lengths + RUN).sum()) + 1, -1, np.int32)
        self._owner_of[places] = owners
        whole = self._covered(np.sort(places[rare]), len(texts))
        rare &= (whole >= least)[owners]
        self._whole = whole
        order = np.argsort(found[rare], kind="stable")
        values, starts = np.unique(found[rare][order], return_index=True)
        self._places = places[rare][order]
        self._starts = np.append(starts, len(order))
        self._table = Table(values)

    def find(self, text: bytes) -> tuple[int, float] | None:
        """Number and share (0 to 1) of the item that is held most, where any is held enough."""
        _, hits = self._table.find(keys(words_of(text), COUNT))
        if not len(hits):
            return None
        hits = np.unique(hits)
        counts = self._starts[hits + 1] - self._starts[hits]
        ends = np.cumsum(counts)
        inside = np.arange(ends[-1]) - np.repeat(ends - counts, counts)
        places = np.sort(self._places[np.repeat(self._starts[hits], counts) + inside])
        shares = self._covered(places, len(self._whole)) / np.maximum(self._whole, 1)
        best = int(shares.argmax())
        return (best, float(shares[best])) if shares[best] >= self._share else None

    def _covered(self, places: np.ndarray, count: int) -> np.ndarray:
        """Bytes of each text under runs that begin at `places` (sorted), int64 [count]."""
        owners = self._owner_of[places]
        covered = np.minimum(np.diff(places, append=places[-1:] + RUN), RUN)
        return np.bincount(owners, covered, count).astype(np.int64)


def _repeated(found: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """Which runs stand in the same text once more, bool [runs]."""
    order = np.lexsort((owners, found))
    same = (np.diff(found[order]) == 0) & (np.diff(owners[order]) == 0)
    again = np.zeros(len(found), bool)
    again[order[1:][same]] = True
    again[order[:-1][same]] = True
    return again


def _wording(found: np.ndarray, owners: np.ndarray, problems: np.ndarray) -> np.ndarray:
    """Hashes that COMMON problems of one file have, and more."""
    files, numbers = problems[owners, 0], problems[owners, 1]
    order = np.lexsort((numbers, files, found))
    found, files, numbers = found[order], files[order], numbers[order]
    same = (found[1:] == found[:-1]) & (files[1:] == files[:-1])
    fresh = np.append(True, ~(same & (numbers[1:] == numbers[:-1])))[: len(found)]
    group = np.cumsum(np.append(True, ~same)[: len(found)]) - 1
    often = np.bincount(group, fresh) >= COMMON if len(group) else np.zeros(0, bool)
    return np.unique(found[often[group]])
