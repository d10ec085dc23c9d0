"""Python's standard library, and installed distributions with their licence files."""

import importlib.metadata
import sysconfig
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from cairn.base import UserError
from cairn.sources.directory import Found, walk
from cairn.sources.record import REGULAR
from cairn.sources.remote import public_url

SCHEME = "python:"
STDLIB = "stdlib"
SKIPPED = frozenset({b"__pycache__", b"site-packages", b"dist-packages"})
# What pip writes while it installs says nothing about the project, and differs by machine.
METADATA = "METADATA"
SOURCE_LABELS = ("source", "source code", "repository", "code", "github", "homepage", "home")


def standard_library() -> tuple[str, str, list[Found]]:
    """(repository, origin URL, files) of this interpreter's standard library."""
    root = Path(sysconfig.get_paths()["stdlib"])
    return "python/cpython", "https://github.com/python/cpython", list(walk(root, SKIPPED))


def distribution(name: str) -> tuple[str, str, list[Found]]:
    """(repository, origin URL, files) of an installed distribution.

    Licence files from `*.dist-info` (and `licenses/` in it) stand at the root, where they hold for
    everything below, as they do in the project's own repository. UserError for an unknown one.
    """
    try:
        found = importlib.metadata.distribution(name)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        known = sorted({str(d.metadata["Name"]) for d in importlib.metadata.distributions()})
        from cairn.base.config import nearest

        raise UserError("source", SCHEME + name, "is not installed", nearest(name, known)) from None
    files = {path: one for path, one in _files(found)}
    if not files:
        raise UserError("source", SCHEME + name, "lists no files", "install it from a wheel")
    url = _origin(found) or f"https://pypi.org/project/{name}/"
    parts = url.split("/")
    forge = len(parts) == 5 and parts[2] in {"github.com", "gitlab.com", "codeberg.org"}
    repository = "/".join(parts[3:5]) if forge else f"pypi/{name}"
    return repository, url, [files[path] for path in sorted(files)]


def _files(found: importlib.metadata.Distribution) -> Iterator[tuple[bytes, Found]]:
    for listed in found.files or ():
        parts = PurePosixPath(listed).parts
        if ".." in parts or "__pycache__" in parts:
            continue
        where = Path(str(listed.locate()))
        if where.is_symlink() or not where.is_file():
            continue
        inside = _place(parts)
        if inside is not None:
            path = inside.encode("utf-8")
            yield path, Found(bytes(where), path, REGULAR, where.stat().st_size)


def _place(parts: tuple[str, ...]) -> str | None:
    """The path in the repository; None for the installer's own notes."""
    if not parts[0].endswith((".dist-info", ".egg-info")):
        return "/".join(parts)
    rest = parts[1:]
    if rest and rest[0] in {"licenses", "license_files"} and len(rest) > 1:
        return "/".join(rest[1:])
    upper = rest[-1].upper() if rest else ""
    if upper.startswith(("LICEN", "COPYING", "NOTICE", "AUTHORS")):
        return "/".join(rest)
    return "/".join(parts) if rest == (METADATA,) else None


def _origin(found: importlib.metadata.Distribution) -> str | None:
    """The URL of the sources that the metadata names."""
    labelled = {}
    for line in found.metadata.get_all("Project-URL") or ():
        label, _, url = line.partition(",")
        labelled[label.strip().lower()] = url.strip()
    homepage = found.metadata["Home-page"]
    if homepage:
        labelled.setdefault("home", homepage)
    for label in SOURCE_LABELS:
        if label in labelled:
            return public_url(labelled[label])
    return None
