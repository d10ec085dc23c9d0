"""Where a text was learned from: its longest runs that stand, byte for byte, in training files."""

import heapq
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cairn.base import UserError
from cairn.tokens.indexing import BLOCKS, BORDER, FILES, SUFFIXES, TEXT

CHUNK = 1024  # positions of a query that are searched at once,
HEAD = 32  # by at most so many bytes


@dataclass(frozen=True)
class Occurrence:
    """One place in a training file; lines count from 1, `offset` is in bytes of the file."""

    repo_name: str
    path: str
    swhid: str
    ledger_row: int
    detected_licenses: tuple[str, ...]
    license_type: str
    first_line: int
    last_line: int
    offset: int


@dataclass(frozen=True)
class Match:
    """Bytes [start, end) of a text in UTF-8, and where they stand: `count` places in all."""

    start: int
    end: int
    text: str
    count: int
    occurrences: tuple[Occurrence, ...]

    def plain(self) -> dict[str, Any]:
        """As JSON: `bytes`, `text`, and for each occurrence its file, licence and lines."""
        return {
            "start": self.start,
            "end": self.end,
            "bytes": self.end - self.start,
            "text": self.text,
            "count": self.count,
            "occurrences": [
                {
                    "repo_name": found.repo_name,
                    "path": found.path,
                    "lines": f"{found.first_line}-{found.last_line}",
                    "swhid": found.swhid,
                    "detected_licenses": list(found.detected_licenses),
                    "license_type": found.license_type,
                    "ledger_row": found.ledger_row,
                }
                for found in self.occurrences
            ],
        }


class Attribution:
    """An opened index; its blocks are memory-mapped, so opening costs nothing."""

    def __init__(self, blocks: list["Block"]) -> None:
        self._blocks = blocks

    @classmethod
    def open(cls, folder: str | Path) -> "Attribution":
        """Map an IndexAttribution artifact; UserError where a file is missing or cut short."""
        folder = Path(folder)
        try:
            index = json.loads((folder / BLOCKS).read_text(encoding="utf-8"))
            count = index["blocks"]
        except (OSError, ValueError, KeyError, TypeError):
            mend = "name the folder that IndexAttribution made"
            raise UserError("index", str(folder), f"has no readable {BLOCKS}", mend) from None
        return cls([Block(folder / f"block-{number:05d}") for number in range(count)])

    def matches(self, text: str, *, minimum: int = 24, top: int = 5) -> list[Match]:
        """Runs of at least `minimum` bytes that stand in a training file, in order of the text.

        For every position the longest match is found; then the longest of all is reported, then
        the longest in what is left, and so on: matches do not overlap, and begin and end between
        characters. Each lists up to `top` occurrences, in the order of the training documents.
        """
        if minimum < 1 or top < 1:
            field, value = ("minimum", minimum) if minimum < 1 else ("top", top)
            raise UserError(field, value, "is less than one", "take more")
        query = text.encode("utf-8", errors="replace")
        longest = np.zeros(len(query), np.int64)
        for block in self._blocks:
            np.maximum(longest, block.longest(query, minimum), out=longest)
        found = []
        for start, end in _choose(query, longest, minimum):
            piece = query[start:end]
            count, occurrences = 0, []
            for block in self._blocks:
                more, places = block.occurrences(piece, top - len(occurrences))
                count += more
                occurrences += places
            found.append(Match(start, end, piece.decode("utf-8"), count, tuple(occurrences)))
        return found


def _choose(query: bytes, longest: np.ndarray, minimum: int) -> list[tuple[int, int]]:
    """Non-overlapping [start, end), longest first, cut to whole characters; sorted by start."""
    inside = [byte & 0xC0 == 0x80 for byte in query] + [False]  # not the first byte of a character
    taken = np.zeros(len(query) + 1, bool)
    heap = [
        (-int(longest[start]), start)
        for start in np.flatnonzero(longest >= minimum).tolist()
        if not inside[start]
    ]
    heapq.heapify(heap)
    chosen = []
    while heap:
        size, start = heapq.heappop(heap)
        end = start - size
        if taken[start]:
            continue
        blocked = np.flatnonzero(taken[start:end])
        if len(blocked):
            end = start + int(blocked[0])
        while inside[end]:
            end -= 1
        if end - start < minimum:
            continue
        if end - start < -size:  # shorter than it was queued for: another may come first now
            heapq.heappush(heap, (start - end, start))
            continue
        taken[start:end] = True
        chosen.append((start, end))
    return sorted(chosen)


class Block:
    """Text, suffix array and files of one block."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.text = np.memmap(folder / TEXT, np.uint8, "r")
            self.suffixes = np.memmap(folder / SUFFIXES, "<i4", "r")
        except (OSError, ValueError) as error:
            raise UserError(f"{folder} cannot be read ({error}): make the index again") from None
        if len(self.text) != len(self.suffixes) or self.text[-1] != BORDER:
            raise UserError(f"{folder} is cut short: delete the index and make it again")

    @cached_property
    def _files(self) -> pa.Table:
        try:
            return pq.read_table(self.folder / FILES)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{self.folder / FILES} cannot be read: {error}") from None

    @cached_property
    def _starts(self) -> np.ndarray:
        return self._files["start"].to_numpy()

    def longest(self, query: bytes, minimum: int) -> np.ndarray:
        """Length of the longest match at each position, int64 [bytes]; 0 below `minimum`.

        Inside a match, later positions match at least to its end: only the first that matches
        further is looked up again.
        """
        found = np.zeros(len(query), np.int64)
        width = min(minimum, HEAD)
        stop = len(query) - width + 1
        start = chunk = 0
        low = hits = np.zeros(0, np.int64)
        while start < stop:
            if start >= chunk + len(low):
                chunk = start
                low, hits = self._heads(query[chunk : chunk + CHUNK + width - 1], width)
            ahead = np.flatnonzero(hits[start - chunk :])
            if not len(ahead):
                start = chunk + len(low)
                continue
            start += int(ahead[0])
            size = self._extend(query[start:], int(low[start - chunk]), width)
            if size >= minimum:
                found[start : start + size - minimum + 1] = np.arange(size, minimum - 1, -1)
            start = self._first_beyond(query, start, start + size, width)
        return found

    def _first_beyond(self, query: bytes, start: int, end: int, width: int) -> int:
        """After a match [start, end): the first position that matches beyond its end.

        A run that stands in the text has all its own endings in it too, so halving finds it.
        Where none of at least `width` bytes does: the first position whose head is untried.
        """
        if end == len(query):
            return end
        low, high = start + 1, end + 2 - width
        while low < high:
            middle = (low + high) // 2
            piece = query[middle : end + 1]
            place = self._bound(piece, 0, len(self.suffixes), after=False)
            if place < len(self.suffixes) and self._at(place, len(piece)) == piece:
                high = middle
            else:
                low = middle + 1
        return low

    def occurrences(self, piece: bytes, top: int) -> tuple[int, list[Occurrence]]:
        """How often the piece stands in the block, and the first `top` places."""
        low = self._bound(piece, 0, len(self.suffixes), after=False)
        high = self._gallop(piece, low)
        places = self.suffixes[low:high]
        if top < 1 or not len(places):
            return high - low, []
        first = np.sort(places)[:top] if len(places) <= top else np.partition(places, top - 1)[:top]
        return high - low, [self._occurrence(int(at), len(piece)) for at in np.sort(first)]

    def _occurrence(self, at: int, size: int) -> Occurrence:
        number = int(np.searchsorted(self._starts, at, side="right")) - 1
        start = int(self._starts[number])
        row = self._files.slice(number, 1).to_pylist()[0]
        line = 1 + int(np.count_nonzero(self.text[start:at] == 10))
        inside = int(np.count_nonzero(self.text[at : at + size - 1] == 10))
        identifier = row["content_id"]
        return Occurrence(
            repo_name=row["repo_name"],
            path=row["path"],
            swhid=identifier if identifier.startswith("swh:") else f"swh:1:cnt:{identifier}",
            ledger_row=row["ledger_row"],
            detected_licenses=tuple(row["detected_licenses"] or ()),
            license_type=row["license_type"],
            first_line=line,
            last_line=line + inside,
            offset=at - start,
        )

    def _at(self, place: int, size: int) -> bytes:
        start = int(self.suffixes[place])
        return self.text[start : start + size].tobytes()

    def _heads(self, query: bytes, size: int) -> tuple[np.ndarray, np.ndarray]:
        """For each run of `size` bytes of the query: its first suffix, and whether it has one.

        All are searched at once: int64 and bool, [bytes - size + 1].
        """
        heads = np.lib.stride_tricks.sliding_window_view(np.frombuffer(query, np.uint8), size)
        low = np.zeros(len(heads), np.int64)
        high = np.full(len(heads), len(self.suffixes), np.int64)
        step, last = np.arange(size), len(self.text) - 1
        every = np.arange(len(heads))

        def compare(places: np.ndarray) -> np.ndarray:
            """Below, at or above 0: the suffix is less than the head, begins with it, is more."""
            at = self.suffixes[np.minimum(places, last)].astype(np.int64)
            # Past the end stands the border again: greater than any byte of the query.
            suffix = self.text[np.minimum(at[:, None] + step, last)].astype(np.int16)
            differ = (suffix != heads).argmax(axis=1)
            return suffix[every, differ] - heads[every, differ]

        while (low < high).any():
            middle = (low + high) // 2
            less = (compare(middle) < 0) & (low < high)
            low = np.where(less, middle + 1, low)
            high = np.where(less | (low >= high), high, middle)
        return low, (compare(low) == 0) & (low < len(self.suffixes))

    def _extend(self, query: bytes, low: int, size: int) -> int:
        """The longest match of the query, known to match `size` bytes at suffix `low`.

        The neighbours of the place where the query would be inserted share most with it.
        """
        high = self._gallop(query[:size], low)
        place = self._bound(query, low, high, after=False)
        near = [at for at in (place - 1, place) if low <= at < high]
        return max(self._shared(query, at) for at in near)

    def _shared(self, query: bytes, place: int) -> int:
        """Bytes that the query and a suffix have in common."""
        start = int(self.suffixes[place])
        suffix = self.text[start : start + len(query)]
        differ = suffix != np.frombuffer(query, np.uint8)[: len(suffix)]
        return int(differ.argmax()) if differ.any() else len(suffix)

    def _gallop(self, piece: bytes, low: int) -> int:
        """End of the run of suffixes that begin with `piece`, from its first one `low` on."""
        step, total = 1, len(self.suffixes)
        while low + step < total and self._at(low + step, len(piece)) == piece:
            step *= 2
        return self._bound(piece, low + step // 2, min(low + step, total), after=True)

    def _bound(self, piece: bytes, low: int, high: int, *, after: bool) -> int:
        """First suffix in [low, high) whose head is not less than (`after`: greater than) piece."""
        size = len(piece)
        while low < high:
            middle = (low + high) // 2
            head = self._at(middle, size)
            if head < piece or (after and head == piece):
                low = middle + 1
            else:
                high = middle
        return low
