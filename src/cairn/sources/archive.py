"""Archives, read member by member and never unpacked: hostile ones are refused before any is used.

Links are kept as links. A directory identifier of an archive is that of its root, with whatever
single folder the files may stand in, as Software Heritage takes it.
"""

import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tarfile import ReadError
from typing import IO, Any

from cairn.sources.damage import Damaged, told
from cairn.sources.digest import Digest, digest
from cairn.sources.record import EXECUTABLE, LINK, MOST_FILES, MOST_NAMES, REGULAR
from cairn.sources.tarheaders import Tar, open_tar

MOST_BYTES = 16 * 2**30  # of all members together, unpacked
RATIO, RATIO_FROM = 1000, 64 * 2**20  # a member this large that shrinks this much is a bomb
CHUNK = 2**20
MOST_PATH = 4096  # bytes of a path or of a link's target: Linux takes no more
BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    ValueError,
    NotImplementedError,
    RuntimeError,
    struct.error,
    LookupError,
    ArithmeticError,
    MemoryError,  # a header may ask for any amount
)


@dataclass(frozen=True)
class Member:
    """A file or link in an archive: path below the root in bytes, mode as git keeps it, size.

    handle: what the archive's library calls it; of a hard link, the file that it is a name of.
    offset: where its bytes begin, in a compressed tar of the unpacked stream.
    """

    path: bytes
    mode: int
    size: int
    handle: Any
    offset: int


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
        open_tar(path).close()
    except OSError:
        raise
    except BROKEN:  # a cut compressed file too: only its beginning is one
        return False
    return True


@contextmanager
def open_archive(path: Path) -> Iterator["Archive"]:
    """Open and check a whole archive's table. Damaged tells what is wrong with it."""
    try:
        zipped = zipfile.is_zipfile(path)
        library = zipfile.ZipFile(path) if zipped else open_tar(path)
    except BROKEN as error:
        raise _broken(error) from None
    with library:
        try:
            found = _zip_members if isinstance(library, zipfile.ZipFile) else _tar_members
            members = list(_bounded(path, found(library)))  # type: ignore[arg-type]
            if not zipped:  # of a name that comes twice the last stays, as tar unpacks it
                members = list({member.path: member for member in members}.values())
        except BROKEN as error:
            raise _broken(error) from None
        archive = Archive(library, members)
        archive.check()
        yield archive


def _bounded(path: Path, members: Iterator[Member]) -> Iterator[Member]:
    """Members while they stay within bounds: a bomb is refused before its end is sought."""
    packed = path.stat().st_size
    total = names = 0
    for count, member in enumerate(members, 1):
        total += member.size
        names += len(member.path)
        if names > MOST_NAMES:
            raise Damaged(f"has names of more than {MOST_NAMES:,} bytes")
        if total > MOST_BYTES or count > MOST_FILES:
            size = f"{count:,} files of {total:,} bytes and more"
            raise Damaged(f"unpacks to {size}: too large to be trusted")
        own = getattr(member.handle, "compress_size", packed)  # a zip says it of each member
        for large, small in ((total, packed), (member.size, own)):
            if large >= RATIO_FROM and large > RATIO * max(small, 1):
                raise Damaged(f"{small:,} bytes unpack to {large:,} and more: it looks like a bomb")
        yield member


class Archive:
    """An open archive whose members have been checked."""

    def __init__(self, library: Any, members: list[Member]) -> None:
        self.library, self.members = library, members

    def tops(self) -> set[bytes]:
        """The names at the root, those of folders without files too."""
        library = self.library
        is_zip = isinstance(library, zipfile.ZipFile)
        names = (
            [_zip_name(info) for info in library.infolist()]
            if is_zip
            else [_bytes(info.name) for info in library.getmembers()]
        )
        return {_safe(name).split(b"/")[0] for name in names} - {b""}

    def check(self) -> None:
        """Damaged for names of a zip that come twice, or that are a file and a folder."""
        found = clash([member.path for member in self.members])
        if found is not None:
            twice = found[0] == found[1]
            raise _hostile(found[0], "is in it twice" if twice else "is a file and a folder")

    def digests(self, members: Sequence[Member], keep: Collection[bytes]) -> dict[bytes, Digest]:
        """Digests by path, with the bytes of the paths in `keep`.

        Read in the order of the archive, and hard links once: a compressed tar can go back only
        to its beginning.
        """
        done: dict[bytes, Digest] = {}
        handle, found = None, None
        for member in sorted(members, key=lambda one: (one.offset, one.path not in keep)):
            kept = member.path in keep
            if found is None or member.handle is not handle:
                handle = member.handle
                found = digest(self.chunks(member), member.size, keep=kept)
            done[member.path] = found if kept else replace(found, raw=None)
        return done

    def chunks(self, member: Member) -> Iterator[bytes]:
        """A member's bytes (a link's: of its target); Damaged where the archive is damaged."""
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
            raise _broken(error) from None

    def _open(self, member: Member) -> IO[bytes]:
        if isinstance(self.library, zipfile.ZipFile):
            return self.library.open(member.handle)
        file = self.library.extractfile(member.handle)
        if file is None:
            raise ValueError("a member has no content")
        return file


def clash(paths: Iterable[bytes]) -> tuple[bytes, bytes] | None:
    """A path, and one that is the same or lies below it; None where no two paths clash.

    Damaged for more than MOST_FILES files and folders: each path may name thousands of folders.
    """
    before: list[bytes] = []
    entries = 0
    for path in sorted(path.replace(b"/", b"\0") for path in paths):  # what is below comes next
        names = path.split(b"\0")
        same = 0
        while same < min(len(names), len(before)) and names[same] == before[same]:
            same += 1
        if before and same == len(before):
            return b"/".join(before), b"/".join(names)
        entries += len(names) - same
        if entries > MOST_FILES:
            raise Damaged(f"has more than {MOST_FILES:,} files and folders")
        before = names
    return None


def _tar_members(library: Tar) -> Iterator[Member]:
    before: dict[bytes, Member] = {}  # what hard links may be names of
    pieces = 0  # of sparse files
    for count, info in enumerate(library, 1):
        pieces += len(info.sparse or ())  # type: ignore[attr-defined]
        if count + pieces > MOST_FILES or info.offset > MOST_BYTES:
            said = f"{count:,} headers in {info.offset:,} bytes"
            raise Damaged(f"unpacks to {said}: too large to be trusted")
        path = _safe(_bytes(info.name))
        if info.isdir():
            continue
        if not path:
            raise ValueError("a file without a name")
        if info.issym():
            target = _bytes(info.linkname)
            _check_link(path, target)
            yield Member(path, LINK, len(target), info, info.offset)
        elif info.isreg() or info.islnk():
            mode = EXECUTABLE if info.mode & 0o100 else REGULAR
            member = Member(path, mode, info.size, info, info.offset)
            if info.islnk():
                target = _safe(_bytes(info.linkname))
                if target not in before:
                    raise ValueError(f"the hard link {info.name!r} points to nothing before it")
                member = replace(before[target], path=path, mode=mode)
            before[path] = member
            yield member
        else:
            raise _hostile(path, "is a device or a pipe")
    _check_end(library)


def _check_end(library: tarfile.TarFile) -> None:
    """Read on to the end of the stream: only there do gzip and xz keep their checksums."""
    file = library.fileobj
    assert file is not None, "the archive is open"
    for _ in range(RATIO_FROM // CHUNK):
        if not file.read(CHUNK):
            return
    raise ReadError("much more after the archive's end")


def _zip_members(library: zipfile.ZipFile) -> Iterator[Member]:
    for info in library.infolist():
        path = _safe(_zip_name(info))
        if info.is_dir():
            continue
        if not path:
            raise ValueError("a file without a name")
        if info.flag_bits & 1:
            raise _hostile(path, "is encrypted")
        mode = info.external_attr >> 16
        if stat.S_ISLNK(mode):
            if info.file_size > MOST_PATH:
                raise _hostile(path, "is a link too long to be one")
            _check_link(path, library.read(info))
            yield Member(path, LINK, info.file_size, info, info.header_offset)
        elif stat.S_IFMT(mode) in (0, stat.S_IFREG):  # 0: packed where modes are not known
            kind = EXECUTABLE if mode & 0o100 else REGULAR
            yield Member(path, kind, info.file_size, info, info.header_offset)
        else:
            raise _hostile(path, "is a device or a pipe")


def _zip_name(info: zipfile.ZipInfo) -> bytes:
    """The bytes of a name as the archive has them; the library reads cp437 where it must guess."""
    if not info.flag_bits & 0x800:
        try:
            return info.filename.encode("cp437")
        except UnicodeEncodeError:  # it took the name from the extra field, which is UTF-8
            pass
    return info.filename.encode("utf-8", "surrogateescape")


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _safe(path: bytes) -> bytes:
    """The path without `.` and empty names; Damaged where it leaves the archive's root."""
    if len(path) > MOST_PATH:
        raise _hostile(path[:80], f"has a path of {len(path):,} bytes")
    if path.startswith((b"/", b"\\")) or b"\0" in path or path[1:3] in (b":\\", b":/"):
        raise _hostile(path, "is an absolute path")
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    if b".." in parts or b".." in path.split(b"\\"):
        raise _hostile(path, "climbs out with `..`")
    return b"/".join(parts)


def _check_link(path: bytes, target: bytes) -> None:
    depth = path.count(b"/")
    if len(target) > MOST_PATH:
        raise _hostile(path, "is a link too long to be one")
    if target.startswith(b"/"):
        raise _hostile(path, "is a link out of the archive")
    for part in target.split(b"/"):
        depth += -1 if part == b".." else part not in (b"", b".")
        if depth < 0:
            raise _hostile(path, "is a link out of the archive")


def _hostile(path: bytes, problem: str) -> Damaged:
    return Damaged(f"member {path.decode('utf-8', 'backslashreplace')!r} {problem}")


def _broken(error: Exception) -> Damaged:
    return Damaged(f"is truncated or damaged ({told(error)})")
