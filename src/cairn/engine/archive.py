"""Computed prefixes on disk, so that they survive a restart.

A file holds the keys and values of some pages of tokens, and the recurrent state after the last of
them; it goes on from another file or from the beginning. It is named after the tokens from the
beginning on, in a folder named after the model, so nothing that other weights computed is found.
Files are written beside, synced and renamed, and carry a digest of what is in them: one that a
crash or a disk has damaged is not used. They hold what users wrote, in a form that can be read
back: folders and files are their owner's alone.
"""

import hashlib
import json
import logging
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cairn.base.files import write_bytes
from cairn.engine.pages import PAGE
from cairn.engine.pool import Form
from cairn.model import Decoder

log = logging.getLogger(__name__)

LAYOUT = 3  # of what is written: counted up when old files cannot be read as new ones
OWNER = 0o077  # who is to have no permission: everybody but the owner
PIECE = 2**22  # bytes of weights that a thread hashes at a time
MOST_READ = 4  # requests that hold what was read for them before they begin
MOST_UNWRITTEN = 4  # files that wait to be written; beyond that, prefixes go unwritten
Block = list[tuple[Tensor, Tensor]]
State = tuple[Tensor, ...]
Found = tuple[Block, State | None] | None


@dataclass(eq=False)
class Entry:
    """A file."""

    name: str
    """Hex of the tokens from the beginning to its end."""
    parent: str
    """The name of the file that it goes on from; empty where it begins with the first token."""
    start: int
    """Tokens before it."""
    position: int
    """Tokens to its end."""
    size: int
    """Bytes."""
    skipped: list[int] = field(default_factory=list)
    """For each group of layers, how many of its first pages are not in it; empty for none."""


class Ahead:
    """Files that are read for one request while others compute (`cairn.engine.memory.Ahead`)."""

    def __init__(self, archive: "Archive", entries: Sequence[Entry]) -> None:
        self.entries = entries
        self.found: dict[str, Future[Found]] = {}
        self._archive = archive

    @property
    def ready(self) -> bool:
        """Whether all are read."""
        if self.entries and not self.found and not self._archive.begin(self):
            return False
        return all(one.done() for one in self.found.values())

    def has(self, entry: Entry) -> bool:
        """Whether a file is among them."""
        return entry.name in self.found

    def take(self, entry: Entry) -> Found:
        """What `Archive.read` gave or raised."""
        return self.found[entry.name].result()

    def drop(self) -> None:
        """It is used, or not wanted any more."""
        self.found, self.entries = {}, ()
        self._archive.end(self)


class Archive:
    """The files of one model in `folder`, at most `most` bytes of them; used longest ago goes.

    `find` and `ahead` belong to the engine's thread; reading and writing have one each.
    """

    def __init__(self, folder: Path, model: Decoder, form: Form, most: int) -> None:
        self.folder = folder / digest_of(model, form)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder.mkdir(mode=0o700, exist_ok=True)
        _close(self.folder)  # an older one may be open; what is around it need not be ours
        self._form, self._most = form, most
        self._entries: dict[str, Entry] = {}
        self._lock = threading.Lock()
        self._writer = ThreadPoolExecutor(1, "cairn-archive")
        self._unwritten: set[str] = set()
        self._reader = ThreadPoolExecutor(1, "cairn-archive-reader")
        self._reads: set[Ahead] = set()
        self._shared: WeakValueDictionary[str, Future[Found]] = WeakValueDictionary()
        self._scan()

    def find(self, tokens: Sequence[int], most: int) -> list[Entry]:
        """The files that hold the longest prefix of at most `most` tokens, in order."""
        names = names_of(tokens[: max(0, most)])
        with self._lock:
            held = [self._entries[name] for name in names if name in self._entries]
            chain = [held[-1]] if held else []
            while chain and chain[-1].parent:
                chain.append(self._entries[chain[-1].parent])
        return chain[::-1]

    def ahead(self, entries: Sequence[Entry]) -> "Ahead":
        """Have files read in the background."""
        return Ahead(self, entries)

    def begin(self, ahead: "Ahead") -> bool:
        """Begin to read what was asked for; False while enough others hold what they read."""
        if len(self._reads) >= MOST_READ:
            return False
        for entry in ahead.entries:
            found = self._shared.get(entry.name)  # of a prompt that begins alike
            if found is None or (found.done() and (found.cancelled() or found.exception())):
                found = self._shared[entry.name] = self._reader.submit(self.read, entry)
            ahead.found[entry.name] = found
        self._reads.add(ahead)
        return True

    def end(self, ahead: "Ahead") -> None:
        """What was asked for is used, or not wanted any more."""
        self._reads.discard(ahead)

    def wait(self, seconds: float) -> bool:
        """Wait until something more is read; False at once where nobody waits for anything."""
        found = [one for ahead in self._reads for one in ahead.found.values()]
        wait([one for one in found if not one.done()], seconds, FIRST_COMPLETED)
        return bool(found)

    def reach(self, tokens: Sequence[int]) -> int:
        """How many of the tokens are in files, or soon will be."""
        names = names_of(tokens)
        with self._lock:
            held = [i for i, name in enumerate(names, 1) if self._coming(name)]
        return held[-1] * PAGE if held else 0

    def _coming(self, name: str) -> bool:
        return name in self._entries or name in self._unwritten

    def read(self, entry: Entry) -> Found:
        """Keys and values of each group, and the state at the end; None if it is damaged."""
        path = self._path(entry.name)
        try:
            with safe_open(path, "pt") as file:
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                told = file.metadata() or {}
            if _digest(found, told.get("about", "")) != told.get("digest"):
                raise SafetensorError("its contents are not what was written")
            self._check(entry, found)
            path.touch()
        except (SafetensorError, OSError) as error:
            log.warning("%s is not used: %s", path, error)
            self.drop(entry)
            return None
        groups = range(len(self._form.pages))
        block = [(found[f"keys.{group}"], found[f"values.{group}"]) for group in groups]
        states = sorted(name for name in found if name.startswith("state."))
        return block, tuple(found[name] for name in states) or None

    def _check(self, entry: Entry, found: dict[str, Tensor]) -> None:
        """SafetensorError unless these are the pages of an entry, with or without a state."""
        wanted: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
        skipped = entry.skipped or [0] * len(self._form.pages)
        for group, (kinds, less) in enumerate(zip(self._form.pages, skipped, strict=False)):
            count = (entry.position - entry.start) // PAGE - less
            for name, (dtype, shape) in zip(("keys", "values"), kinds, strict=True):
                wanted[f"{name}.{group}"] = (dtype, (shape[0], count, *shape[1:]))
        if any(name.startswith("state.") for name in found):
            wanted |= {f"state.{number}": kind for number, kind in enumerate(self._form.states)}
        if {name: (own.dtype, tuple(own.shape)) for name, own in found.items()} != wanted:
            raise SafetensorError("its tensors are not those of its place")

    def write(
        self,
        tokens: Sequence[int],
        start: int,
        block: Block,
        state: State | None,
        skipped: Sequence[int] = (),
    ) -> None:
        """Keep tokens `start` to the end, soon; `start` is where a file ends, or 0.

        `skipped` is how many pages after `start` the block lacks in each group.
        """
        names = names_of(tokens)
        parent = names[start // PAGE - 1] if start else ""
        with self._lock:
            if len(self._unwritten) >= MOST_UNWRITTEN or self._coming(names[-1]):
                return
            self._unwritten.add(names[-1])
        tensors = {f"keys.{group}": keys for group, (keys, _) in enumerate(block)}
        tensors |= {f"values.{group}": values for group, (_, values) in enumerate(block)}
        tensors |= {f"state.{number}": part for number, part in enumerate(state or ())}
        entry = Entry(names[-1], parent, start, len(tokens), 0, list(skipped))
        self._writer.submit(self._write, entry, tensors)

    def drop(self, entry: Entry) -> None:
        """Remove a file, and those that go on from it."""
        with self._lock:
            gone = [entry.name]
            while gone:
                name = gone.pop()
                self._entries.pop(name, None)
                self._path(name).unlink(missing_ok=True)
                gone += [one.name for one in self._entries.values() if one.parent == name]

    def close(self) -> None:
        """Wait until all is written."""
        self._reader.shutdown(wait=True, cancel_futures=True)
        self._writer.shutdown(wait=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def _write(self, entry: Entry, tensors: dict[str, Tensor]) -> None:
        try:
            tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
            place = {"parent": entry.parent, "start": entry.start, "position": entry.position}
            about = json.dumps(place | {"skipped": entry.skipped})
            data = save(tensors, {"digest": _digest(tensors, about), "about": about})
            write_bytes(self._path(entry.name), data, 0o600)
            entry.size = len(data)
            with self._lock:
                if not entry.parent or entry.parent in self._entries:
                    self._entries[entry.name] = entry
            self._trim()
        except OSError as error:  # a full disk is no reason to stop serving
            log.warning("a prefix was not written to %s: %s", self.folder, error)
        finally:
            with self._lock:
                self._unwritten.discard(entry.name)

    def _scan(self) -> None:
        """Take in what is there; what was being written, or goes on from nothing, is removed."""
        for path in self.folder.glob(".*.tmp"):
            path.unlink(missing_ok=True)
        found: list[Entry] = []
        for path in self.folder.glob("*.safetensors"):
            try:
                found.append(_entry_of(path, len(self._form.pages)))
                _close(path)
            except (SafetensorError, OSError, LookupError, ValueError, RecursionError) as error:
                log.warning("%s is removed: %s", path, error)
                path.unlink(missing_ok=True)
        for entry in sorted(found, key=lambda one: one.position):
            before = self._entries.get(entry.parent)
            if entry.start == (0 if before is None else before.position):
                self._entries[entry.name] = entry
            else:
                self._path(entry.name).unlink(missing_ok=True)

    def _trim(self) -> None:
        with self._lock:
            entries = list(self._entries.values())
        total = sum(one.size for one in entries)
        entries = [one for one in entries if self._path(one.name).exists()]
        for entry in sorted(entries, key=lambda one: self._path(one.name).stat().st_mtime):
            if total <= self._most:
                return
            if entry.name in self._entries:
                before = sum(one.size for one in self._entries.values())
                self.drop(entry)
                total -= before - sum(one.size for one in self._entries.values())


def names_of(tokens: Sequence[int]) -> list[str]:
    """For each whole page of tokens, a name of all up to its end."""
    whole = np.asarray(tokens[: len(tokens) // PAGE * PAGE], np.int64).reshape(-1, PAGE)
    found, last = [], b""
    for page in whole:
        last = hashlib.blake2b(last + page.tobytes(), digest_size=20).digest()
        found.append(last.hex())
    return found


def digest_of(model: Decoder, form: Form) -> str:
    """A name of all that files depend on: a model's configuration, dtypes, every weight and buffer
    (the scales of those in 8 bits are buffers), and how its memory is laid out.
    """
    about = repr((LAYOUT, PAGE, form, model.config))
    total = hashlib.blake2b(about.encode(), digest_size=20)
    with ThreadPoolExecutor(thread_name_prefix="cairn-digest") as threads:
        for name, tensor in sorted((*model.named_parameters(), *model.named_buffers())):
            total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            data = _bytes(tensor)  # one tensor at a time is copied to the host
            pieces = [data[at : at + PIECE] for at in range(0, len(data), PIECE)]
            for found in threads.map(_digest_of_piece, pieces):
                total.update(found)
    return total.hexdigest()


def _digest_of_piece(piece: memoryview) -> bytes:
    return hashlib.blake2b(piece, digest_size=20).digest()


def _entry_of(path: Path, groups: int) -> Entry:
    """What a file says of itself; ValueError, KeyError and others where that cannot be."""
    with safe_open(path, "pt") as file:
        told = json.loads((file.metadata() or {})["about"])
    if not isinstance(told, dict) or set(told) != {"parent", "start", "position", "skipped"}:
        raise ValueError("it does not say where it belongs")
    parent, start, position, skipped = (told[n] for n in ("parent", "start", "position", "skipped"))
    whole = _is_count(start) and _is_count(position) and not (start % PAGE or position % PAGE)
    if not whole or start >= position or not isinstance(parent, str) or bool(parent) != (start > 0):
        raise ValueError("its place is none")
    most = (position - start) // PAGE
    fits = isinstance(skipped, list) and len(skipped) in (0, groups)
    if not fits or not all(_is_count(one) and one <= most for one in skipped):
        raise ValueError("the pages that it skips are none")
    return Entry(path.stem, parent, start, position, path.stat().st_size, skipped)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**48


def _close(path: Path) -> None:
    """Leave a file or folder to its owner alone."""
    mode = path.stat().st_mode & 0o777
    if mode & OWNER:
        try:
            path.chmod(mode & ~OWNER)
        except OSError as error:
            log.warning("others may read %s, which holds what users wrote: %s", path, error)


def _digest(tensors: dict[str, Tensor], about: str) -> str:
    """A name of a file's tensors and of what it says about them."""
    total = hashlib.blake2b(about.encode(), digest_size=20)
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(_bytes(tensor))
    return total.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return flat.numpy().data
