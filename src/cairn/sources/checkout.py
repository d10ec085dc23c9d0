"""A git repository, bare or not: the tree of a commit, read without checking out.

Of a damaged repository what is whole is read: every object is held against its name.
"""

import hashlib
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from traceback import clear_frames
from typing import Any

from dulwich.config import ConfigFile
from dulwich.errors import ApplyDeltaError, ChecksumMismatch, FileFormatException, NotGitRepository
from dulwich.objects import Commit, ObjectID, ShaFile, Tag, parse_tree
from dulwich.pack import UnresolvedDeltas
from dulwich.refs import Ref, SymrefLoop
from dulwich.repo import Repo, UnsupportedExtension, UnsupportedVersion

from cairn.base import UserError
from cairn.base.config import nearest
from cairn.sources.damage import Damaged, told, unreadable, whole
from cairn.sources.digest import Digest
from cairn.sources.record import (
    EXECUTABLE,
    LINK,
    MOST_FILES,
    MOST_NAMES,
    REGULAR,
    Origin,
    SourceFile,
    path_text,
)
from cairn.sources.remote import path_name, public_url
from cairn.sources.swhid import DIRECTORY, SUBMODULE, object_hash

OPTIONS = ("branch",)
MODES = {LINK: LINK, SUBMODULE: SUBMODULE, DIRECTORY: DIRECTORY}
MOST_BYTES = 16 * 2**30  # of all files together: a blob may be named millions of times
PLACES = (b"refs/heads/", b"refs/tags/", b"refs/remotes/origin/", b"")  # of a branch's short name
MOST_PATH = 4096  # bytes: Linux takes no more
MOST_TAGS = 10  # a tag of a tag of a tag, and so on
CORRUPT = (
    ApplyDeltaError,
    ChecksumMismatch,
    UnresolvedDeltas,
    FileFormatException,
    NotGitRepository,
    SymrefLoop,
    LookupError,  # an object that is not there: a partial clone, or a broken one
    OSError,
    ValueError,
    TypeError,  # parsers of what is no object
    AssertionError,
    ArithmeticError,
    AttributeError,
    EOFError,
    MemoryError,
    RecursionError,
    struct.error,
    zlib.error,
)


class _Repository(Repo):
    """A repository whose configuration is its own file and nothing that this file includes.

    It may be a stranger's: an include can name any file of this machine, or a device without end.
    """

    def get_config(self) -> ConfigFile:
        path = Path(self.commondir()) / "config"
        if not path.exists():
            return ConfigFile()
        return ConfigFile.from_path(str(path), expand_includes=False)


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Damaged that names `what` for whatever a damaged repository raises."""
    try:
        yield
    except UserError:
        raise
    except CORRUPT as error:
        clear_frames(error.__traceback__)  # they hold views of packs, which could not be closed
        said = type(error).__name__ if isinstance(error, KeyError) else told(error)
        raise Damaged(f"{what} is missing or corrupt ({said})") from None


def is_checkout(path: Path) -> bool:
    """Whether git would find a repository exactly here."""
    try:
        if (path / ".git").exists():
            return True
        return (
            (path / "HEAD").is_file() and (path / "objects").is_dir() and (path / "refs").is_dir()
        )
    except OSError:  # a folder that may not be looked into
        return False


def check(path: Path, branch: str | None = None) -> None:
    """UserError for a repository without a commit, without `branch`, or of SHA-256 names.

    Only references are read. Damage is no mistake of the user's: `read` tells of it.
    """
    try:
        with _open(path) as repository:
            _revision(repository, path, branch)
    except Damaged:
        pass


def read(path: Path, max_bytes: int, branch: str | None = None) -> Iterator[SourceFile]:
    """Records of the files of HEAD's commit, or of a branch's or tag's, in the order of paths.

    A blob or folder that is missing or corrupt is a record with a problem. Where the commit itself
    is, nothing can be read: one record with an empty path.
    """
    own = path_text(os.fsencode(path.resolve().name.removesuffix(".git")))
    try:
        with _open(path) as repository:
            with reading("its configuration"):
                url = _remote(repository)
            name, url = path_name(url) or own, url or path.resolve().as_uri()
            yield from read_revision(repository, *_revision(repository, path, branch), name, url,
                                     max_bytes)  # fmt: skip
    except Damaged as error:
        yield whole(own, path.resolve().as_uri(), f"git repository {own}: {error}")


@contextmanager
def _open(path: Path) -> Iterator[Repo]:
    try:
        with reading("the repository"):
            repository = _Repository(str(path))
    except (UnsupportedVersion, UnsupportedExtension) as error:
        problem = f"has a repository format that is not known here ({error})"
        raise UserError("source", str(path), problem, "give an archive of it") from None
    with repository:
        if repository.object_format.name != "sha1":
            raise sha256(str(path))
        yield repository


def sha256(source: str) -> UserError:
    """The mistake of giving a repository whose names are no SWHIDs."""
    return UserError("source", source, "has SHA-256 names, which are no SWHIDs", "give an archive")


def _revision(repository: Repo, path: Path, branch: str | None) -> tuple[bytes, str | None]:
    """(commit or tag, full name of its branch); UserError where there is none."""
    with reading("its list of references"):
        refs = repository.refs
        every: dict[Ref, ObjectID] = {}
        if branch is None:
            chain, found = refs.follow(Ref(b"HEAD"))
            name = chain[-1] if len(chain) > 1 else None  # None: detached
            if found is None and (name is None or refs.read_loose_ref(Ref(name)) is not None):
                raise ValueError(f"{path_text(name or b'HEAD')} is empty")
        else:
            asked = branch.encode("utf-8", "surrogateescape")
            tried = (place + asked for place in PLACES if place or asked.startswith(b"refs/"))
            every = refs.as_dict()
            name = next((one for one in tried if one in every), None)
            found = every[Ref(name)] if name is not None else None
    if found is None and branch is None:
        mend = "commit something, name a branch with git:PATH?branch=NAME, or give a plain folder"
        raise UserError("source", str(path), "has no commit at HEAD", mend)
    if found is None:
        known = [path_text(one.removeprefix(place)) for one in every for place in PLACES[:2]
                 if one.startswith(place)]  # fmt: skip
        raise UserError(
            "source", str(path), f"has no branch {branch!r}", nearest(branch or "", known)
        )
    if len(found) != 40 or found.strip(b"0123456789abcdef"):
        raise Damaged(f"its reference {path_text(name or b'HEAD')} is no object's name")
    return found, None if name is None else path_text(name)


def read_revision(
    repository: Repo, revision: bytes, branch: str | None, name: str, url: str, max_bytes: int
) -> Iterator[SourceFile]:
    """`read` of an open repository: the files of a commit, or of the commit that a tag names."""
    commit = _commit(repository, revision)
    origin = Origin(
        repo_name=name,
        origin_url=url,
        directory_id=commit.tree.decode("ascii"),
        revision_id=commit.id.decode("ascii"),
        branch_name=branch,
        revision_date=_date(commit.author_time),
        committer_date=_date(commit.commit_time),
    )
    left = MOST_BYTES
    for inside, mode, identifier, problem in _walk(repository, commit.tree):
        if mode == SUBMODULE:
            continue
        raw = b""
        try:
            if problem is not None:
                raise Damaged(problem)
            if left <= 0:
                raise Damaged(f"stands behind {MOST_BYTES:,} bytes of other files")
            raw = _object(repository, "blob", identifier)
            left -= len(raw)
        except Damaged as error:
            known = identifier if mode != DIRECTORY else ""
            yield unreadable(origin, str(error), inside, mode=mode, content_id=known)
            continue
        plain = hashlib.sha1(raw, usedforsecurity=False).hexdigest()
        found = Digest(identifier, plain, raw if len(raw) < max_bytes else None)
        yield found.record(origin, inside, mode, len(raw))


def _commit(repository: Repo, revision: bytes) -> Commit:
    """The commit itself; what a tag names, looked for a few tags deep."""
    for _ in range(MOST_TAGS):
        what = f"commit {revision.decode('ascii')}"
        with reading(what):
            kind, raw = repository.object_store.get_raw(ObjectID(revision))
            found = ShaFile.from_raw_string(kind, raw)
            if not isinstance(found, Commit | Tag):
                raise ValueError("it is no commit")
            if found.id != revision:
                raise ValueError("its bytes are another's")
            if isinstance(found, Commit):
                _ = found.tree, found.author_time, found.commit_time  # parsed here, or never
                return found
            revision = found.object[1]
    raise Damaged(f"a tag leads through more than {MOST_TAGS} others")


def _walk(repository: Repo, tree: bytes) -> Iterator[tuple[bytes, int, str, str | None]]:
    """(path, mode, hash, problem) of all files, links and submodules, sorted by path.

    A folder that cannot be read, or that names paths too long to be any, stands for what is in
    it. Damaged past MOST_FILES or MOST_NAMES: a few trees that hold each other many times over
    name billions.
    """
    found: list[tuple[bytes, int, str, str | None]] = []
    pending = [(b"", tree.decode("ascii"))]
    seen = size = 0
    while pending:
        inside, identifier = pending.pop()
        seen += 1
        if size > MOST_NAMES:
            raise Damaged(f"has names of more than {MOST_NAMES:,} bytes")
        if len(pending) + len(found) + seen > MOST_FILES:
            raise Damaged(f"has more than {MOST_FILES:,} files and folders")
        try:
            entries = _entries(repository, identifier)
            longest = len(inside) + 1 + max((len(name) for name, _, _ in entries), default=0)
            if longest > MOST_PATH:
                raise Damaged(f"tree {identifier} has a path of {longest:,} bytes")
        except Damaged as error:
            found.append((inside, DIRECTORY, identifier, str(error)))
            continue
        for name, mode, below in entries:
            path = inside + b"/" + name if inside else name
            size += len(path)
            if mode == DIRECTORY:
                pending.append((path, below))
            else:
                found.append((path, mode, below, None))
    yield from sorted(found)


def _entries(repository: Repo, identifier: str) -> list[tuple[bytes, int, str]]:
    raw = _object(repository, "tree", identifier)
    with reading(f"tree {identifier}"):
        entries = [
            (name, MODES.get(mode, EXECUTABLE if mode & 0o100 else REGULAR), sha.decode("ascii"))
            for name, mode, sha in parse_tree(raw, 20)
        ]
        names = {name for name, _, _ in entries}
        if len(names) < len(entries) or names & {b"", b".", b".."}:
            raise ValueError("it has a name twice, or one that is none")
        if any(b"/" in name for name in names):
            raise ValueError("it has a name with a slash")
    return entries


def _object(repository: Repo, kind: str, identifier: str) -> bytes:
    """An object's bytes, which have its name; Damaged where they are missing or others."""
    with reading(f"{kind} {identifier}"):
        _, raw = repository.object_store.get_raw(ObjectID(identifier.encode("ascii")))
        if object_hash(kind, raw) != identifier:
            raise ValueError("its bytes are another's")
    return raw


def _date(seconds: int) -> str | None:
    """None for a time that is no date: git takes any number, and such commits exist."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return None


def _remote(repository: Repo) -> str | None:
    """The URL of `origin`, or of the first remote, without credentials."""
    config: Any = repository.get_config()  # not the reader's own, which is no part of the origin
    remotes = (section for section in config.sections() if section[0] == b"remote")
    names = [section[1] for section in remotes if len(section) > 1]
    for name in sorted(names, key=lambda one: (one != b"origin", one)):
        try:
            url = config.get((b"remote", name), b"url").decode("utf-8", "replace")
        except KeyError:
            continue
        return public_url(url)
    return None
