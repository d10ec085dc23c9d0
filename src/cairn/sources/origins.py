"""From what a user names to records: a directory, a checkout, an archive, or installed Python."""

import hashlib
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pyarrow as pa

from cairn.base import UserError
from cairn.sources import archive as archives
from cairn.sources import checkout, directory, installed
from cairn.sources.record import Origin, SourceFile, path_text, to_batch
from cairn.sources.swhid import SUBMODULE, content_hash, tree_hash

MAX_BYTES = 10 * 2**20  # StarCoder2 (arXiv 2402.19173), section 2.1, taken as uncompressed
BATCH_BYTES = 4 * 2**20
BATCH_FILES = 500


def read_origin(
    spec: str, *, exclude: tuple[str, ...] = (), max_bytes: int = MAX_BYTES
) -> Iterator[SourceFile]:
    """The files of one origin, in the order of their paths (of an archive: its own order).

    `spec` is a path (checkout, directory or archive; which one is found out), `python:stdlib`, or
    `python:NAME` for an installed distribution. Files whose path matches a pattern of `exclude`
    count for the directory's identifier but are not given; of files over `max_bytes` the bytes are
    not given. UserError for anything that cannot be read whole.
    """
    files = _open(spec, max_bytes)
    return (file for file in files if not any(fnmatchcase(file.path, p) for p in exclude))


def read_batches(
    spec: str, *, exclude: tuple[str, ...] = (), max_bytes: int = MAX_BYTES
) -> Iterator[pa.RecordBatch]:
    """`read_origin` as batches of SOURCE_SCHEMA, of about 4 MiB or 500 files."""
    held: list[SourceFile] = []
    size = 0
    for file in read_origin(spec, exclude=exclude, max_bytes=max_bytes):
        held.append(file)
        size += len(file.raw or b"")
        if size >= BATCH_BYTES or len(held) >= BATCH_FILES:
            yield to_batch(held)
            held, size = [], 0
    if held:
        yield to_batch(held)


def _open(spec: str, max_bytes: int) -> Iterator[SourceFile]:
    if spec.startswith(installed.SCHEME):
        name = spec.removeprefix(installed.SCHEME)
        standard = name == installed.STDLIB
        found = installed.standard_library() if standard else installed.distribution(name)
        return _from_disk(*found, max_bytes)
    path = Path(spec).expanduser()
    if not path.exists():
        raise UserError("source", spec, "does not exist", "give a path that does")
    if path.is_dir():
        if checkout.is_checkout(path):
            return _from_checkout(path, max_bytes)
        whole = path.resolve()
        return _from_disk(whole.name, whole.as_uri(), list(directory.walk(whole)), max_bytes)
    if path.is_file() and archives.is_archive(path):
        return _from_archive(path, max_bytes)
    raise UserError("source", spec, "is neither a directory nor an archive", "give one of them")


def _from_disk(
    repository: str, url: str, found: list[directory.Found], max_bytes: int
) -> Iterator[SourceFile]:
    hashes = {one.path: content_hash(directory.read(one)) for one in found}
    tree = tree_hash((one.path, one.mode, hashes[one.path]) for one in found)
    origin = Origin(repo_name=repository, origin_url=url, directory_id=tree)
    for one in found:
        file = _record(origin, one.path, one.mode, directory.read(one), max_bytes)
        if file.content_id != hashes[one.path]:
            raise UserError(f"source {url}: {file.path} changed while it was read: read it again")
        yield file


def _from_checkout(path: Path, max_bytes: int) -> Iterator[SourceFile]:
    repository, origin, tree = checkout.open_checkout(path)
    with repository:
        for inside, mode, identifier in checkout.walk_tree(repository, tree):
            if mode != SUBMODULE:
                raw = checkout.read_blob(repository, identifier)
                yield _record(origin, inside, mode, raw, max_bytes)


def _from_archive(path: Path, max_bytes: int) -> Iterator[SourceFile]:
    with archives.open_archive(path) as archive:
        entries = []
        for member in archive.members:
            found, _, _ = _hash_member(archive, member, keep=False)
            entries.append((member.path, member.mode, found))
        name = path.name
        for ending in (".gz", ".bz2", ".xz", ".tar", ".tgz", ".tbz2", ".txz", ".zip", ".whl"):
            name = name.removesuffix(ending)
        url = path.resolve().as_uri()
        origin = Origin(repo_name=name, origin_url=url, directory_id=tree_hash(entries))
        for member in archive.members:
            keep = member.size <= max_bytes
            found, plain, raw = _hash_member(archive, member, keep=keep)
            yield SourceFile(
                origin=origin,
                path=path_text(member.path),
                content_id=found,
                blob_id=plain,
                mode=member.mode,
                length_bytes=member.size,
                raw=raw,
            )


def _hash_member(
    archive: archives.Archive, member: archives.Member, *, keep: bool
) -> tuple[str, str, bytes | None]:
    """(git's blob hash, plain SHA-1, the bytes if kept), without ever holding a large member."""
    header = b"blob %d\0" % member.size
    git = hashlib.sha1(header, usedforsecurity=False)
    plain = hashlib.sha1(usedforsecurity=False)
    held: list[bytes] = []
    for chunk in archive.chunks(member):
        git.update(chunk)
        plain.update(chunk)
        if keep:
            held.append(chunk)
    return git.hexdigest(), plain.hexdigest(), b"".join(held) if keep else None


def _record(origin: Origin, path: bytes, mode: int, raw: bytes, max_bytes: int) -> SourceFile:
    return SourceFile(
        origin=origin,
        path=path_text(path),
        content_id=content_hash(raw),
        blob_id=hashlib.sha1(raw, usedforsecurity=False).hexdigest(),
        mode=mode,
        length_bytes=len(raw),
        raw=raw if len(raw) <= max_bytes else None,
    )
