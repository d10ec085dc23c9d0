"""Software Heritage identifiers, by hand: a content, directory and revision hash as git hashes."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

from cairn.base import UserError

DIRECTORY, SUBMODULE = 0o040000, 0o160000
QUALIFIERS = ("origin", "visit", "anchor", "path", "lines")
_FORM = re.compile(r"swh:1:(cnt|dir|rev|rel|snp):([0-9a-f]{40})((?:;[a-z]+=[^;\x00-\x1f]*)*)")


@dataclass(frozen=True)
class Swhid:
    """swh:1:KIND:HASH, with qualifiers such as origin, path and lines, here unescaped.

    Bytes of a path that are no UTF-8 stand as surrogates, as in `os.fsdecode`.
    """

    kind: str
    hash: str
    qualifiers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """The canonical text: qualifiers in the specification's order, `%` and `;` escaped."""
        ordered = sorted(self.qualifiers.items(), key=lambda pair: _rank(pair[0]))
        extra = "".join(f";{key}={_escape(value)}" for key, value in ordered)
        return f"swh:1:{self.kind}:{self.hash}{extra}"


def parse_swhid(text: str) -> Swhid:
    """From text; UserError where it is none."""
    found = _FORM.fullmatch(text)
    if found is None:
        raise UserError("SWHID", text, "is no identifier", "swh:1:cnt: and 40 hex digits, say")
    qualifiers: dict[str, str] = {}
    for pair in found[3].split(";")[1:]:
        key, _, value = pair.partition("=")
        if key in qualifiers:
            raise UserError("SWHID", text, f"has the qualifier {key!r} twice", "leave one out")
        qualifiers[key] = unquote(value, errors="surrogateescape")
    return Swhid(found[1], found[2], qualifiers)


def _rank(key: str) -> tuple[int, str]:
    return (QUALIFIERS.index(key) if key in QUALIFIERS else len(QUALIFIERS), key)


def _escape(value: str) -> str:
    """`%`, `;`, control characters, and bytes that are no UTF-8 (surrogates here) as %XX."""
    made = []
    for character in value:
        if character in "%;" or character < " " or "\udc80" <= character <= "\udcff":
            raw = character.encode("utf-8", "surrogateescape")
            made.append("".join(f"%{byte:02X}" for byte in raw))
        else:
            made.append(character)
    return "".join(made)


def object_hash(kind: str, body: bytes) -> str:
    """Git's SHA-1 of an object (`blob`, `tree` or `commit`), in hex."""
    made = hashlib.sha1(f"{kind} {len(body)}\0".encode("ascii"), usedforsecurity=False)
    made.update(body)
    return made.hexdigest()


def content_hash(content: bytes) -> str:
    """What `git hash-object` says of a file's bytes; of a link: the bytes of its target."""
    return object_hash("blob", content)


@dataclass(frozen=True)
class Entry:
    """One name in a directory: its mode as git writes it, and the hash of what is there."""

    name: bytes
    mode: int
    hash: str


def directory_hash(entries: Iterable[Entry]) -> str:
    """What `git write-tree` says of one directory.

    Entries sort by bytes, directories as if their name ended in `/`.
    """
    ordered = sorted(entries, key=lambda e: e.name + (b"/" if e.mode == DIRECTORY else b""))
    body = b"".join(
        b"%o %s\0%s" % (entry.mode, entry.name, bytes.fromhex(entry.hash)) for entry in ordered
    )
    return object_hash("tree", body)


def tree_hash(files: Iterable[tuple[bytes, int, str]]) -> str:
    """The root directory's hash of files given as (path, mode, hash), in any order.

    Directories without files do not count, as in git; no files at all give git's empty tree.
    ValueError for a path that is given twice, or as a file and a folder.
    """
    root: dict[bytes, object] = {}
    for path, mode, found in files:
        *parents, name = path.split(b"/")
        here = root
        for parent in parents:
            below = here.setdefault(parent, {})
            if not isinstance(below, dict):
                raise ValueError(f"{path!r} runs through a file")
            here = below
        if name in here:
            raise ValueError(f"{path!r} is given twice, or as a file and a folder")
        here[name] = (mode, found)
    return _hash_nested(root)


def _hash_nested(root: dict[bytes, object]) -> str:
    """Without recursion: archives may nest deeper than the interpreter's stack."""
    done: dict[int, str] = {}
    stack: list[tuple[dict[bytes, object], bool]] = [(root, False)]
    while stack:
        here, ready = stack.pop()
        if not ready:
            stack.append((here, True))
            stack.extend((below, False) for below in here.values() if isinstance(below, dict))
            continue
        entries = []
        for name, value in here.items():
            if isinstance(value, dict):
                entries.append(Entry(name, DIRECTORY, done[id(value)]))
            else:
                mode, found = value  # type: ignore[misc]
                entries.append(Entry(name, mode, found))
        done[id(here)] = directory_hash(entries)
    return done[id(root)]
