"""A tar's headers, read strictly and in bounded memory: a few bytes may ask for any amount."""

import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tarfile import ReadError
from typing import IO, Any, Self

MOST_HEADER = 2**20  # bytes of an extended header, which is read whole
MOST_CHAINED = 8  # extended headers of one member
_MAGIC = {b"\x1f\x8b": "r:gz", b"BZh": "r:bz2", b"\xfd7zXZ\0": "r:xz", b"]\0\0": "r:xz"}
_LENGTH = re.compile(rb"([0-9]{1,7}) ")
_KEPT = frozenset({b"path", b"linkpath", b"size", b"hdrcharset"})  # of an extended header
_SPARSE = frozenset(
    b"GNU.sparse." + key
    for key in b"major minor name size realsize map numblocks offset numbytes".split()
)
_ENDS = (tarfile.TruncatedHeaderError, tarfile.InvalidHeaderError, tarfile.EmptyHeaderError)  # type: ignore[attr-defined]
_EXTENDED = frozenset(
    {tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE}
    | {tarfile.SOLARIS_XHDTYPE}
)


class Header(tarfile.TarInfo):
    """A header: the library takes some damage for the archive's end, and reads without bounds.

    The methods that are replaced but for two are documented as ones to replace.
    """

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile)
        except _ENDS as error:
            raise ReadError(f"{error} at byte {tarfile.offset:,}") from None

    def _block(self, count: int) -> int:
        if count < 0:  # the next header would be this one again, without end
            raise ReadError(f"a size of {count:,} bytes")
        return super()._block(count)  # type: ignore[misc]

    def _proc_member(self, archive: "Tar") -> tarfile.TarInfo:
        if self.type not in _EXTENDED:
            return super()._proc_member(archive)  # type: ignore[misc]
        if self.size > MOST_HEADER:
            raise ReadError(f"a header of {self.size:,} bytes")
        if archive.chained == MOST_CHAINED:
            raise ReadError(f"a member of more than {MOST_CHAINED} headers")
        archive.chained += 1
        try:
            return super()._proc_member(archive)  # type: ignore[misc]
        finally:
            archive.chained -= 1

    def _proc_pax(self, archive: "Tar") -> tarfile.TarInfo:
        raw = archive.fileobj.read(self._block(self.size))
        wanted = _KEPT if self.type == tarfile.XGLTYPE else _KEPT | _SPARSE
        kept = b"".join(one for key, one in _records(raw[: self.size]) if key in wanted)
        self.size = len(kept)
        with _instead(archive, _Ahead(archive.fileobj, kept)):
            return super()._proc_pax(archive)  # type: ignore[misc]

    def _proc_sparse(self, archive: "Tar") -> tarfile.TarInfo:
        with _instead(archive, _Limited(archive.fileobj)):
            return super()._proc_sparse(archive)  # type: ignore[misc]

    def _proc_gnusparse_10(self, member: tarfile.TarInfo, fields: Any, archive: "Tar") -> None:
        with _instead(archive, _Limited(archive.fileobj)):
            super()._proc_gnusparse_10(member, fields, archive)  # type: ignore[misc]


class Tar(tarfile.TarFile):
    """A tar whose headers are read strictly. `chained`: how many wait for their member."""

    tarinfo = Header
    chained = 0
    fileobj: Any

    def __iter__(self) -> Iterator[tarfile.TarInfo]:
        """Members, each without what only unpacking would need."""
        for info in super().__iter__():
            _check(info)
            info.pax_headers, info.uname, info.gname = {}, "", ""
            if not (info.issym() or info.islnk()):
                info.linkname = ""
            yield info


def open_tar(path: Path) -> Tar:
    """Open a tar, plain or compressed; for others tarfile.TarError, or what decompressors raise.

    How it is compressed is told by its first bytes: a decompressor that only tries may read zeros
    without end.
    """
    with path.open("rb") as file:
        begin = file.read(6)
    mode = next((mode for magic, mode in _MAGIC.items() if begin.startswith(magic)), "r:")
    return Tar.open(path, mode)  # type: ignore[arg-type]


def _check(info: tarfile.TarInfo) -> None:
    """ReadError for a size or a map of a sparse file that cannot be."""
    end = 0
    for place, length in info.sparse or ():  # type: ignore[attr-defined]
        if place < end or length < 0:
            raise ReadError("a map of a sparse file out of order")
        end = place + length
    if info.size < end:
        raise ReadError(f"a size of {info.size:,} bytes")


def _records(raw: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(key, record) of an extended header, whose records are `LENGTH KEY=VALUE\\n`."""
    place = 0
    while place < len(raw):
        found = _LENGTH.match(raw, place)
        end = place + int(found[1]) if found else 0
        if found is None or end > len(raw) or end <= found.end() or raw[end - 1] != 0x0A:
            raise ReadError("an extended header with a damaged record")
        key, equals, _ = raw[found.end() : end].partition(b"=")
        if not equals:
            raise ReadError("an extended header with a damaged record")
        yield key, raw[place:end]
        place = end


class _Ahead:
    """A file of which the next piece has been read, and is another."""

    def __init__(self, file: IO[bytes], piece: bytes) -> None:
        self.file, self.piece = file, [piece]
        self.tell = file.tell

    def read(self, size: int) -> bytes:
        return self.piece.pop() if self.piece else self.file.read(size)


class _Limited:
    """A file of which a sparse member's map may be read, and no more."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.left = file, MOST_HEADER
        self.tell = file.tell

    def read(self, size: int) -> bytes:
        self.left -= size
        if self.left < 0:
            raise ReadError(f"a map of a sparse file of more than {MOST_HEADER:,} bytes")
        return self.file.read(size)


@contextmanager
def _instead(archive: Tar, file: Any) -> Iterator[None]:
    before, archive.fileobj = archive.fileobj, file
    try:
        yield
    finally:
        archive.fileobj = before
