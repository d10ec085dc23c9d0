"""A directory on disk: links are read as links, never followed."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cairn.base import UserError
from cairn.sources.record import EXECUTABLE, LINK, REGULAR


@dataclass(frozen=True)
class Found:
    """A file on disk: where, its path below the root in bytes, mode as git keeps it, size."""

    where: bytes
    path: bytes
    mode: int
    size: int


def walk(root: Path, skip: frozenset[bytes] = frozenset({b".git"})) -> Iterator[Found]:
    """Files and links below `root` in the order of their paths' bytes.

    Names in `skip` are passed over wherever they stand; so are sockets, pipes and devices.
    UserError for a directory that cannot be read.
    """
    pending = [b""]
    found: list[Found] = []
    base = os.fsencode(root)
    while pending:
        inside = pending.pop()
        where = base + b"/" + inside if inside else base
        try:
            entries = list(os.scandir(where))
        except OSError as error:
            shown = os.fsdecode(where)
            problem = f"cannot be read ({error.strerror})"
            raise UserError("source", shown, problem, "make it readable") from None
        for entry in entries:
            if entry.name in skip:
                continue
            path = inside + b"/" + entry.name if inside else entry.name
            state = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(state.st_mode):
                pending.append(path)
            elif stat.S_ISLNK(state.st_mode):
                found.append(Found(entry.path, path, LINK, state.st_size))
            elif stat.S_ISREG(state.st_mode):
                mode = EXECUTABLE if state.st_mode & stat.S_IXUSR else REGULAR
                found.append(Found(entry.path, path, mode, state.st_size))
    yield from sorted(found, key=lambda one: one.path)


def read(found: Found) -> bytes:
    """The bytes of a file, or of a link's target. UserError where it cannot be read."""
    try:
        if found.mode == LINK:
            return os.readlink(found.where)  # noqa: PTH115 (names are bytes)
        descriptor = os.open(found.where, os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as file:
            return file.read()
    except OSError as error:
        shown = os.fsdecode(found.where)
        mend = "make it readable, or exclude it"
        raise UserError("source", shown, f"cannot be read ({error.strerror})", mend) from None
