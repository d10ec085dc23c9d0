"""From what a user names to records: a directory, a checkout, an archive, or installed Python."""

import os
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path

import pyarrow as pa

from cairn.base import UserError
from cairn.sources import archive as archives
from cairn.sources import bundle, checkout, debian, directory, installed, packed
from cairn.sources.damage import told, whole
from cairn.sources.popularity import with_metadata
from cairn.sources.record import SourceFile, path_text, to_batch
from cairn.sources.schemes import SCHEMES, open_scheme
from cairn.sources.spec import parse

MAX_BYTES = 10 * 2**20  # StarCoder2 (arXiv 2402.19173), section 2.1, taken as uncompressed
BATCH_BYTES = 4 * 2**20
BATCH_FILES = 500
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:(?://)?", re.IGNORECASE)


def read_origin(
    spec: str,
    *,
    exclude: tuple[str, ...] = (),
    max_bytes: int = MAX_BYTES,
    metadata: Path | None = None,
) -> Iterator[SourceFile]:
    """The files of one origin, in the order of their paths' bytes.

    `spec` is a path (checkout, git bundle, directory, archive or Debian's `.dsc`: which
    one is found out), `python:stdlib`,
    `python:NAME` for an installed distribution, or of one of SCHEMES. `metadata` is a table of what
    GH Archive tells of repositories (`events.repository_metadata`), joined by URL; of a graph
    export it also says which branch is the default. Files whose path
    matches a pattern of `exclude` count for the directory's identifier but are not given; of files
    of `max_bytes` and more the bytes are not given.

    UserError, at once, for a mistake of the user's (see `check`). Whatever is damaged is a record
    with a problem, and reading goes on.
    """
    files = _open(spec, max_bytes, metadata)
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


def check(spec: str) -> None:
    """UserError for a source that does not exist, is of no known kind, or has unknown options.

    Nothing of its contents is read.
    """
    _open(spec, MAX_BYTES)


def _open(spec: str, max_bytes: int, metadata: Path | None = None) -> Iterator[SourceFile]:
    named = parse(spec, SCHEMES)
    if named.scheme:
        return open_scheme(named, max_bytes, lambda one: _open(one, max_bytes, metadata), metadata)
    if spec.startswith(installed.SCHEME):
        name = spec.removeprefix(installed.SCHEME)
        return _installed(name, max_bytes)
    path = _path(spec)
    if path.is_dir():
        if checkout.is_checkout(path):
            checkout.check(path)
            return checkout.read(path, max_bytes)
        return _directory(path.resolve(), max_bytes)
    if path.is_file():
        try:
            if bundle.is_bundle(path):
                bundle.check(path)
                return bundle.read(path, max_bytes)
            if debian.is_dsc(path):
                return debian.read(path, max_bytes)
            if archives.is_archive(path):
                return packed.read(path, max_bytes)
        except OSError as error:
            name = path_text(os.fsencode(path.name))
            return iter([whole(name, path.resolve().as_uri(), f"cannot be read ({told(error)})")])
    raise UserError("source", spec, "is neither a directory nor an archive", "give one of them")


def _installed(name: str, max_bytes: int) -> Iterator[SourceFile]:
    standard = name == installed.STDLIB
    found = installed.standard_library() if standard else installed.distribution(name)
    return directory.read(*found, max_bytes)


def _directory(root: Path, max_bytes: int) -> Iterator[SourceFile]:
    name = path_text(os.fsencode(root.name))
    return directory.read(name, root.as_uri(), directory.walk(root), max_bytes)


def _path(spec: str) -> Path:
    """The path, where something lies; UserError where nothing does."""
    if not spec:
        raise UserError("source", spec, "is empty", "give a path, `.` say, or python:stdlib")
    try:
        path = Path(spec).expanduser()
        if path.exists():
            return path
    except (OSError, RuntimeError, ValueError) as error:  # a `~name` without a home; a NUL
        raise UserError("source", spec, f"cannot be a path ({told(error)})", "mend it") from None
    scheme = _SCHEME.match(spec)
    if scheme and scheme[0].endswith("//"):
        problem = "is a URL, and nothing is fetched from one"
        raise UserError("source", spec, problem, "clone or download it first")
    if scheme:
        known = ", ".join(sorted([*SCHEMES, installed.SCHEME.rstrip(":")]))
        problem = f"does not exist, and {scheme[0]} is no scheme"
        raise UserError("source", spec, problem, f"known: {known}")
    raise UserError("source", spec, "does not exist", "give a path that does")
