"""A git repository, bare or not: the tree of HEAD's commit, read without checking out."""

import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dulwich.errors import ChecksumMismatch, FileFormatException, NotGitRepository
from dulwich.objects import Commit, Tree
from dulwich.refs import Ref
from dulwich.repo import Repo

from cairn.base import UserError
from cairn.sources.record import EXECUTABLE, LINK, REGULAR, Origin
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
        repository = Repo(str(path))
    except (NotGitRepository, OSError, ValueError) as error:
        raise UserError("source", str(path), f"is no git repository ({error})", "mend it") from None
    try:
        head = repository.head()
    except (KeyError, ValueError, OSError):
        mend = "commit something, or give a plain directory"
        raise UserError("source", str(path), "has no commit at HEAD", mend) from None
    if len(head) != 40:
        mend = "give an archive of it"
        raise UserError("source", str(path), "has SHA-256 names, which are no SWHIDs", mend)
    with _reading(repository, f"commit {head.decode('ascii', 'replace')}"):
        commit = repository[head]
    if not isinstance(commit, Commit):
        raise UserError("source", str(path), "has a HEAD that is no commit", "check one out")
    with _reading(repository, "its configuration"):
        url = _remote(repository)
    name = _name(url) or path.resolve().name.removesuffix(".git")
    origin = Origin(
        repo_name=name,
        origin_url=url or path.resolve().as_uri(),
        directory_id=commit.tree.decode("ascii"),
        revision_id=head.decode("ascii"),
        branch_name=_branch(repository),
        revision_date=_date(commit.author_time),
        committer_date=_date(commit.commit_time),
    )
    return repository, origin, origin.directory_id


def walk_tree(repository: Repo, tree: str) -> Iterator[tuple[bytes, int, str]]:
    """(path, mode, hash) of all files, links and submodules, sorted by path."""
    found: list[tuple[bytes, int, str]] = []
    pending = [(b"", tree.encode("ascii"))]
    while pending:
        inside, identifier = pending.pop()
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


def _date(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def _branch(repository: Repo) -> str | None:
    try:
        chain, _ = repository.refs.follow(Ref(b"HEAD"))
    except KeyError:
        return None
    return chain[-1].decode("utf-8", "replace") if len(chain) > 1 else None  # None: detached


def _remote(repository: Repo) -> str | None:
    """The URL of `origin`, or of the first remote, without credentials."""
    config: Any = repository.get_config_stack()
    remotes = (section for section in config.sections() if section[0] == b"remote")
    names = [section[1] for section in remotes if len(section) > 1]
    for name in sorted(names, key=lambda one: (one != b"origin", one)):
        try:
            url = config.get((b"remote", name), b"url").decode("utf-8", "replace")
        except KeyError:
            continue
        return public_url(url)
    return None


def public_url(url: str) -> str:
    """A remote's URL as others know it: no credentials, https for GitHub's ssh form."""
    ssh = re.fullmatch(r"(?:ssh://)?git@([^:/]+)[:/](.+?)(?:\.git)?/?", url)
    if ssh:
        return f"https://{ssh[1]}/{ssh[2]}"
    url = re.sub(r"^(https?://)[^@/]*@", r"\1", url)
    return url.removesuffix("/").removesuffix(".git") if url.startswith("http") else url


def _name(url: str | None) -> str | None:
    """owner/name of a URL on a forge."""
    found = re.fullmatch(r"https?://[^/]+/(.+)", url or "")
    return found[1] if found else None
