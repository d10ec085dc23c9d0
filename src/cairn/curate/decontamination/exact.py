"""Thousands of byte strings searched at once: exactly, and far faster than one after another.

A string of 8 c + 7 bytes, wherever it lies, covers c whole 8-byte words that begin at a multiple of
eight. So only every eighth place of a text is hashed, and the table holds eight places of each
string; what the hashes find is compared byte for byte.
"""

from collections.abc import Sequence

import numpy as np

WORD = 8
CLASSES = (4, 2, 1)  # words that are hashed of a string, by what its length allows
SHORTEST = WORD + 7  # bytes; strings below this are searched one by one
_FACTORS = np.array(
    [
        0x9E3779B97F4A7C15,
        0xC2B2AE3D27D4EB4F,
        0x165667B19E3779F9,
        0xD6E8FEB86659FD93,
        0xFF51AFD7ED558CCD,
    ],
    np.uint64,
)
_MIX = np.uint64(0x94D049BB133111EB)
_HALF = np.uint64(32)


def keys(words: np.ndarray, count: int) -> np.ndarray:
    """A hash of every run of `count` words (at most 5): uint64 [N] to [N - count + 1]."""
    size = max(len(words) - count + 1, 0)
    total = words[:size] * _FACTORS[0]
    for place in range(1, count if size else 0):
        total += words[place : place + size] * _FACTORS[place]
    total ^= total >> _HALF
    total *= _MIX
    return total


def words_of(text: bytes, start: int = 0) -> np.ndarray:
    """The whole 8-byte words from byte `start` on, uint64."""
    return np.frombuffer(text, "<u8", max(len(text) - start, 0) // WORD, min(start, len(text)))


def keys_at_every_byte(text: bytes, count: int) -> np.ndarray:
    """`keys` of the words that begin at each byte, uint64 [max(0, bytes - 8 count + 1)]."""
    found = np.empty(max(len(text) - WORD * count + 1, 0), np.uint64)
    for start in range(min(WORD, len(found))):
        found[start::WORD] = keys(words_of(text, start), count)
    return found


class Table:
    """A set of hashes: sorted, with a bitmap before it that most of what is asked never passes."""

    def __init__(self, values: np.ndarray) -> None:
        """`values` uint64, sorted, without repetition."""
        self.values = values
        bits = min(max(len(values).bit_length() + 4, 16), 27)
        self._shift = np.uint64(64 - bits)
        self._bitmap = np.zeros(2**bits, bool)
        self._bitmap[values >> self._shift] = True

    def find(self, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which of `asked` are in the set, int64 [H], and where in `values`, int64 [H]."""
        maybe = np.flatnonzero(self._bitmap[asked >> self._shift])
        if not len(maybe) or not len(self.values):
            return maybe[:0], maybe[:0]
        places = np.searchsorted(self.values, asked[maybe])
        places[places == len(self.values)] = 0
        hit = self.values[places] == asked[maybe]
        return maybe[hit], places[hit]


class ExactSearch:
    """Which of many byte strings a text holds."""

    def __init__(self, patterns: Sequence[bytes]) -> None:
        self.patterns = list(patterns)
        long = [number for number, one in enumerate(self.patterns) if len(one) >= SHORTEST]
        self._short = [number for number, one in enumerate(self.patterns) if len(one) < SHORTEST]
        self._classes: list[_Class] = []
        for count in CLASSES:
            fitting = [n for n in long if len(self.patterns[n]) >= WORD * count + WORD - 1]
            long = [n for n in long if len(self.patterns[n]) < WORD * count + WORD - 1]
            if fitting:
                self._classes.append(_Class(count, [(n, self.patterns[n]) for n in fitting]))

    def find(self, text: bytes) -> int | None:
        """The first of the patterns, by number, that the text holds; None where it holds none."""
        found = [n for n in self._short if self.patterns[n] in text]
        words = words_of(text)
        for one in self._classes:
            found += one.find(text, words)
        return min(found, default=None)


class _Class:
    """Strings of which `count` words are hashed, at the eight places that fewest of them share."""

    def __init__(self, count: int, patterns: Sequence[tuple[int, bytes]]) -> None:
        self._count = count
        self._patterns = dict(patterns)
        whole = keys_at_every_byte(b"".join(pattern for _, pattern in patterns), count)
        ends = np.cumsum([len(pattern) for _, pattern in patterns]).tolist()
        every = [
            whole[end - len(pattern) : end - WORD * count + 1]
            for end, (_, pattern) in zip(ends, patterns, strict=True)
        ]
        _, places, counts = np.unique(
            np.concatenate(every), return_inverse=True, return_counts=True
        )
        shared = np.split(counts[places], np.cumsum([len(one) for one in every])[:-1])
        held, owners, offsets = [], [], []
        for (number, _), own, often in zip(patterns, every, shared, strict=True):
            worst = np.lib.stride_tricks.sliding_window_view(often, WORD).max(axis=1)
            begin = int(worst.argmin())
            held.append(own[begin : begin + WORD])
            owners += [number] * WORD
            offsets += range(begin, begin + WORD)
        flat = np.concatenate(held)
        order = np.argsort(flat, kind="stable")
        values, self._starts = np.unique(flat[order], return_index=True)
        self._starts = np.append(self._starts, len(flat))
        self._owners = np.array(owners)[order]
        self._offsets = np.array(offsets)[order]
        self._table = Table(values)

    def find(self, text: bytes, words: np.ndarray) -> list[int]:
        hits, places = self._table.find(keys(words, self._count))
        found: set[int] = set()
        for hit, place in zip(hits.tolist(), places.tolist(), strict=True):
            for entry in range(self._starts[place], self._starts[place + 1]):
                number = int(self._owners[entry])
                start = WORD * hit - int(self._offsets[entry])
                if number in found or start < 0:
                    continue
                if text.startswith(self._patterns[number], start):
                    found.add(number)
        return list(found)
