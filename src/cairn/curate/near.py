"""Near duplicates: MinHash of word 5-grams, bands, connected components (StarCoder2, 2.1).

256 permutations in 25 bands of 10 rows put documents of Jaccard similarity 0.7 into one bucket
with even odds. A collision counts as a duplicate; nothing is verified.
"""

import hashlib
import re
from functools import lru_cache

import numpy as np

PERMUTATIONS, BANDS, ROWS, NGRAM = 256, 25, 10, 5
SEED = 42
CHUNK = 2_048  # shingles whose permuted hashes exist at a time: fits a core's cache
_WORD = re.compile(r"\w+")


@lru_cache(maxsize=1 << 18)
def _word_hash(word: str) -> int:
    """Stable over processes, unlike hash()."""
    digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


@lru_cache(maxsize=1)
def _permutations(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Odd factors and offsets uint64 [PERMUTATIONS]."""
    generator = np.random.default_rng(seed)
    limit = np.iinfo(np.uint64).max
    factors = generator.integers(0, limit, PERMUTATIONS, np.uint64, endpoint=True) | np.uint64(1)
    return factors, generator.integers(0, limit, PERMUTATIONS, np.uint64, endpoint=True)


def shingles(text: str) -> np.ndarray:
    """Hashes uint64 of the distinct word 5-grams, lower case; none for under five words."""
    words = _WORD.findall(text.lower())
    if len(words) < NGRAM:
        return np.empty(0, np.uint64)
    hashed = np.fromiter(map(_word_hash, words), np.uint64, len(words))
    total = np.zeros(len(words) - NGRAM + 1, np.uint64)
    for place in range(NGRAM):
        stop = len(words) - NGRAM + 1 + place
        total = total * np.uint64(0x9E3779B97F4A7C15) + hashed[place:stop]
    return np.unique(_mix(total))


def _mix(x: np.ndarray) -> np.ndarray:
    """A bijection of 64 bits whose outputs look random (the finaliser of SplitMix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def signature(grams: np.ndarray, seed: int = SEED) -> np.ndarray:
    """Minima uint32 [PERMUTATIONS] over shingles (at least one).

    The upper half of a * x + b mod 2^64 on well-mixed x: the lower bits of a product are the weak
    ones, and they are not used.
    """
    factors, offsets = _permutations(seed)
    least = np.full(PERMUTATIONS, np.iinfo(np.uint64).max, np.uint64)
    for start in range(0, len(grams), CHUNK):
        permuted = grams[start : start + CHUNK, None] * factors
        permuted += offsets
        np.minimum(least, permuted.min(axis=0), out=least)
    return (least >> np.uint64(32)).astype(np.uint32)


def band_keys(text: str) -> list[int] | None:
    """A 64-bit key for each band, as signed integers; None for a text of under five words."""
    grams = shingles(text)
    if not len(grams):
        return None
    rows = signature(grams)[: BANDS * ROWS].reshape(BANDS, ROWS)
    return [
        int.from_bytes(
            hashlib.blake2b(row.tobytes(), digest_size=8).digest(), "little", signed=True
        )
        for row in rows
    ]


def components(pairs: np.ndarray, count: int) -> np.ndarray:
    """The smallest member of each item's component, int64 [count]; pairs int64 [E, 2] of items."""
    parent = np.arange(count, dtype=np.int64)

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = int(parent[item])
        return item

    for one, other in pairs.tolist():
        first, second = root(one), root(other)
        if first != second:
            parent[max(first, second)] = min(first, second)
    return np.fromiter((root(item) for item in range(count)), np.int64, count)
