"""Hours of GH Archive: JSON lines, packed or not, read piece by piece and past what is damaged."""

import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cairn.base import UserError
from cairn.sources.events.layout import Event, normalise

CHUNK = 2**20
PACKED = 2**16  # what is lost where a stream is corrupt
LONGEST_LINE = 64 * 2**20
ENDINGS = (".json.gz", ".json")


@dataclass
class Hour:
    """One file and what was found in it; the counts grow while it is read.

    damaged: lines that are no event; first_damaged: the number of the first of them, from 1.
    problem: what cut the file short, or empty.
    """

    path: Path
    lines: int = 0
    damaged: int = 0
    first_damaged: int = 0
    problem: str = ""

    def complaint(self) -> str:
        """What was wrong with it in one line; empty where nothing was."""
        said = []
        if self.damaged:
            told = f"{self.damaged:,} of {self.lines:,} lines are no events"
            said.append(f"{told} (the first is line {self.first_damaged:,})")
        if self.problem:
            said.append(f"{self.problem} after {self.lines:,} lines")
        return "; ".join(said)


def find_hours(path: Path) -> list[Path]:
    """The files of a folder (or the file itself), by name. UserError where there are none."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError("source", str(path), "does not exist", "give GH Archive's hours")
    found = sorted(one for one in path.rglob("*.json*") if one.name.endswith(ENDINGS))
    if not found:
        raise UserError("source", str(path), "holds no *.json.gz or *.json", "give hours")
    return found


def read_hours(hours: Sequence[Hour]) -> Iterator[Event]:
    """The events of use of all hours, in order. What is damaged is counted in the hours."""
    for hour in hours:
        for line in _lines(hour):
            if not line.strip():
                continue
            hour.lines += 1
            try:
                event = normalise(json.loads(line), line)
            except (ValueError, OverflowError, RecursionError):
                hour.damaged += 1
                hour.first_damaged = hour.first_damaged or hour.lines
                continue
            if event:
                yield event


def _lines(hour: Hour) -> Iterator[bytes]:
    """Lines without their ends; one too long for any event is given empty of sense."""
    held: list[bytes] = []
    size = 0
    for chunk in _chunks(hour):
        first, *rest = chunk.split(b"\n")
        for piece, ended in [(first, bool(rest)), *((one, True) for one in rest[:-1])]:
            size += len(piece)
            if size <= LONGEST_LINE:
                held.append(piece)
            if ended:
                yield b"".join(held) if size <= LONGEST_LINE else b"too long"
                held, size = [], 0
        if rest:
            held, size = [rest[-1]], len(rest[-1])
    if size:
        yield b"".join(held) if size <= LONGEST_LINE else b"too long"


def _chunks(hour: Hour) -> Iterator[bytes]:
    """The file unpacked, as far as it can be."""
    try:
        with hour.path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            unpack = zlib.decompressobj(31) if packed else None
            while chunk := file.read(PACKED):
                if unpack is None:
                    yield chunk
                    continue
                while chunk:
                    if unpack.eof:  # another member follows
                        unpack = zlib.decompressobj(31)
                    yield unpack.decompress(chunk, CHUNK)
                    chunk = unpack.unconsumed_tail or unpack.unused_data.lstrip(b"\0")
            if unpack is not None:
                yield unpack.flush()
                if not unpack.eof:
                    hour.problem = "the gzip stream is cut short"
    except zlib.error as error:
        hour.problem = f"the gzip stream is corrupt ({error})"
    except OSError as error:
        hour.problem = f"cannot be read ({error.strerror or error})"
