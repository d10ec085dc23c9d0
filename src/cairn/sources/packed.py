"""Records of what lies in archives: of one, or of several that make one tree."""

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cairn.sources.archive import Archive, Member, open_archive
from cairn.sources.damage import Damaged, unreadable, whole
from cairn.sources.digest import Digest
from cairn.sources.record import Origin, SourceFile, path_text
from cairn.sources.swhid import tree_hash

WINDOW = 128 * 2**20  # bytes that are held so as to give files in the order of their paths
ENDINGS = (".gz", ".bz2", ".xz", ".tar", ".tgz", ".tbz2", ".txz", ".zip", ".whl")


@dataclass(frozen=True, slots=True)
class Placed:
    """A member of an archive, and its path in the tree that it is read into."""

    path: bytes
    archive: Archive
    member: Member


def read(path: Path, max_bytes: int) -> Iterator[SourceFile]:
    """Records of an archive's files in the order of their paths.

    A hostile or damaged archive is one record with an empty path: nothing of it is used.
    """
    name, url = path_text(os.fsencode(_stem(path.name))), path.resolve().as_uri()
    try:
        with open_archive(path) as archive:
            placed = [Placed(member.path, archive, member) for member in archive.members]
            yield from records(name, url, placed, max_bytes)
    except Damaged as error:
        yield whole(name, url, f"archive {path_text(os.fsencode(path.name))}: {error}")


def records(name: str, url: str, placed: Sequence[Placed], max_bytes: int) -> Iterator[SourceFile]:
    """Records of one tree. Damaged, before any is given, where a member cannot be read."""
    windows = _windows(placed, max_bytes)
    small = [{one.path for one in window if one.member.size < max_bytes} for window in windows]
    found = _digests(placed, small[0])
    tree = tree_hash((one.path, one.member.mode, found[one.path].content_id) for one in placed)
    origin = Origin(repo_name=name, origin_url=url, directory_id=tree)
    for number, (window, wanted) in enumerate(zip(windows, small, strict=True)):
        if number:
            found |= _again([one for one in window if one.path in wanted], found)
        for one in window:  # pop: what was given need not be held
            yield _record(origin, one, found.pop(one.path), one.path in wanted)


def _windows(placed: Sequence[Placed], below: int) -> list[list[Placed]]:
    """All in the order of their paths, cut where the bytes to hold reach WINDOW.

    Members of `below` bytes and more are not held.
    """
    windows: list[list[Placed]] = [[]]
    held = 0
    for one in sorted(placed, key=lambda one: one.path):
        size = one.member.size if one.member.size < below else 0
        if held and held + size > WINDOW:
            windows.append([])
            held = 0
        windows[-1].append(one)
        held += size
    return windows


def _digests(placed: Sequence[Placed], keep: Collection[bytes]) -> dict[bytes, Digest]:
    """Digests by path in the tree, with the bytes of the paths in `keep`."""
    found: dict[bytes, Digest] = {}
    for archive in {id(one.archive): one.archive for one in placed}.values():
        here = [one for one in placed if one.archive is archive]
        inside = {one.member.path for one in here if one.path in keep}
        digests = archive.digests([one.member for one in here], inside)
        found |= {one.path: digests[one.member.path] for one in here}
    return found


def _again(placed: list[Placed], seen: dict[bytes, Digest]) -> dict[bytes, Digest]:
    """Digests with bytes of those members that are still what `seen` says of them."""
    try:
        found = _digests(placed, {one.path for one in placed})
    except Damaged:
        return {}
    return {path: one for path, one in found.items() if one.content_id == seen[path].content_id}


def _record(origin: Origin, one: Placed, found: Digest, wanted: bool) -> SourceFile:
    mode, size = one.member.mode, one.member.size
    if wanted and found.raw is None:
        problem, known = "changed while it was read", found.content_id
        return unreadable(origin, problem, one.path, mode=mode, size=size, content_id=known)
    return found.record(origin, one.path, mode, size)


def _stem(name: str) -> str:
    for ending in ENDINGS:
        name = name.removesuffix(ending)
    return name
