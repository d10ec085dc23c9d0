"""Python's standard library, and installed distributions with their licence files."""

import importlib.metadata
import json
import os
import re
import stat
import sysconfig
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import Distribution
from pathlib import Path, PurePosixPath

from cairn.base import UserError
from cairn.base.config import nearest
from cairn.sources.damage import Damaged, told
from cairn.sources.directory import Found, chunks, walk
from cairn.sources.record import EXECUTABLE, LINK, REGULAR
from cairn.sources.remote import forge_name, public_url

SCHEME = "python:"
STDLIB = "stdlib"
SKIPPED = frozenset({b"__pycache__", b"site-packages", b"dist-packages"})
METADATA = "METADATA"  # the rest is what pip writes while it installs, and differs by machine
LICENCES = ("LICEN", "COPYING", "COPYRIGHT", "UNLICENSE", "NOTICE", "AUTHORS")
# Labels as PyPI compares them: letters and digits only, in lower case.
LABELS = ("source", "sourcecode", "repository", "code", "github", "homepage", "home")


def standard_library() -> tuple[str, str, list[Found]]:
    """(repository, origin URL, files) of this interpreter's standard library."""
    root = Path(sysconfig.get_paths()["stdlib"])
    return "python/cpython", "https://github.com/python/cpython", list(walk(root, SKIPPED))


def distribution(name: str) -> tuple[str, str, list[Found]]:
    """(repository, origin URL, files) of an installed distribution.

    Licence files from `*.dist-info` (and `licenses/` in it) stand at the root, where they hold for
    everything below, as they do in the project's own repository. UserError for an unknown one and
    one that is installed in editable mode; a file that is not there has a problem.
    """
    try:
        found = importlib.metadata.distribution(name)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        known = sorted({str(d.metadata["Name"]) for d in importlib.metadata.distributions()})
        raise UserError("source", SCHEME + name, "is not installed", nearest(name, known)) from None
    _refuse_editable(name, found)
    files: dict[bytes, Found] = {}
    for one in _files(found):
        _add(files, one)
    if not files:
        raise UserError("source", SCHEME + name, "lists no files", "install it from a wheel")
    repository, url = _origin(found, found.metadata["Name"] or name)
    return repository, url, [files[path] for path in sorted(files)]


def _refuse_editable(name: str, found: Distribution) -> None:
    """Its list of files holds a pointer to a folder, and none of what is in there."""
    try:
        told = json.loads(found.read_text("direct_url.json") or "{}")
        editable = told.get("dir_info", {}).get("editable", False)
    except (ValueError, AttributeError):  # pip's note is not needed for anything else
        return
    if editable:
        raise UserError("source", SCHEME + name, "is installed in editable mode", "give its folder")


def _files(found: Distribution) -> Iterator[Found]:
    declared = frozenset(found.metadata.get_all("License-File") or ())
    for listed in sorted(found.files or (), key=str):
        parts = PurePosixPath(listed).parts
        outside = listed.is_absolute() or ".." in parts  # scripts, and what a list could point at
        if outside or "__pycache__" in parts or listed.suffix == ".pyc":
            continue
        inside = _place(parts, declared)
        if inside is None:
            continue
        where = Path(str(listed.locate()))
        try:
            state = where.lstat()
        except OSError as error:
            problem = f"is listed and cannot be read ({told(error)})"
            yield Found(*_placed(where), os.fsencode(inside), REGULAR, 0, problem)
            continue
        if stat.S_ISLNK(state.st_mode):
            mode = LINK
        elif stat.S_ISREG(state.st_mode):
            mode = EXECUTABLE if state.st_mode & stat.S_IXUSR else REGULAR
        else:
            continue
        yield Found(*_placed(where), os.fsencode(inside), mode, state.st_size)


def _placed(where: Path) -> tuple[bytes, bytes]:
    return os.fsencode(where.parent), os.fsencode(where.name)


def _add(files: dict[bytes, Found], one: Found) -> None:
    """Under its path, or where another file has that, under the next free one.

    A licence from dist-info may meet a file of the same name: both hold, so neither may be lost.
    """
    path, number = one.path, 2
    while path in files and not _same(files[path], one):
        path = one.path + b".%d" % number
        number += 1
    files.setdefault(path, replace(one, path=path))


def _same(one: Found, other: Found) -> bool:
    if one.problem or other.problem or one.size != other.size:
        return False
    try:
        return b"".join(chunks(one)) == b"".join(chunks(other))
    except Damaged:  # told where it is read
        return False


def _place(parts: tuple[str, ...], declared: frozenset[str]) -> str | None:
    """The path in the repository; None for the installer's own notes."""
    if not parts[0].endswith((".dist-info", ".egg-info")):
        return "/".join(parts)
    rest = parts[1:]
    if rest and rest[0] in {"licenses", "license_files"} and len(rest) > 1:
        return "/".join(rest[1:])
    upper = rest[-1].upper() if rest else ""
    if upper.startswith(LICENCES) or "/".join(rest) in declared:
        return "/".join(rest)
    return "/".join(parts) if rest == (METADATA,) else None


def _origin(found: Distribution, name: str) -> tuple[str, str]:
    """(repository, URL): on a forge where the metadata name one, else the first that it names."""
    labelled: dict[str, str] = {}
    for line in found.metadata.get_all("Project-URL") or ():
        label, _, url = line.partition(",")
        labelled.setdefault(re.sub(r"[^a-z0-9]", "", label.lower()), url)
    labelled.setdefault("home", found.metadata["Home-page"] or "")
    given = (public_url(labelled[label]) for label in LABELS if labelled.get(label))
    urls = [url for url in given if url and url.startswith(("https://", "http://"))]
    for url in urls:
        forge = forge_name(url)
        if forge:  # a folder in a repository is not its origin
            return forge, "/".join((*url.split("/")[:3], forge))
    return f"pypi/{name}", urls[0] if urls else f"https://pypi.org/project/{name}/"
