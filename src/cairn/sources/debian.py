"""Debian source packages: a `.dsc` and the archives that it names, which lie beside it.

What is read is the tree before any patch: upstream's archive with its components, and the `debian`
folder over it. That of format 1.0 comes as a patch, so that only upstream's tree is read.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from cairn.sources.archive import Archive, clash, open_archive
from cairn.sources.damage import Damaged, told, whole
from cairn.sources.packed import Placed, records
from cairn.sources.record import SourceFile, path_text

FORMATS = ("1.0", "2.0", "3.0 (quilt)", "3.0 (native)")
MOST_DSC = 2**20
MOST_FIELDS = 1000
SIGNED = b"-----BEGIN PGP SIGNED MESSAGE-----"
SIGNATURE = b"\n-----BEGIN PGP SIGNATURE-----"
TAR = r"\.tar\.(?:gz|bz2|xz|lzma)"
COMPONENT = re.compile(rf"\.orig(?:-(?P<component>[A-Za-z0-9-]++))?{TAR}\Z")
DEBIAN = re.compile(rf"\.debian{TAR}\Z")
ANY_TAR = re.compile(rf"{TAR}\Z")
CHUNK = 2**20


@dataclass(frozen=True)
class Part:
    """A file that a package names: its name, SHA-256 in hex, size."""

    name: str
    sha256: str
    size: int


def is_dsc(path: Path) -> bool:
    """Whether a file is named as a Debian source package."""
    return path.suffix == ".dsc"


def read(path: Path, max_bytes: int) -> Iterator[SourceFile]:
    """Records of a source package's files in the order of their paths.

    Signatures are not checked, sums are. One record with an empty path where a part is missing,
    has another sum, or is damaged: nothing of the package is used.
    """
    shown, url = path_text(os.fsencode(path.name)), path.resolve().as_uri()
    name = shown.removesuffix(".dsc")
    try:
        fields = _fields(path)
        name = fields.get("source") or name
        version = fields.get("format", "1.0")
        if version not in FORMATS:
            raise Damaged(f"is of the format {version!r}, which is not known here")
        parts = [one for one in _parts(fields) if ANY_TAR.search(one.name)]
        with ExitStack() as open_parts:
            opened: dict[str, Archive] = {}
            for one in parts:
                try:
                    _check_sum(path.parent / one.name, one)
                    opened[one.name] = open_parts.enter_context(
                        open_archive(path.parent / one.name)
                    )
                except Damaged as error:
                    raise Damaged(f"its part {one.name} {error}") from None
            yield from records(name, url, _placed(opened), max_bytes)
    except Damaged as error:
        yield whole(name, url, f"source package {shown}: {error}")


def _placed(opened: dict[str, Archive]) -> list[Placed]:
    """Members by their paths in the unpacked tree, laid over each other as dpkg-source does."""
    native = len(opened) == 1
    main = [one for one in opened if native or _component(one) == ""]
    if len(main) != 1:
        raise Damaged("names no upstream archive, or several")
    tree: dict[bytes, Placed] = {}
    for name in (*main, *sorted(one for one in opened if _component(one))):
        inside = b"" if name in main else (_component(name) or "").encode("ascii")
        _clear(tree, inside)
        _lay(tree, opened[name], inside, strip=True)
    for name in opened:
        if DEBIAN.search(name) and name not in main:
            _clear(tree, b"debian")
            _lay(tree, opened[name], b"", strip=False)
    _refuse_clashes(tree)
    return list(tree.values())


def _component(name: str) -> str | None:
    """What follows `.orig-` in a name; empty for upstream's own archive, None for others."""
    found = COMPONENT.search(name)
    return None if found is None else found["component"] or ""


def _clear(tree: dict[bytes, Placed], folder: bytes) -> None:
    if folder:
        for path in [one for one in tree if one == folder or one.startswith(folder + b"/")]:
            del tree[path]


def _lay(tree: dict[bytes, Placed], archive: Archive, folder: bytes, *, strip: bool) -> None:
    """Put an archive's members below a folder, without the single one that they may stand in."""
    tops = archive.tops()
    drop = 0
    if strip and len(tops) == 1:
        (top,) = tops
        drop = 0 if any(one.path == top for one in archive.members) else len(top) + 1
    for member in archive.members:
        path = member.path[drop:]
        path = folder + b"/" + path if folder else path
        tree[path] = Placed(path, archive, member)


def _refuse_clashes(tree: dict[bytes, Placed]) -> None:
    found = clash(tree)
    if found is not None:
        raise Damaged(f"{path_text(found[1])!r} runs through a file of another of its archives")


def _fields(path: Path) -> dict[str, str]:
    """The fields of the package's text by name in lower case; lines that go on keep line ends."""
    try:
        with path.open("rb") as file:
            raw = file.read(MOST_DSC + 1)
    except OSError as error:
        raise Damaged(f"cannot be read ({told(error)})") from None
    if len(raw) > MOST_DSC:
        raise Damaged(f"holds more than {MOST_DSC:,} bytes")
    if raw.startswith(SIGNED):
        _, _, raw = raw.replace(b"\r\n", b"\n").partition(b"\n\n")
        raw, signature, _ = raw.partition(SIGNATURE)
        if not signature:
            raise Damaged("is cut short: its signature is missing")
    try:
        lines = raw.decode("utf-8").strip("\n").split("\n")
    except UnicodeDecodeError:
        raise Damaged("is no text in UTF-8") from None
    fields: dict[str, str] = {}
    last = ""
    for line in lines:
        if line[:1] in {" ", "\t"} and last:
            fields[last] += "\n" + line.strip()
            continue
        last, colon, value = line.partition(":")
        last = last.lower()
        if not colon or last in fields or len(fields) > MOST_FIELDS:
            raise Damaged(f"has a line that is no field ({line[:60]!r})")
        fields[last] = value.strip()
    return fields


def _parts(fields: dict[str, str]) -> list[Part]:
    parts: list[Part] = []
    for line in fields.get("checksums-sha256", "").split("\n"):
        found = re.fullmatch(r"([0-9a-f]{64}) ([0-9]{1,15}) ([A-Za-z0-9][A-Za-z0-9.+~_%-]*)", line)
        if found:
            parts.append(Part(found[3], found[1], int(found[2])))
        elif line:
            raise Damaged(f"has a line that is no SHA-256 sum ({line[:60]!r})")
    if not parts:
        raise Damaged("lists no SHA-256 sums")
    return parts


def _check_sum(path: Path, part: Part) -> None:
    """Damaged where a part is not there, or has another size or sum."""
    made = hashlib.sha256()
    try:
        if path.stat().st_size != part.size:
            raise Damaged("has another size than the package says")
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                made.update(chunk)
    except OSError as error:
        raise Damaged(f"cannot be read ({told(error)})") from None
    if made.hexdigest() != part.sha256:
        raise Damaged("has another SHA-256 sum than the package says")
