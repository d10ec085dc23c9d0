"""A git bundle: references and a pack in one file, which no checkout is needed to read."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from dulwich.pack import PackData
from dulwich.repo import Repo

from cairn.base import UserError
from cairn.base.config import nearest
from cairn.sources import checkout
from cairn.sources.checkout import PLACES, read_revision, reading, sha256
from cairn.sources.damage import Damaged, told, whole
from cairn.sources.record import SourceFile, path_text
from cairn.sources.spec import Spec

MAGIC = (b"# v2 git bundle\n", b"# v3 git bundle\n")
MOST_LINE, MOST_LINES = 2**16, 10**6
CHUNK = 2**20
FIRST = (b"refs/heads/main", b"refs/heads/master")  # what HEAD most often names; else by name


@dataclass
class _Header:
    """What stands before the pack: references by full name, and how many commits it needs."""

    references: dict[bytes, bytes] = field(default_factory=dict)
    needed: int = 0
    is_sha256: bool = False


def open_git(spec: Spec, max_bytes: int) -> Iterator[SourceFile]:
    """Records of `git:PATH?branch=NAME`: a repository, bare or not, or a bundle.

    UserError, at once, where PATH is neither, or has no such branch.
    """
    path, branch = Path(spec.path).expanduser(), spec.options.get("branch")
    if path.is_dir() and checkout.is_checkout(path):
        checkout.check(path, branch)
        return checkout.read(path, max_bytes, branch)
    if path.is_file():
        check(path, branch)
        return read(path, max_bytes, branch)
    problem = "is no git repository" if path.exists() else "does not exist"
    raise UserError("source", spec.text, problem, "give a repository or a bundle")


def is_bundle(path: Path) -> bool:
    """Whether a file is a bundle, or is named as one."""
    if path.suffix == ".bundle":
        return True
    with path.open("rb") as file:
        return file.readline(len(MAGIC[0])) in MAGIC


def check(path: Path, branch: str | None = None) -> None:
    """UserError for a bundle that does not hold `branch`, or is of SHA-256 names."""
    try:
        with path.open("rb") as file:
            header = _header(file)
    except (Damaged, OSError):
        return  # told by `read`
    if header.is_sha256:
        raise sha256(str(path))
    if _revision(header, branch) is None:
        known = [path_text(name) for name in header.references]
        problem = "holds no HEAD and several branches" if branch is None else "has no such branch"
        mend = nearest(branch or "", known) or f"known: {', '.join(sorted(known)) or 'none'}"
        raise UserError("source", str(path), problem, f"name one with ?branch=NAME; {mend}")


def read(path: Path, max_bytes: int, branch: str | None = None) -> Iterator[SourceFile]:
    """Records of the files of a bundle's HEAD, or of a branch or tag; see `checkout.read`.

    Its pack is copied to the temporary folder and indexed there.
    """
    name, url = path_text(os.fsencode(path.name)), path.resolve().as_uri()
    own = name.removesuffix(".bundle")
    try:
        with TemporaryDirectory(prefix="cairn-bundle-") as folder:
            with path.open("rb") as file:
                header = _header(file)
                if header.needed:
                    raise Damaged(f"needs {header.needed:,} commits that are not in it")
                repository = _unpack(file, Path(folder))
            found = _revision(header, branch)
            if found is None:
                raise Damaged("its references are others than before")
            with repository:
                yield from read_revision(repository, *found, own, url, max_bytes)
    except Damaged as error:
        yield whole(own, url, f"bundle {name}: {error}")
    except OSError as error:
        yield whole(own, url, f"bundle {name}: cannot be read ({told(error)})")


def _header(file: IO[bytes]) -> _Header:
    if file.readline(len(MAGIC[0])) not in MAGIC:
        raise Damaged("does not begin as a bundle")
    header = _Header()
    for _ in range(MOST_LINES):
        line = file.readline(MOST_LINE)
        if line == b"\n":
            return header
        if not line.endswith(b"\n"):
            break
        if line.startswith(b"@"):
            header.is_sha256 |= line == b"@object-format=sha256\n"
        elif line.startswith(b"-"):
            header.needed += 1
        else:
            identifier, _, name = line[:-1].partition(b" ")
            length = 64 if header.is_sha256 else 40
            if len(identifier) != length or identifier.strip(b"0123456789abcdef"):
                raise Damaged("has a damaged list of references")
            header.references[name] = identifier
    raise Damaged("has a list of references that does not end")


def _revision(header: _Header, branch: str | None) -> tuple[bytes, str | None] | None:
    """(commit or tag, full name of its branch); the branch that HEAD is at is not written down."""
    known = header.references
    if branch is not None:
        asked = branch.encode("utf-8", "surrogateescape")
        name = next((place + asked for place in PLACES if place + asked in known), None)
        return None if name is None else (known[name], path_text(name))
    heads = [one for one in known if one.startswith(PLACES[0])]
    head = known.get(b"HEAD")
    if head is not None:
        heads = [one for one in heads if known[one] == head]
        heads.sort(key=lambda one: (one not in FIRST, one))
        return head, path_text(heads[0]) if heads else None
    return (known[heads[0]], path_text(heads[0])) if len(heads) == 1 else None


def _unpack(file: IO[bytes], folder: Path) -> Repo:
    """A bare repository of the pack that `file` stands before."""
    repository = Repo.init_bare(str(folder))
    pack = folder / "objects" / "pack" / "pack-bundle.pack"
    with pack.open("wb") as copy:
        shutil.copyfileobj(file, copy, CHUNK)
    with reading("its pack"), PackData(str(pack), repository.object_format) as data:
        data.check()
        data.create_index(str(pack.with_suffix(".idx")))
    return repository
