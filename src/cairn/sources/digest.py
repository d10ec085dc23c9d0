"""Both hashes of a file in one pass over its bytes, however large it is."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from cairn.sources.record import Origin, SourceFile, path_text


@dataclass(frozen=True, slots=True)
class Digest:
    """content_id: git's blob hash; blob_id: plain SHA-1; raw: the bytes, where they were kept."""

    content_id: str
    blob_id: str
    raw: bytes | None = None

    def record(self, origin: Origin, path: bytes, mode: int, size: int) -> SourceFile:
        """The record of the file that has these hashes."""
        return SourceFile(
            origin=origin,
            path=path_text(path),
            content_id=self.content_id,
            blob_id=self.blob_id,
            mode=mode,
            length_bytes=size,
            raw=self.raw,
        )


def digest(chunks: Iterable[bytes], size: int, *, keep: bool) -> Digest:
    """Hash what is read piece by piece; `size` is the whole length, which git's header needs."""
    git = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    plain = hashlib.sha1(usedforsecurity=False)
    held: list[bytes] = []
    for chunk in chunks:
        git.update(chunk)
        plain.update(chunk)
        if keep:
            held.append(chunk)
    return Digest(git.hexdigest(), plain.hexdigest(), b"".join(held) if keep else None)


def content_id(chunks: Iterable[bytes], size: int) -> str:
    """Git's blob hash alone."""
    git = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    for chunk in chunks:
        git.update(chunk)
    return git.hexdigest()
