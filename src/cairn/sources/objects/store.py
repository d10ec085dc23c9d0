"""An object store: contents by their plain SHA-1, each checked against it, with a cache on disk."""

import hashlib
import os
import re
import tempfile
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Self
from urllib.parse import unquote, urlsplit

from cairn.base import UserError
from cairn.sources.damage import told
from cairn.sources.objects.web import AbsentError, Patience, UnreachedError, Web

MOST_BYTES = 64 * 2**20  # of one object, unpacked
HELD_BYTES = 128 * 2**20  # fetched ahead of the one that is asked for
WORKERS = 16
GZIP = b"\x1f\x8b"
_NAME = re.compile(r"[0-9a-f]{40}")
_NEVER = Event()

# Where a folder may keep an object, with or without `.gz`.
_LAYOUTS: tuple[Callable[[str], str], ...] = (
    lambda name: name,
    lambda name: f"{name[:2]}/{name}",
    lambda name: f"{name[:2]}/{name[2:]}",
    lambda name: f"{name[:2]}/{name[2:4]}/{name}",
    lambda name: f"{name[:2]}/{name[2:4]}/{name[4:]}",
    lambda name: f"{name[:2]}/{name[2:4]}/{name[4:6]}/{name}",
)


@dataclass(frozen=True)
class Missing:
    """Why an object's bytes are not to be had, in one line.

    passing: whether another time they might be (the server did not answer).
    """

    reason: str
    passing: bool = False


def checked(raw: bytes, sha1: str, most: int = MOST_BYTES) -> bytes | None:
    """The object that is `raw`, as it stands or gunzipped; None where neither has the SHA-1.

    No more than `most` bytes are unpacked. A content that is itself gzip is given as it stands.
    """
    if _sha1(raw) == sha1:
        return raw
    if not raw.startswith(GZIP):
        return None
    made, rest = bytearray(), raw
    try:
        while rest:  # a gzip file may have several members
            unpack = zlib.decompressobj(31)
            made += unpack.decompress(rest, most + 1 - len(made))
            if len(made) > most or not unpack.eof:
                return None
            rest = unpack.unused_data
    except zlib.error:
        return None
    return bytes(made) if _sha1(made) == sha1 else None


def _sha1(raw: bytes | bytearray) -> str:
    return hashlib.sha1(raw, usedforsecurity=False).hexdigest()


class Folder:
    """Objects as files, flat or sharded by their first digits, plain or gzip."""

    def __init__(self, path: Path, most: int) -> None:
        self.path, self.most = path, most
        self._layouts = [
            (layout, ending) for layout in _LAYOUTS for ending in ("", ".gz")
        ]  # what was found last comes first

    def get(self, name: str) -> bytes | Missing:
        """The object's bytes. A file with wrong bytes does not hide a good one beside it."""
        damage: str | None = None
        for pair in list(self._layouts):
            layout, ending = pair
            path = self.path / (layout(name) + ending)
            try:
                with path.open("rb") as file:
                    raw = file.read(_packed(self.most) + 1)
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                continue
            except OSError as error:
                damage = damage or f"cannot be read ({told(error)})"
                continue
            made = checked(raw, name, self.most)
            if made is not None:
                if self._layouts[0] != pair:  # one assignment: threads share the list
                    self._layouts = [pair, *(one for one in self._layouts if one != pair)]
                return made
            damage = damage or "its bytes are not those of its SHA-1"
        return Missing(damage or "is not in the store")

    def put(self, name: str, raw: bytes) -> None:
        """Keep an object, in one step: a cut run leaves no half of it."""
        home = self.path / name[:2]
        packer = zlib.compressobj(1, zlib.DEFLATED, 31)
        packed = packer.compress(raw) + packer.flush()
        temporary = None
        try:
            home.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=home, prefix=".part-", delete=False) as file:
                temporary = file.name
                file.write(packed)
            Path(temporary).replace(home / f"{name}.gz")
        except OSError as error:
            if temporary is not None:
                with suppress(OSError):
                    Path(temporary).unlink()
            problem = f"cannot be written ({told(error)})"
            raise UserError(
                "cache", str(self.path), problem, "make room, or name another"
            ) from None


def _packed(most: int) -> int:
    """The most bytes that `most` bytes take as gzip: what does not shrink grows a little."""
    return most + most // 1000 + 4096


class Store:
    """Objects of one place, with a cache before it. Threads may share it; `close` it at the end."""

    def __init__(self, place: Folder | Web, cache: Folder | None, most: int) -> None:
        self.place, self.cache, self.most = place, cache, most
        self._lost = 0  # objects in a row that the server did not answer for

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close connections that are kept open."""
        if isinstance(self.place, Web):
            self.place.close()

    def fetch(self, sha1: str) -> bytes | Missing:
        """The bytes of the content with this SHA-1 (hex), checked, or why there are none.

        UserError where the cache cannot be written, or where the server has not answered for many
        objects in a row: it is away, and what was fetched is in the cache.
        """
        return self._fetch(sha1, _NEVER)

    def fetch_many(
        self, sha1s: Iterable[str], *, workers: int = WORKERS
    ) -> Iterator[tuple[str, bytes | Missing]]:
        """(SHA-1, `fetch` of it) in the given order, `workers` at a time.

        At most 4 * `workers` objects are held, and no new one is asked for while HELD_BYTES wait.
        """
        stop = Event()
        pool = ThreadPoolExecutor(workers, thread_name_prefix="objects")
        waiting: deque[tuple[str, Future[bytes | Missing]]] = deque()
        pending = iter(sha1s)
        try:
            while True:
                while len(waiting) < 4 * workers and (not waiting or _held(waiting) < HELD_BYTES):
                    sha1 = next(pending, None)
                    if sha1 is None:
                        break
                    waiting.append((sha1, pool.submit(self._fetch, sha1, stop)))
                if not waiting:
                    return
                sha1, future = waiting.popleft()
                yield sha1, future.result()
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)

    def _fetch(self, sha1: str, stop: Event) -> bytes | Missing:
        if not _NAME.fullmatch(sha1):
            return Missing(f"{sha1[:60]!r} is no SHA-1")
        kept = self.cache.get(sha1) if self.cache else None
        if isinstance(kept, bytes):
            return kept
        if isinstance(self.place, Folder):
            found = self.place.get(sha1)
        else:
            found = self._from_web(self.place, sha1, stop)
        if self.cache and isinstance(found, bytes):
            self.cache.put(sha1, found)
        return found

    def _from_web(self, web: Web, sha1: str, stop: Event) -> bytes | Missing:
        try:
            found = web.get(
                sha1, _packed(self.most), lambda raw: checked(raw, sha1, self.most), stop
            )
        except AbsentError as error:
            self._lost = 0
            return Missing(str(error))
        except UnreachedError as error:
            self._lost += 1
            if self._lost >= web.patience.give_up and not stop.is_set():
                problem = f"does not answer: {error}"
                raise UserError("objects", web.base, problem, "begin again, with a cache") from None
            return Missing(str(error), passing=True)
        self._lost = 0
        return found


def _held(waiting: deque[tuple[str, Future[bytes | Missing]]]) -> int:
    """Bytes that have been fetched and wait for their turn."""
    made = [one.result() for _, one in waiting if one.done() and not one.exception()]
    return sum(len(one) for one in made if isinstance(one, bytes))


def open_store(
    location: str,
    cache: Path | None = None,
    *,
    most_bytes: int = MOST_BYTES,
    patience: Patience | None = None,
) -> Store:
    """The store at a folder, file://FOLDER, http(s)://HOST/FOLDER or s3://BUCKET/PREFIX.

    Objects are `LOCATION/SHA1`, as they are or gzip; S3 is asked without a signature, so that
    Software Heritage's public bucket is s3://softwareheritage/content. A folder may also have them
    as SHA1.gz, or sharded: aa/SHA1, aa/bb/SHA1 and the like. What is fetched is kept in the folder
    `cache`, where it is looked for first. An object of more than `most_bytes` is not given.

    UserError for a location that is none of these, or a folder that is not there.
    """
    scheme, separator, rest = location.partition("://")
    if scheme in ("http", "https") and separator:
        place: Folder | Web = Web(location, patience or Patience())
    elif scheme == "s3" and separator:
        place = Web(_s3(location, rest), patience or Patience())
    elif separator and scheme != "file":
        mend = "give a folder, file://, http(s):// or s3://"
        raise UserError("objects", location, f"has the unknown scheme {scheme!r}", mend)
    else:
        path = Path(unquote(urlsplit(location).path)) if separator else Path(location).expanduser()
        if not path.is_dir():
            raise UserError("objects", location, "is no folder", "give one that is there")
        place = Folder(path, most_bytes)
    if cache is not None:
        try:
            cache.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            problem = f"cannot be made ({told(error)})"
            raise UserError("cache", str(cache), problem, "name a folder") from None
        if not os.access(cache, os.W_OK):
            raise UserError("cache", str(cache), "cannot be written", "name another folder")
    return Store(place, Folder(cache, most_bytes) if cache else None, most_bytes)


def _s3(location: str, rest: str) -> str:
    bucket, _, prefix = rest.strip("/").partition("/")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,62}", bucket):
        raise UserError("objects", location, "names no bucket", "give s3://BUCKET/PREFIX")
    if "." in bucket:  # a name with dots is in no certificate
        return f"https://s3.amazonaws.com/{bucket}/{prefix}"
    return f"https://{bucket}.s3.amazonaws.com/{prefix}"
