"""A git repository, bare or not: the tree of HEAD's commit, read without checking out."""

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dulwich.config import ConfigFile
from dulwich.errors import ChecksumMismatch, FileFormatException, NotGitRepository
from dulwich.objects import Commit, Tree
from dulwich.refs import Ref, SymrefLoop
from dulwich.repo import Repo, UnsupportedExtension, UnsupportedVersion

from cairn.base import UserError
from cairn.sources.record import EXECUTABLE, LINK, MOST_FILES, REGULAR, Origin, path_text
from cairn.sources.remote import path_name, public_url
from cairn.sources.swhid import SUBMODULE

MODES = {LINK: LINK, SUBMODULE: SUBMODULE}
CORRUPT = (
    ChecksumMismatch,
    FileFormatException,
    KeyError,  # an object that is not there: a partial clone, or a broken one
    OSError,
    ValueError,
    AssertionError,
    EOFError,
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
def _reading(repository: Repo, what: str) -> Iterator[None]:
    """UserError that names `what` for whatever a damaged repository raises."""
    try:
        yield
    except UserError:
        raise
    except CORRUPT as error:
        said = str(error) or type(error).__name__
        problem = f"{what} is missing or corrupt ({said})"
        raise UserError("source", repository.path, problem, "run `git fsck`") from None


def is_checkout(path: Path) -> bool:
    """Whether git would find a repository exactly here."""
    if (path / ".git").exists():
        return True
    return (path / "HEAD").is_file() and (path / "objects").is_dir() and (path / "refs").is_dir()


def open_checkout(path: Path) -> tuple[Repo, Origin, str]:
    """The repository, what its files share, and the id of HEAD's tree.

    UserError for a damaged repository, or one without a commit.
    """
    try:
        repository = _Repository(str(path))
    except (UnsupportedVersion, UnsupportedExtension) as error:
        problem = f"has a repository format that is not known here ({error})"
        raise UserError("source", str(path), problem, "give an archive of it") from None
    except (NotGitRepository, OSError, ValueError) as error:
        raise UserError("source", str(path), f"is no git repository ({error})", "mend it") from None
    head = _head(repository, path)
    with _reading(repository, f"commit {head.decode('ascii', 'replace')}"):
        commit = repository[head]
    if not isinstance(commit, Commit):
        raise UserError("source", str(path), "has a HEAD that is no commit", "check one out")
    with _reading(repository, "its configuration"):
        url = _remote(repository)
    own = path_text(os.fsencode(path.resolve().name.removesuffix(".git")))
    origin = Origin(
        repo_name=path_name(url) or own,
        origin_url=url or path.resolve().as_uri(),
        directory_id=commit.tree.decode("ascii"),
        revision_id=head.decode("ascii"),
        branch_name=_branch(repository),
        revision_date=_date(commit.author_time),
        committer_date=_date(commit.commit_time),
    )
    return repository, origin, origin.directory_id


def _head(repository: Repo, path: Path) -> bytes:
    try:
        head = repository.head()
    except (KeyError, ValueError, OSError, SymrefLoop):
        mend = "commit something, or give a plain directory"
        raise UserError("source", str(path), "has no commit at HEAD", mend) from None
    if len(head) == 64:
        mend = "give an archive of it"
        raise UserError("source", str(path), "has SHA-256 names, which are no SWHIDs", mend)
    if len(head) != 40:
        raise UserError("source", str(path), f"has a HEAD that is damaged ({head!r})", "mend it")
    return head


def walk_tree(repository: Repo, tree: str) -> Iterator[tuple[bytes, int, str]]:
    """(path, mode, hash) of all files, links and submodules, sorted by path.

    UserError past MOST_FILES: a few trees that hold each other many times over name billions.
    """
    found: list[tuple[bytes, int, str]] = []
    pending = [(b"", tree.encode("ascii"))]
    seen = 0
    while pending:
        inside, identifier = pending.pop()
        seen += 1
        if len(pending) + len(found) + seen > MOST_FILES:
            problem = f"has more than {MOST_FILES:,} files and folders at HEAD"
            raise UserError("source", repository.path, problem, "give parts of it")
        with _reading(repository, f"tree {identifier.decode('ascii')}"):
            here = repository[identifier]
            if not isinstance(here, Tree):
                raise ValueError("it is no tree")
            entries = here.items()
        for entry in entries:
            path = inside + b"/" + entry.path if inside else entry.path
            if entry.mode == 0o040000:
                pending.append((path, entry.sha))
            else:
                executable = entry.mode & 0o100
                mode = MODES.get(entry.mode, EXECUTABLE if executable else REGULAR)
                found.append((path, mode, entry.sha.decode("ascii")))
    yield from sorted(found)


def read_blob(repository: Repo, identifier: str) -> bytes:
    """A blob's bytes; UserError where the repository lacks it."""
    with _reading(repository, f"blob {identifier}"):
        return repository[identifier.encode("ascii")].as_raw_string()


def _date(seconds: int) -> str | None:
    """None for a time that is no date: git takes any number, and such commits exist."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return None


def _branch(repository: Repo) -> str | None:
    try:
        chain, _ = repository.refs.follow(Ref(b"HEAD"))
    except (KeyError, SymrefLoop):
        return None
    return chain[-1].decode("utf-8", "replace") if len(chain) > 1 else None  # None: detached


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
