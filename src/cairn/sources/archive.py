"""Archives, read member by member and never unpacked: hostile ones are refused before any is used.

Links are kept as links. A directory identifier of an archive is that of its root, with whatever
single folder the files may stand in.
"""

import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from cairn.base import UserError
from cairn.sources.record import EXECUTABLE, LINK, REGULAR

MOST_BYTES = 16 * 2**30  # of all members together, unpacked
MOST_MEMBERS = 2_000_000
RATIO, RATIO_FROM = 1000, 64 * 2**20  # a member this large that shrinks this much is a bomb
CHUNK = 2**20
BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    NotImplementedError,
    RuntimeError,
)


@dataclass(frozen=True)
class Member:
    """A file or link in an archive: path below the root in bytes, mode as git keeps it, size."""

    path: bytes
    mode: int
    size: int
    handle: Any  # what the archive's library calls it


def is_archive(path: Path) -> bool:
    """Whether the file is a tar (plain, gz, bz2, xz) or a zip, whatever its name.

    A damaged file with an archive's name counts, so that it is reported as damaged.
    """
    named = path.name.lower().endswith(
        (".zip", ".whl", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tbz2", ".txz")
    )
    return named or zipfile.is_zipfile(path) or _is_tar(path)


def _is_tar(path: Path) -> bool:
    try:
        return tarfile.is_tarfile(path)
    except (EOFError, zlib.error):  # a cut compressed file: only its beginning is one
        return False


@contextmanager
def open_archive(path: Path) -> Iterator["Archive"]:
    """Open and check a whole archive's table. UserError names what is wrong with it."""
    try:
        zipped = zipfile.is_zipfile(path)
        library = zipfile.ZipFile(path) if zipped else tarfile.open(path)  # noqa: SIM115
    except BROKEN as error:
        raise _damaged(path, error) from None
    with library:
        try:
            found = _zip_members if isinstance(library, zipfile.ZipFile) else _tar_members
            members = list(found(library))  # type: ignore[arg-type]
        except BROKEN as error:
            if isinstance(error, UserError):
                raise
            raise _damaged(path, error) from None
        archive = Archive(path, library, members)
        archive.check()
        yield archive


class Archive:
    """An open archive whose members have been checked."""

    def __init__(self, path: Path, library: Any, members: list[Member]) -> None:
        self.path, self.library = path, library
        self.members = members

    def check(self) -> None:
        """UserError for paths that climb out, duplicates, devices, and bombs."""
        files: set[bytes] = set()
        folders: set[bytes] = set()
        for member in self.members:
            if member.path in files:
                raise self._hostile(member.path, "is in it twice")
            files.add(member.path)
            parts = member.path.split(b"/")
            folders.update(b"/".join(parts[:depth]) for depth in range(1, len(parts)))
        clash = sorted(files & folders)
        if clash:
            raise self._hostile(clash[0], "is a file and a folder")
        total = sum(member.size for member in self.members)
        if total > MOST_BYTES or len(self.members) > MOST_MEMBERS:
            size = f"{len(self.members):,} files of {total:,} bytes"
            raise UserError(f"archive {self.path}: unpacks to {size}: too large to be trusted")
        for member in self.members:
            self._check_ratio(member)

    def _check_ratio(self, member: Member) -> None:
        info = member.handle
        zipped = isinstance(info, zipfile.ZipInfo)
        packed = info.compress_size if zipped else self.path.stat().st_size
        if member.size >= RATIO_FROM and member.size > RATIO * max(packed, 1):
            problem = f"unpacks {packed:,} bytes to {member.size:,}: it looks like a bomb"
            raise self._hostile(member.path, problem)

    def _hostile(self, path: bytes, problem: str) -> UserError:
        shown = path.decode("utf-8", "backslashreplace")
        return UserError(f"archive {self.path}: member {shown!r} {problem}: nothing was read")

    def chunks(self, member: Member) -> Iterator[bytes]:
        """A member's bytes (a link's: of its target); UserError where the archive is damaged."""
        if member.mode == LINK and isinstance(member.handle, tarfile.TarInfo):
            yield _bytes(member.handle.linkname)
            return
        done = 0
        try:
            with self._open(member) as file:
                while chunk := file.read(CHUNK):
                    done += len(chunk)
                    if done > member.size:
                        raise ValueError("a member is longer than its header says")
                    yield chunk
            if done != member.size:
                raise ValueError("a member is shorter than its header says")
        except BROKEN as error:
            raise _damaged(self.path, error) from None

    def _open(self, member: Member) -> IO[bytes]:
        if isinstance(self.library, zipfile.ZipFile):
            return self.library.open(member.handle)
        file = self.library.extractfile(member.handle)
        if file is None:
            raise ValueError("a member has no content")
        return file


def _tar_members(library: tarfile.TarFile) -> Iterator[Member]:
    sizes: dict[bytes, int] = {}  # of files before, for hard links
    for info in library:
        path = _safe(_bytes(info.name), library.name)
        if info.isdir():
            continue
        if info.issym():
            target = _bytes(info.linkname)
            _check_link(path, target, library.name)
            yield Member(path, LINK, len(target), info)
        elif info.isreg() or info.islnk():
            size = info.size
            if info.islnk():
                target = _safe(_bytes(info.linkname), library.name)
                if target not in sizes:
                    raise ValueError(f"the hard link {info.name!r} points to nothing before it")
                size = sizes[target]
            sizes[path] = size
            yield Member(path, EXECUTABLE if info.mode & 0o100 else REGULAR, size, info)
        else:
            raise _climbs(library.name, path, "is a device or a pipe")


def _zip_members(library: zipfile.ZipFile) -> Iterator[Member]:
    name = library.filename or "?"
    for info in library.infolist():
        raw = info.filename.encode("utf-8" if info.flag_bits & 0x800 else "cp437", "replace")
        path = _safe(raw, name)
        if info.is_dir():
            continue
        if info.flag_bits & 1:
            raise _climbs(name, path, "is encrypted")
        mode = info.external_attr >> 16
        if stat.S_ISLNK(mode):
            _check_link(path, library.read(info), name)
            yield Member(path, LINK, info.file_size, info)
        else:
            yield Member(path, EXECUTABLE if mode & 0o100 else REGULAR, info.file_size, info)


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _safe(path: bytes, archive: Any) -> bytes:
    """The path without `.` and empty names; UserError where it leaves the archive's root."""
    if path.startswith((b"/", b"\\")) or b"\0" in path or path[1:3] in (b":\\", b":/"):
        raise _climbs(archive, path, "is an absolute path")
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    if b".." in parts or b".." in path.split(b"\\"):
        raise _climbs(archive, path, "climbs out with `..`")
    return b"/".join(parts)


def _check_link(path: bytes, target: bytes, archive: Any) -> None:
    depth = path.count(b"/")
    if target.startswith(b"/"):
        raise _climbs(archive, path, "is a link out of the archive")
    for part in target.split(b"/"):
        depth += -1 if part == b".." else part not in (b"", b".")
        if depth < 0:
            raise _climbs(archive, path, "is a link out of the archive")


def _climbs(archive: Any, path: bytes, problem: str) -> UserError:
    shown = path.decode("utf-8", "backslashreplace")
    return UserError(f"archive {archive}: member {shown!r} {problem}: nothing was read")


def _damaged(path: Path, error: Exception) -> UserError:
    what = str(error) or type(error).__name__
    return UserError("source", str(path), f"is truncated or damaged ({what})", "fetch it anew")
