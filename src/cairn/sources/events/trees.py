"""The files that pull requests changed: commits found in git repositories in a folder."""

import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from dulwich.object_store import DiskObjectStore
from dulwich.objects import Blob, Commit, ObjectID, Tree

from cairn.base import UserError
from cairn.sources.checkout import CORRUPT
from cairn.sources.events.layout import NAME, Plain
from cairn.sources.record import path_text

MOST_CHANGES = 3_000  # files that one head changes
MOST_TREES = 20_000  # folders that are looked into for one head
LARGEST = 4 * 2**20  # bytes of one file: a million characters of any writing
OPEN = 4  # repositories held open

Side = tuple[int, bytes] | None  # mode and object of an entry
File = tuple[str, str | None, str | None]  # path, base blob, head blob


class UnresolvedError(Exception):
    """Why the files of a commit cannot be known."""


class Trees:
    """Git repositories by name, `FOLDER/owner/name` or with `.git`, bare or not.

    Only objects are read: no configuration, no references.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise UserError("trees", str(folder), "is no folder", "give FOLDER/owner/name[.git]")
        self.folder = folder
        self._stores: dict[str, DiskObjectStore | None] = {}

    def close(self) -> None:
        """Close the files that are held open."""
        for store in self._stores.values():
            if store is not None:
                store.close()
        self._stores.clear()

    def resolve(self, base: tuple[str, str], heads: list[tuple[str, str]], most: int) -> Plain:
        """What `heads` changed from `base`, each a repository's name and a commit.

        Paths are compared as they stand, with no search for renamed files. The answer has `base`
        (the commit), `heads` (each with `commit`, and `files`: path, base blob, head blob, where
        None stands for no file, or else `problem`), and `blobs`: the text of each file that has
        two sides, None where it is no text (UTF-8 without NUL) or larger than LARGEST. Links and
        submodules are no files. Past `most` bytes of text a head has a `problem`.
        """
        stores = [self._store(name) for name, _ in [base, *heads]]
        found = list(dict.fromkeys(store for store in stores if store is not None))
        blobs: dict[str, str | None] = {}
        left = most
        answers: list[Plain] = []
        for _, commit in heads:
            try:
                files = list(_changes(found, base[1], commit))
                for blob in _two_sided(files):
                    if blob not in blobs:
                        blobs[blob], size = _text(found, blob)
                        left -= size
                if left < 0:
                    raise UnresolvedError(f"the files are more than {most:,} bytes")
            except UnresolvedError as problem:
                answers.append({"commit": commit, "problem": str(problem)})
            else:
                answers.append({"commit": commit, "files": files})
        used = {blob for one in answers for blob in _two_sided(one.get("files", ()))}
        kept = {blob: text for blob, text in blobs.items() if blob in used}
        return {"base": base[1], "heads": answers, "blobs": kept}

    def _store(self, name: str) -> DiskObjectStore | None:
        if name not in self._stores:
            while len(self._stores) >= OPEN:
                oldest = self._stores.pop(next(iter(self._stores)))
                if oldest is not None:
                    oldest.close()
            self._stores[name] = self._open(name)
        return self._stores[name]

    def _open(self, name: str) -> DiskObjectStore | None:
        """The object store of a repository, or None where there is none."""
        owner, _, short = name.partition("/")
        if not NAME.fullmatch(name) or {owner, short} & {".", ".."}:
            return None
        for ending in ("", ".git"):
            for inside in (".git/objects", "objects"):
                objects = self.folder / owner / (short + ending) / inside
                if objects.is_dir():
                    return DiskObjectStore(str(objects))
        return None


def _two_sided(files: Iterable[File]) -> Iterator[str]:
    """The blobs of files that are there before and after."""
    for _, before, after in files:
        if before and after:
            yield before
            yield after


def _get(stores: list[DiskObjectStore], identifier: bytes, kind: type) -> Commit | Tree | Blob:
    for store in stores:
        try:
            found = store[ObjectID(identifier)]
        except KeyError:
            continue
        except CORRUPT as error:
            raise UnresolvedError(f"object {identifier.decode()} is corrupt ({error})") from None
        if isinstance(found, kind):
            return found  # type: ignore[return-value]
        raise UnresolvedError(f"object {identifier.decode()} is no {kind.__name__.lower()}")
    raise UnresolvedError(f"{kind.__name__.lower()} {identifier.decode()} is not in the trees")


def _changes(stores: list[DiskObjectStore], base: str, head: str) -> Iterator[File]:
    """(path, base blob, head blob) of the files that differ, in the order of their paths."""
    if not stores:
        raise UnresolvedError("the repository is not in the trees")
    sides = []
    for commit in (base, head):
        found = _get(stores, commit.encode(), Commit)
        assert isinstance(found, Commit)
        sides.append(found.tree)
    pending: list[tuple[bytes, bytes | None, bytes | None]] = [(b"", *sides)]
    changed: list[tuple[bytes, str | None, str | None]] = []
    trees = 0
    while pending:
        inside, *pair = pending.pop()
        trees += 1
        if trees + len(pending) > MOST_TREES or len(changed) > MOST_CHANGES:
            raise UnresolvedError(f"more than {MOST_CHANGES:,} files differ")
        old, new = (_entries(stores, tree) for tree in pair)
        for name in old.keys() | new.keys():
            before, after = old.get(name), new.get(name)
            if before == after:
                continue
            folders = _folder(before), _folder(after)
            if any(folders):
                pending.append((inside + name + b"/", *folders))
            blobs = _blob(before), _blob(after)
            if blobs[0] != blobs[1]:
                changed.append((inside + name, *blobs))
    for path, first, second in sorted(changed):
        yield path_text(path), first, second


def _entries(stores: list[DiskObjectStore], tree: bytes | None) -> dict[bytes, Side]:
    if tree is None:
        return {}
    found = _get(stores, tree, Tree)
    assert isinstance(found, Tree)
    try:
        return {entry.path: (entry.mode, entry.sha) for entry in found.items()}
    except CORRUPT as error:
        raise UnresolvedError(f"tree {tree.decode()} is corrupt ({error})") from None


def _folder(side: Side) -> bytes | None:
    return side[1] if side and stat.S_ISDIR(side[0]) else None


def _blob(side: Side) -> str | None:
    """A regular file's blob; links and submodules have none."""
    return side[1].decode() if side and stat.S_ISREG(side[0]) else None


def _text(stores: list[DiskObjectStore], blob: str) -> tuple[str | None, int]:
    """A blob's text, or None, and how many bytes of it are kept."""
    found = _get(stores, blob.encode(), Blob)
    assert isinstance(found, Blob)
    raw = found.as_raw_string()
    if len(raw) > LARGEST or b"\0" in raw:
        return None, 0
    try:
        return raw.decode("utf-8"), len(raw)
    except UnicodeDecodeError:
        return None, 0
