"""A membership sketch: whether a text is in a corpus, published in place of the corpus.

A Bloom filter over runs of 50 characters, one after another without overlap, as Data Portraits
(arXiv 2303.03919) has it. A text is asked at every place; hits that follow each other at the
corpus's stride make a match. What the sketch denies is not there; what it affirms may be false, for
one run at the error rate, for two in a row at its square. At the default rate it takes 12 bits for
50 characters: 3% of the corpus.

The file is a line of JSON behind a line with its kind, then the bits: loading it runs nothing.
"""

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cairn.base import Recipe, Ref, UserError, Work, progress, write_json

KIND = b"cairn membership sketch 1\n"
FILE = "sketch.bin"
MOST_HEADER = 4096  # bytes
MOST_HASHES = 64
AT_ONCE = 2**16  # runs hashed at once
TOGETHER = 2**20  # characters of texts that are added at once
_ONES = np.array([n.bit_count() for n in range(256)], np.uint8)
_BASES = (0x9E3779B97F4A7C15, 0xD1342543DE82EF95)  # of two polynomials over the characters
_ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))  # splitmix64's last step


@dataclass(frozen=True)
class Match:
    """text[start:stop] is, most likely, in the corpus as one piece; `runs` hits say so."""

    start: int
    stop: int
    runs: int


class Sketch:
    """A Bloom filter of `size` bits over runs of `width` characters, `hashes` bits for each run."""

    def __init__(self, bits: np.ndarray, size: int, hashes: int, width: int, runs: int = 0) -> None:
        self.bits, self.size, self.hashes, self.width = bits, size, hashes, width
        self.runs = runs  # that were added, repetitions among them

    @classmethod
    def empty(cls, expected: int, *, width: int = 50, error: float = 0.003) -> "Sketch":
        """Room for `expected` runs, of which it then affirms a share `error` falsely."""
        if width < 8:
            raise UserError("width", width, "is too short to tell texts apart", "50 is usual")
        if not 0 < error < 1:
            raise UserError("error", error, "is no rate", "take a number between 0 and 1")
        size = math.ceil(-max(expected, 1) * math.log(error) / math.log(2) ** 2)
        size = -(-size // 64) * 64
        hashes = min(max(round(size / max(expected, 1) * math.log(2)), 1), MOST_HASHES)
        return cls(np.zeros(size // 8, np.uint8), size, hashes, width)

    @classmethod
    def build(
        cls, texts: Iterable[str], expected: int, *, width: int = 50, error: float = 0.003
    ) -> "Sketch":
        """A sketch of the texts, each by itself; about `expected` runs are in them all."""
        made = cls.empty(expected, width=width, error=error)
        held: list[str] = []
        size = 0
        for text in texts:
            held.append(text)
            size += len(text) + 1
            if size >= TOGETHER:
                made.add(*held)
                held, size = [], 0
        made.add(*held)
        return made

    def add(self, *texts: str) -> None:
        """Add the runs at 0, width, 2 width ... of each; what is left at its end is no run."""
        ends = (len(text) - len(text) % self.width for text in texts)
        found = _characters("".join(t[:end] for t, end in zip(texts, ends, strict=True)))
        count = len(found) // self.width
        tiles = found.reshape(count, self.width)
        for start in range(0, count, AT_ONCE):
            one, two = _hashes(list(tiles[start : start + AT_ONCE].T))
            for number in range(self.hashes):
                places = self._places(one, two, number)
                np.bitwise_or.at(self.bits, places >> np.uint64(3), _bit(places))
        self.runs += count

    def hits(self, text: str) -> np.ndarray:
        """Whether the run that begins at each character is affirmed, bool [n - width + 1]."""
        found = _characters(text)
        count = max(len(found) - self.width + 1, 0)
        hits = np.zeros(count, bool)
        for start in range(0, count, AT_ONCE):
            size = min(AT_ONCE, count - start)
            one, two = _hashes([found[start + k : start + k + size] for k in range(self.width)])
            left = np.arange(size)
            for number in range(self.hashes):  # of what the bits before did not deny
                places = self._places(one[left], two[left], number)
                left = left[(self.bits[places >> np.uint64(3)] & _bit(places)) != 0]
            hits[start + left] = True
        return hits

    def longest_match(self, text: str, minimum: int = 2) -> Match | None:
        """The longest chain of hits, `width` apart; None where none has `minimum` of them.

        A piece of the corpus of (minimum + 1) * width - 1 characters is always found; up to
        width - 1 characters at both ends of a match are not told.
        """
        chains = self._chains(text)
        best = int(chains.argmax()) if len(chains) else 0
        if not len(chains) or chains[best] < max(minimum, 1):
            return None
        return Match(best, best + int(chains[best]) * self.width, int(chains[best]))

    def share(self, text: str, minimum: int = 2) -> float:
        """Share of the text's characters, 0 to 1, under chains of at least `minimum` hits."""
        chains = self._chains(text)
        edges = np.zeros(len(text) + 1, np.int64)
        for start in np.flatnonzero(chains >= max(minimum, 1)).tolist():
            edges[start] += 1
            edges[start + chains[start] * self.width] -= 1
        return float((np.cumsum(edges[:-1]) > 0).mean()) if text else 0.0

    def error_rate(self) -> float:
        """Share of other runs that are affirmed, from the bits that are set."""
        filled = sum(
            int(_ONES[self.bits[start : start + 2**24]].sum(dtype=np.int64))
            for start in range(0, len(self.bits), 2**24)
        )
        return (filled / self.size) ** self.hashes

    def save(self, path: Path) -> None:
        """Write the file; the same texts give the same bytes."""
        facts = {
            "bits": self.size,
            "hashes": self.hashes,
            "width": self.width,
            "runs": self.runs,
        }
        with path.open("wb") as file:
            file.write(KIND + json.dumps(facts).encode("ascii") + b"\n")
            file.write(self.bits.tobytes() if isinstance(self.bits, np.memmap) else self.bits.data)

    @classmethod
    def load(cls, path: Path | str) -> "Sketch":
        """Map a file that `save` wrote; UserError where it is none, or is cut."""
        path = Path(path)
        try:
            with path.open("rb") as file:
                kind, header = file.readline(len(KIND)), file.readline(MOST_HEADER)
                begin, end = file.tell(), path.stat().st_size
            facts = json.loads(header)
            size, hashes, width, runs = (facts[k] for k in ("bits", "hashes", "width", "runs"))
            whole = kind == KIND and all(type(n) is int for n in (size, hashes, width, runs))
            whole = whole and 0 < size == 8 * (end - begin) and 0 < hashes <= MOST_HASHES
            whole = whole and width > 0 <= runs
        except (OSError, ValueError, KeyError, TypeError) as error:
            problem = f"is no sketch ({error})"
            raise UserError("sketch", str(path), problem, f"name a {FILE}") from None
        if not whole:
            raise UserError("sketch", str(path), "is no sketch, or is cut", "fetch it anew")
        return cls(np.memmap(path, np.uint8, "r", begin), size, hashes, width, runs)

    def _chains(self, text: str) -> np.ndarray:
        """Hits in a row from each place on, `width` apart, int64."""
        hits = self.hits(text)
        blocks = -(-len(hits) // self.width)
        chains = np.zeros((blocks + 1, self.width), np.int64)
        rows = np.zeros(blocks * self.width, bool)
        rows[: len(hits)] = hits
        for block in range(blocks - 1, -1, -1):
            row = rows[block * self.width : (block + 1) * self.width]
            chains[block] = np.where(row, chains[block + 1] + 1, 0)
        return chains.reshape(-1)[: len(hits)]

    def _places(self, one: np.ndarray, two: np.ndarray, number: int) -> np.ndarray:
        """One of the `hashes` bits of each run, uint64 [runs]: double hashing."""
        return (one + np.uint64(number) * (two | np.uint64(1))) % np.uint64(self.size)


def _characters(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint64)


def _hashes(columns: list[np.ndarray]) -> list[np.ndarray]:
    """Two hashes of each run, uint64 [runs]; columns[k]: the k-th character of each."""
    found = []
    for base in _BASES:
        values = np.zeros(len(columns[0]), np.uint64)
        for column in columns:
            values *= np.uint64(base)
            values += column
        for shift, factor in _ROUNDS:
            values ^= values >> np.uint64(shift)
            values *= np.uint64(factor)
        found.append(values ^ (values >> np.uint64(31)))
    return found


def _bit(places: np.ndarray) -> np.ndarray:
    return np.uint8(1) << (places & np.uint64(7)).astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class SketchCorpus(Recipe):
    """Make a membership sketch of a corpus, to be published in its place."""

    corpus: Ref
    """The corpus, as it is after redaction."""
    width: int = 50
    """Characters in one run."""
    error: float = 0.003
    """Share of runs that are affirmed though they are not there; smaller is larger."""

    def run(self, work: Work) -> dict[str, Any]:
        """Write sketch.bin and sketch.json."""
        return sketch_corpus(work, work.input(self.corpus), self.width, self.error)

    def headline(self, facts: dict[str, Any]) -> str:
        """Size beside the corpus's."""
        share = facts["bytes"] / max(facts["corpus_bytes"], 1)
        return (
            f"{facts['bytes'] / 1e6:,.2f} MB, {share:.1%} of {facts['corpus_bytes'] / 1e6:,.1f} MB"
        )


def sketch_corpus(work: Work, corpus: Path, width: int, error: float) -> dict[str, Any]:
    """Fill `work.out`; returns facts. The corpus is read twice: to count, then to add."""
    Sketch.empty(0, width=width, error=error)  # says what is wrong before anything is read
    runs = size = 0
    for text in _texts(corpus):
        runs += len(text) // width
        size += len(text.encode("utf-8"))
    with progress("sketching", total=size, unit="bytes") as bar:
        sketch = Sketch.build(_told(_texts(corpus), bar.advance), runs, width=width, error=error)
    with work.part(FILE) as path:
        sketch.save(path)
    facts = {
        "runs": sketch.runs,
        "width": width,
        "hashes": sketch.hashes,
        "bytes": (work.out / FILE).stat().st_size,
        "corpus_bytes": size,
        "error": float(f"{sketch.error_rate():.3g}"),
    }
    write_json(work.out / "sketch.json", facts)
    return facts


def _told(texts: Iterable[str], advance: Callable[[int], None]) -> Iterable[str]:
    for text in texts:
        yield text
        advance(len(text.encode("utf-8")))


def _texts(corpus: Path) -> Iterable[str]:
    from cairn.curate.corpus import read_files
    from cairn.curate.pieces import plain_text

    for batch in read_files(corpus, columns=["kind", "content"]):
        for row in batch.to_pylist():
            yield plain_text(row.get("kind", ""), row["content"])
