"""A directory on disk: links are read as links, never followed."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cairn.base import UserError
from cairn.sources.record import EXECUTABLE, LINK, REGULAR

CHUNK = 2**20


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
            with os.scandir(where) as listing:
                entries = [(one, one.stat(follow_symlinks=False)) for one in listing]
        except OSError as error:
            shown = os.fsdecode(where)
            problem = f"cannot be read ({error.strerror})"
            raise UserError("source", shown, problem, "make it readable") from None
        for entry, state in entries:
            if entry.name in skip:
                continue
            path = inside + b"/" + entry.name if inside else entry.name
            if stat.S_ISDIR(state.st_mode):
                pending.append(path)
            elif stat.S_ISLNK(state.st_mode):
                found.append(Found(entry.path, path, LINK, state.st_size))
            elif stat.S_ISREG(state.st_mode):
                mode = EXECUTABLE if state.st_mode & stat.S_IXUSR else REGULAR
                found.append(Found(entry.path, path, mode, state.st_size))
    yield from sorted(found, key=lambda one: one.path)


def chunks(found: Found) -> Iterator[bytes]:
    """The bytes of a file in pieces, or a link's target.

    UserError where it cannot be read, or where its length is no longer what `walk` saw.
    """
    shown, length = os.fsdecode(found.where), 0
    try:
        for chunk in _pieces(found):
            length += len(chunk)
            yield chunk
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
        raise UserError("source", shown, problem, "make it readable") from None
    if length != found.size:
        raise UserError("source", shown, "changed while it was read", "read it again")


def _pieces(found: Found) -> Iterator[bytes]:
    if found.mode == LINK:
        yield os.readlink(found.where)  # noqa: PTH115 (names are bytes)
        return
    descriptor = os.open(found.where, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk
