"""The table of licences: the words of every rule of ScanCode, as numbers (`rules.xz`).

A rule is a text, a notice or a short name of one or more licences, and says how far it may be
trusted. Words are numbers; those below `telling` are words that licences use and others do not, and
words that mean the same (license, licence) may have one number. Made by `bench/licence_table.py`
from the data of ScanCode 32.5 (CC-BY-4.0, nexB Inc. and others).
"""

import io
import lzma
import zlib
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer]

UNKNOWN, STOP = -1, -2
(
    TEXT,
    NOTICE,
    REFERENCE,
    TAG,
    INTRO,
    CLUE,
    FALSE_POSITIVE,
    CONTINUOUS,
    PHRASE,
    STARTS_WITH_LICENSE,
    ENDS_WITH_LICENSE,
    APPROXIMATE,
    REFERS_TO_FILE,
    BARE,
    GPL,
) = (1 << place for place in range(15))

SMALL = 15  # words; a shorter rule must stand on few lines
CHUNK = 400_000  # words hashed at a time, which bounds memory
LEVELS = 16  # of doubling: no rule has 2**16 words


class Words(dict[str, int]):
    """Words to numbers. What is known is kept, so the size is bounded by the table's."""

    def __init__(self, hashes: Ints, numbers: Ints, stop: Ints):
        super().__init__()
        self._by_hash = dict(zip(hashes.tolist(), numbers.tolist(), strict=True))
        self._by_hash.update(dict.fromkeys(stop.tolist(), STOP))

    def __missing__(self, word: str) -> int:
        number = self._by_hash.get(zlib.crc32(word.encode("utf-8", "surrogatepass")), UNKNOWN)
        if number != UNKNOWN:
            self[word] = number
        return number


class Hashes:
    """Hashes of runs of words, each from a difference of sums of powers modulo 2**64."""

    BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so it has an inverse
    INVERSE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 1 << 64))

    def __init__(self, words: Ints):
        powers = _powers(self.BASE, len(words))
        self.sums = np.concatenate(
            [np.zeros(1, np.uint64), np.cumsum(_mixed(words) * powers, dtype=np.uint64)]
        )
        self.inverses = _powers(self.INVERSE, len(words) + 1)

    def of(self, start: Ints, length: Ints | int) -> NDArray[np.uint64]:
        """Hashes of the runs of `length` words from `start`."""
        return (self.sums[start + length] - self.sums[start]) * self.inverses[start]


def _powers(base: np.uint64, count: int) -> NDArray[np.uint64]:
    powers = np.full(count, base, np.uint64)
    if count:
        powers[0] = 1
    return np.cumprod(powers, dtype=np.uint64)


def _mixed(words: Ints) -> NDArray[np.uint64]:
    """A 64-bit number for each word (splitmix64)."""
    z = (words.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@dataclass(frozen=True)
class Level:
    """Rules of 2**level to 2**(level+1) - 1 words, by the hash of their first 2**level words."""

    prefixes: NDArray[np.uint64]  # sorted; of all rules that have so many words
    first: Ints  # of each prefix, into `rules`; one more at the end
    rules: Ints
    lengths: Ints
    hashes: NDArray[np.uint64]  # of all words of each of `rules`


@dataclass(frozen=True)
class Table:
    """Rules as columns; `tokens[starts[r]:starts[r] + length[r]]` are the words of rule r."""

    words: Words
    telling: int
    expressions: tuple[str, ...]
    expression: NDArray[np.uint16]
    length: Ints
    relevance: NDArray[np.uint8]
    coverage: NDArray[np.uint8]
    flags: Ints
    starts: Ints
    phrases: dict[int, list[tuple[int, int]]]
    tokens: NDArray[np.uint16]

    def words_of(self, rule: int) -> NDArray[np.uint16]:
        start = int(self.starts[rule])
        return self.tokens[start : start + int(self.length[rule])]

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """For runs of words that are a rule, word for word."""
        whole = np.zeros(len(self.length), np.uint64)
        prefix = np.zeros((LEVELS, len(self.length)), np.uint64)
        for rules, hashes, at in self._chunks():
            whole[rules] = hashes.of(at, self.length[rules])
            for level in range(LEVELS):
                long = self.length[rules] >= 1 << level
                prefix[level, rules[long]] = hashes.of(at[long], 1 << level)
        return tuple(self._level(level, prefix[level], whole) for level in range(LEVELS))

    def _level(self, level: int, prefix: NDArray[np.uint64], whole: NDArray[np.uint64]) -> Level:
        prefixes = np.unique(prefix[self.length >= 1 << level])
        rules = np.nonzero((self.length >= 1 << level) & (self.length < 2 << level))[0]
        rules = rules[np.argsort(prefix[rules], kind="stable")]
        first = np.searchsorted(prefix[rules], prefixes)
        first = np.append(first, len(rules))
        return Level(prefixes, first, rules, self.length[rules], whole[rules])

    def _chunks(self):
        """(rules, hashes of their words, where each begins in these), some rules at a time."""
        ends = self.starts + self.length
        begin = 0
        while begin < len(self.length):
            end = int(np.searchsorted(ends, self.starts[begin] + CHUNK))
            end = max(end, begin + 1)
            low = int(self.starts[begin])
            hashes = Hashes(self.tokens[low : int(ends[end - 1])])
            rules = np.arange(begin, end)
            yield rules, hashes, self.starts[rules] - low
            begin = end


@cache
def table() -> Table:
    """The table of the package, read once in a process."""
    packed = files("cairn.curate.licences").joinpath("rules.xz").read_bytes()
    with np.load(io.BytesIO(lzma.decompress(packed)), allow_pickle=False) as read:
        columns = dict(read)
    length = columns["length"].astype(np.int64)
    phrases: dict[int, list[tuple[int, int]]] = {}
    for rule, start, end in columns["phrases"].T.tolist():
        phrases.setdefault(rule, []).append((start, end))
    return Table(
        words=Words(columns["words"], columns["numbers"], columns["stop"]),
        telling=int(columns["telling"][0]),
        expressions=tuple(columns["expressions"].tobytes().decode().split("\n")),
        expression=columns["expression"],
        length=length,
        relevance=columns["relevance"],
        coverage=columns["coverage"],
        flags=columns["flags"].astype(np.int64),
        starts=np.cumsum(length) - length,
        phrases=phrases,
        tokens=columns["tokens"],
    )
