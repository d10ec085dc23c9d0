"""What a sketch is, in numpy: the oracle of minhash.c, and what serves where nothing is compiled.

Text here is bytes as `prepared` makes them. All arithmetic is that of unsigned integers that wrap,
so the compiled kernel gives the same bits.
"""

import re
from functools import lru_cache

import numpy as np
import numpy.typing as npt

PERMUTATIONS, BANDS, ROWS, NGRAM = 256, 25, 10, 5
SEED = 42
CHUNK = 1_024  # shingles whose permuted values exist at a time: fits a core's cache

LETTER, WORD = 0x9E3779B97F4A7C15, 0xD1342543DE82EF95
_INVERSE = pow(LETTER, -1, 2**64)
_NO_WORD = re.compile(r"[^\w\x00-\x7f]+")

Bits64 = npt.NDArray[np.uint64]
Bits32 = npt.NDArray[np.uint32]


def prepared(text: str) -> bytes:
    """UTF-8 in which bytes above 127 are letters of words, and `A` to `Z` are not yet lowered.

    Words are Python's `\\w+` of the lower-cased text. Only text beyond ASCII needs Python's tables:
    it is lowered, and what is no letter beyond ASCII becomes a blank.
    """
    if text.isascii():
        return text.encode()
    return _NO_WORD.sub(" ", text.lower()).encode()


def _letters() -> npt.NDArray[np.uint8]:
    letters = np.zeros(256, np.uint8)
    for byte in range(256):
        letter = bytes([byte]).lower()
        if byte > 127 or letter.isalnum() or letter == b"_":
            letters[byte] = letter[0]
    return letters


def mix(x: Bits64) -> Bits64:
    """A bijection of 64 bits whose outputs look random (the finaliser of SplitMix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _powers(base: int, count: int) -> Bits64:
    factors = np.full(count, base, np.uint64)
    factors[:1] = 1
    return np.cumprod(factors, dtype=np.uint64)


def word_hashes(text: bytes) -> Bits64:
    """uint64 [words]: of each run of letters, the polynomial in LETTER of its bytes, mixed."""
    letters = _letters()[np.frombuffer(text, np.uint8)]
    edges = np.diff((letters != 0).astype(np.int8), prepend=np.int8(0), append=np.int8(0))
    starts, stops = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    # LETTER is odd and has an inverse, so sums over a word are differences of sums over the text.
    sums = np.zeros(len(letters) + 1, np.uint64)
    np.cumsum(letters * _powers(_INVERSE, len(letters)), out=sums[1:])
    return mix((sums[stops] - sums[starts]) * _powers(LETTER, len(letters) + 1)[stops - 1])


def shingles(text: bytes) -> Bits64:
    """uint64 [words - 4]: a hash of each word 5-gram, repeats included; none for under 5 words."""
    words = word_hashes(text)
    count = max(len(words) - NGRAM + 1, 0)
    total = np.zeros(count, np.uint64)
    for place in range(NGRAM):
        total = total * np.uint64(WORD) + words[place : place + count]
    return mix(total)


@lru_cache(maxsize=1)
def family(seed: int = SEED) -> Bits32:
    """uint32 [3, PERMUTATIONS]: two odd factors and an offset for each permutation."""
    counter = np.arange(1, 3 * PERMUTATIONS + 1, dtype=np.uint64) * np.uint64(LETTER)
    drawn = (mix(counter + mix(np.array([seed], np.uint64))) >> np.uint64(32)).astype(np.uint32)
    drawn = drawn.reshape(3, PERMUTATIONS)
    drawn[:2] |= np.uint32(1)
    drawn.flags.writeable = False
    return drawn


def signature(grams: Bits64, seed: int = SEED) -> Bits32:
    """Minima uint32 [PERMUTATIONS] over shingle hashes (at least one), repeats or not.

    A permuted value is low * a + high * b + c mod 2^32 of the halves of a hash: all its 64 bits
    count, in lanes of 32 bits that every machine can multiply. Only high bits decide a minimum, and
    those are the strong ones of a product.
    """
    first, second, offset = family(seed)[:, :, None]
    least = np.full(PERMUTATIONS, np.iinfo(np.uint32).max, np.uint32)
    for start in range(0, len(grams), CHUNK):
        chunk = grams[start : start + CHUNK]
        permuted = chunk.astype(np.uint32) * first
        permuted += (chunk >> np.uint64(32)).astype(np.uint32) * second
        permuted += offset
        np.minimum(least, permuted.min(axis=1), out=least)
    return least


def keys_of(least: Bits32) -> npt.NDArray[np.int64]:
    """int64 [BANDS]: a key of each band's rows."""
    rows = least[: BANDS * ROWS].reshape(BANDS, ROWS).astype(np.uint64)
    keys = np.arange(BANDS, dtype=np.uint64)
    for row in rows.T:
        keys = mix(keys ^ row) + np.uint64(WORD)
    return keys.view(np.int64)


def components(pairs: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """The least member of each item's component, int64 [count]; pairs int64 [E, 2] of items.

    Every root goes under the least root that a pair joins it to, and everyone learns its root by
    doubling; each round joins every component that is not whole, so rounds are few.
    """
    parent = np.arange(count, dtype=np.int64)
    one, other = pairs[:, 0], pairs[:, 1]
    while len(one):
        low, high = np.minimum(one, other), np.maximum(one, other)
        np.minimum.at(parent, high, low)
        while not np.array_equal(parent, above := parent[parent]):
            parent = above
        one, other = parent[one], parent[other]
        apart = one != other
        one, other = one[apart], other[apart]
    return parent
