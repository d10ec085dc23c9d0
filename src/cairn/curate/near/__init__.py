"""Near duplicates: MinHash of word 5-grams, bands, connected components (StarCoder2, 2.1).

256 permutations in 25 bands of 10 rows put documents of Jaccard similarity 0.7 into one bucket
with even odds. Unlike the code that was published with the report, members of a bucket are linked
only if their signatures say that they are alike.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cairn.curate.near import definition, kernel
from cairn.curate.near.definition import BANDS, NGRAM, PERMUTATIONS, ROWS, SEED
from cairn.curate.near.kernel import is_compiled, kernel_name
from cairn.curate.near.verification import links, similarity

__all__ = [
    "BANDS",
    "NGRAM",
    "PERMUTATIONS",
    "ROWS",
    "SEED",
    "Sketch",
    "band_keys",
    "components",
    "is_compiled",
    "kernel_name",
    "links",
    "shingles",
    "signature",
    "similarity",
    "sketch",
]


@dataclass(frozen=True)
class Sketch:
    """Of one text: minima uint32 [PERMUTATIONS] and a key for each band, int64 [BANDS]."""

    least: npt.NDArray[np.uint32]
    keys: npt.NDArray[np.int64]

    def compact(self) -> bytes:
        """The lowest byte of each minimum: what `similarity` needs, in 256 bytes."""
        return self.least.astype(np.uint8).tobytes()


def sketch(text: str, seed: int = SEED) -> Sketch | None:
    """The sketch of a text; None for one of under five words. Time linear in its length."""
    library = kernel.kernel().library
    if library is not None:
        found = kernel.sketch(library, text, seed)
        return None if found is None else Sketch(*found)
    grams = definition.shingles(definition.prepared(text))
    if not len(grams):
        return None
    least = definition.signature(grams, seed)
    return Sketch(least, definition.keys_of(least))


def band_keys(text: str) -> list[int] | None:
    """A 64-bit key for each band, as signed integers; None for a text of under five words."""
    found = sketch(text)
    return None if found is None else found.keys.tolist()


def shingles(text: str) -> npt.NDArray[np.uint64]:
    """Hashes uint64 of the distinct word 5-grams, lower case; none for under five words."""
    return np.unique(definition.shingles(definition.prepared(text)))


def signature(grams: npt.NDArray[np.uint64], seed: int = SEED) -> npt.NDArray[np.uint32]:
    """Minima uint32 [PERMUTATIONS] over shingles (at least one)."""
    return definition.signature(grams, seed)


def components(pairs: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """The least member of each item's component, int64 [count]; pairs int64 [E, 2] of items.

    The same whatever the order of the pairs. Raises IndexError for a pair that names no item.
    """
    pairs = np.ascontiguousarray(pairs, np.int64).reshape(-1, 2)
    library = kernel.kernel().library
    if library is None:
        if len(pairs) and not (pairs.min() >= 0 and pairs.max() < count):
            raise IndexError(f"a pair names none of {count:,} items")
        return definition.components(pairs, count)
    parent = np.arange(count, dtype=np.int64)
    wrong = library.cairn_components(pairs.ctypes.data, len(pairs), parent.ctypes.data, count)
    if wrong >= 0:
        raise IndexError(f"pair {pairs[wrong].tolist()} names none of {count:,} items")
    return parent
