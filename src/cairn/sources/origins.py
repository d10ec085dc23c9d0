"""From what a user names to records: a directory, a checkout, an archive, or installed Python."""

import os
from collections.abc import Iterator
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path

import pyarrow as pa

from cairn.base import UserError
from cairn.sources import archive as archives
from cairn.sources import checkout, directory, installed
from cairn.sources.digest import Digest, digest
from cairn.sources.popularity import with_metadata
from cairn.sources.record import Origin, SourceFile, path_text, to_batch
from cairn.sources.schemes import SCHEMES, open_scheme
from cairn.sources.spec import parse
from cairn.sources.swhid import SUBMODULE, tree_hash

MAX_BYTES = 10 * 2**20  # StarCoder2 (arXiv 2402.19173), section 2.1, taken as uncompressed
BATCH_BYTES = 4 * 2**20
BATCH_FILES = 500


def read_origin(
    spec: str,
    *,
    exclude: tuple[str, ...] = (),
    max_bytes: int = MAX_BYTES,
    metadata: Path | None = None,
) -> Iterator[SourceFile]:
    """The files of one origin, in the order of their paths' bytes.

    `spec` is a path (checkout, directory or archive; which one is found out), `python:stdlib`,
    `python:NAME` for an installed distribution, or of one of SCHEMES. `metadata` is a table of what
    GH Archive tells of repositories (`events.repository_metadata`), joined by URL. Files whose path
    matches a pattern of `exclude` count for the directory's identifier but are not given; of files
    of `max_bytes` and more the bytes are not given. UserError for what cannot be read whole.
    """
    files = _open(spec, max_bytes)
    if metadata is not None:
        files = with_metadata(files, metadata)
    return (file for file in files if not any(fnmatchcase(file.path, p) for p in exclude))


def read_batches(
    spec: str,
    *,
    exclude: tuple[str, ...] = (),
    max_bytes: int = MAX_BYTES,
    max_files: int | None = None,
    metadata: Path | None = None,
    batch_bytes: int = BATCH_BYTES,
) -> Iterator[pa.RecordBatch]:
    """`read_origin` as batches of SOURCE_SCHEMA, of about `batch_bytes` or 500 files.

    Only the first `max_files` files are given; identifiers are those of the whole.
    """
    held: list[SourceFile] = []
    size = 0
    files = read_origin(spec, exclude=exclude, max_bytes=max_bytes, metadata=metadata)
    for file in islice(files, max_files):
        held.append(file)
        size += len(file.raw or b"")
        if size >= batch_bytes or len(held) >= BATCH_FILES:
            yield to_batch(held)
            held, size = [], 0
    if held:
        yield to_batch(held)


def _open(spec: str, max_bytes: int) -> Iterator[SourceFile]:
    named = parse(spec, SCHEMES)
    if named.scheme:
        return open_scheme(named, max_bytes, lambda one: _open(one, max_bytes))
    if spec.startswith(installed.SCHEME):
        name = spec.removeprefix(installed.SCHEME)
        standard = name == installed.STDLIB
        found = installed.standard_library() if standard else installed.distribution(name)
        return _from_disk(*found, max_bytes)
    path, exists = _path(spec)
    if not exists:
        raise UserError("source", spec, "does not exist", "give a path that does")
    if path.is_dir():
        if checkout.is_checkout(path):
            return _from_checkout(path, max_bytes)
        whole = path.resolve()
        name = path_text(os.fsencode(whole.name))
        return _from_disk(name, whole.as_uri(), list(directory.walk(whole)), max_bytes)
    if path.is_file() and archives.is_archive(path):
        return _from_archive(path, max_bytes)
    raise UserError("source", spec, "is neither a directory nor an archive", "give one of them")


def _path(spec: str) -> tuple[Path, bool]:
    """The path, and whether there is anything; UserError where that cannot be known."""
    if not spec:
        raise UserError("source", spec, "is empty", "give a path, `.` say, or python:stdlib")
    try:
        path = Path(spec).expanduser()
        if not path.exists():
            return path, False
        if not path.is_dir():
            path.open("rb").close()
        return path, True
    except (OSError, RuntimeError) as error:  # RuntimeError: a `~name` without a home
        problem = f"cannot be read ({getattr(error, 'strerror', None) or error})"
        raise UserError("source", spec, problem, "make it readable") from None


def _from_disk(
    repository: str, url: str, found: list[directory.Found], max_bytes: int
) -> Iterator[SourceFile]:
    digests = [digest(directory.chunks(one), one.size, keep=False) for one in found]
    pairs = list(zip(found, digests, strict=True))
    tree = tree_hash((one.path, one.mode, digested.content_id) for one, digested in pairs)
    origin = Origin(repo_name=repository, origin_url=url, directory_id=tree)
    for one, first in pairs:
        if one.size < max_bytes:
            again = digest(directory.chunks(one), one.size, keep=True)
            if again.content_id != first.content_id:
                path = path_text(one.path)
                raise UserError(f"source {url}: {path} changed while it was read: read it again")
            first = again
        yield _record(origin, one.path, one.mode, one.size, first)


def _from_checkout(path: Path, max_bytes: int) -> Iterator[SourceFile]:
    repository, origin, tree = checkout.open_checkout(path)
    with repository:
        for inside, mode, identifier in checkout.walk_tree(repository, tree):
            if mode == SUBMODULE:
                continue
            raw = checkout.read_blob(repository, identifier)
            found = digest((raw,), len(raw), keep=len(raw) < max_bytes)
            if found.content_id != identifier:
                raise UserError(f"source {path}: blob {identifier} is corrupt: run `git fsck`")
            yield _record(origin, inside, mode, len(raw), found)


def _from_archive(path: Path, max_bytes: int) -> Iterator[SourceFile]:
    with archives.open_archive(path) as archive:
        windows = archive.windows(max_bytes)
        small = [{one.path for one in window if one.size < max_bytes} for window in windows]
        found = archive.digests(archive.members, keep=small[0])
        tree = tree_hash((m.path, m.mode, found[m.path].content_id) for m in archive.members)
        name, url = path_text(os.fsencode(_stem(path.name))), path.resolve().as_uri()
        origin = Origin(repo_name=name, origin_url=url, directory_id=tree)
        for number, (window, wanted) in enumerate(zip(windows, small, strict=True)):
            if number:
                again = archive.digests([one for one in window if one.path in wanted], keep=wanted)
                if any(one.content_id != found[inside].content_id for inside, one in again.items()):
                    raise UserError(f"archive {path} changed while it was read: read it again")
                found |= again
            for one in window:  # pop: what was given need not be held
                yield _record(origin, one.path, one.mode, one.size, found.pop(one.path))


def _stem(name: str) -> str:
    for ending in (".gz", ".bz2", ".xz", ".tar", ".tgz", ".tbz2", ".txz", ".zip", ".whl"):
        name = name.removesuffix(ending)
    return name


def _record(origin: Origin, path: bytes, mode: int, size: int, found: Digest) -> SourceFile:
    return SourceFile(
        origin=origin,
        path=path_text(path),
        content_id=found.content_id,
        blob_id=found.blob_id,
        mode=mode,
        length_bytes=size,
        raw=found.raw,
    )
