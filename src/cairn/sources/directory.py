"""A directory on disk: links are read as links, never followed."""

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cairn.sources.damage import Damaged, told, unreadable
from cairn.sources.digest import Digest, content_id, digest
from cairn.sources.record import EXECUTABLE, LINK, REGULAR, Origin, SourceFile
from cairn.sources.swhid import DIRECTORY, tree_hash

CHUNK = 2**20
HELD = 256 * 2**20  # bytes of small files that the first look keeps for the second
OVERHEAD = 512  # of one file that is held, whatever its size
LARGEST = 4 * 2**30  # a larger file is a problem: a sparse one of exabytes would never end
CHANGED = "changed while it was read"


@dataclass(frozen=True, slots=True)
class Found:
    """A file on disk: its path below the tree's root, mode as git keeps it, size.

    It lies at `inside` below the folder `root`. problem: why it cannot be read; for a folder that
    cannot be listed the mode is DIRECTORY.
    """

    root: bytes
    inside: bytes
    path: bytes
    mode: int
    size: int
    problem: str | None = None

    @property
    def where(self) -> bytes:
        """The path on disk."""
        return self.root + b"/" + self.inside if self.inside else self.root


def walk(root: Path, skip: frozenset[bytes] = frozenset({b".git"})) -> Iterator[Found]:
    """Files and links below `root` in the order of their paths' bytes.

    Names in `skip` are passed over wherever they stand; so are sockets, pipes and devices. A
    directory that cannot be listed is one entry with a problem.
    """
    pending = [b""]
    found: list[Found] = []
    base = os.fsencode(root).rstrip(b"/")
    while pending:
        inside = pending.pop()
        where = base + b"/" + inside
        try:
            with os.scandir(where) as listing:
                for entry in listing:
                    if entry.name not in skip:
                        path = inside + b"/" + entry.name if inside else entry.name
                        if entry.is_dir(follow_symlinks=False):
                            pending.append(path)
                        else:
                            found += _file(base, path, entry)
        except OSError as error:
            problem = f"cannot be read ({told(error)})"
            found.append(Found(base, inside, inside, DIRECTORY, 0, problem))
    found.sort(key=lambda one: one.path)
    yield from found


def _file(base: bytes, path: bytes, entry: os.DirEntry[bytes]) -> list[Found]:
    """A file or link, if it is one."""
    try:
        state = entry.stat(follow_symlinks=False)
    except OSError as error:
        return [Found(base, path, path, REGULAR, 0, f"cannot be read ({told(error)})")]
    if stat.S_ISLNK(state.st_mode):
        return [Found(base, path, path, LINK, state.st_size)]
    if not stat.S_ISREG(state.st_mode):
        return []
    mode = EXECUTABLE if state.st_mode & stat.S_IXUSR else REGULAR
    large = state.st_size > LARGEST
    problem = f"holds {state.st_size:,} bytes, more than {LARGEST:,}" if large else None
    return [Found(base, path, path, mode, state.st_size, problem)]


def read(name: str, url: str, files: Iterable[Found], max_bytes: int) -> Iterator[SourceFile]:
    """Records of the files of one tree, which has `name` and `url`.

    All are hashed before the first is given, for the directory's identifier, which is empty where
    a file cannot be read. Bytes of the second look are checked against the first.
    """
    found = list(files)
    ids, held, problems = _first_look(found, max_bytes)
    pairs = zip(found, ids, strict=True)
    tree = "" if problems else tree_hash((one.path, one.mode, known) for one, known in pairs)
    origin = Origin(repo_name=name, origin_url=url, directory_id=tree)
    for number, one in enumerate(found):
        problem = problems.get(number)
        again = held.pop(number, None)
        if problem is None and again is None:
            try:
                again = digest(chunks(one), one.size, keep=True)
                problem = None if again.content_id == ids[number] else CHANGED
            except Damaged as error:
                problem = str(error)
        if problem is not None or again is None:
            yield unreadable(
                origin, problem or "", one.path, mode=one.mode, size=one.size,
                content_id=ids[number],
            )  # fmt: skip
        else:
            yield again.record(origin, one.path, one.mode, one.size)


def _first_look(
    found: list[Found], max_bytes: int
) -> tuple[list[str], dict[int, Digest], dict[int, str]]:
    """(content ids, digests that need no second look, problems), by number.

    Of a file with a problem the content id is empty.
    """
    ids: list[str] = []
    held: dict[int, Digest] = {}
    problems: dict[int, str] = {}
    budget = HELD
    for number, one in enumerate(found):
        small, cost = one.size < max_bytes, OVERHEAD + one.size
        try:
            if one.problem is not None:
                raise Damaged(one.problem)
            if small and cost > budget:
                ids.append(content_id(chunks(one), one.size))
                continue
            held[number] = digest(chunks(one), one.size, keep=small)
            ids.append(held[number].content_id)
            budget -= cost if small else 0
        except Damaged as error:
            problems[number] = str(error)
            ids.append("")
    return ids, held, problems


def chunks(found: Found) -> Iterator[bytes]:
    """The bytes of a file in pieces, or a link's target.

    Damaged where it cannot be read, or where its length is no longer what `walk` saw.
    """
    length = 0
    try:
        for chunk in _pieces(found):
            length += len(chunk)
            if length > found.size:
                break
            yield chunk
    except OSError as error:
        raise Damaged(f"cannot be read ({told(error)})") from None
    if length != found.size:
        raise Damaged(CHANGED)


def _pieces(found: Found) -> Iterator[bytes]:
    if found.mode == LINK:
        yield os.readlink(found.where)  # noqa: PTH115 (names are bytes)
        return
    # Not blocking: a pipe may stand there by now, which would be waited for without end.
    descriptor = os.open(found.where, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Damaged(CHANGED)
        wanted, done = min(found.size + 1, CHUNK), 0
        while chunk := os.read(descriptor, wanted):
            yield chunk
            done += len(chunk)
            if done == found.size and len(chunk) < wanted:  # the end: one call for most files
                return
    finally:
        os.close(descriptor)
