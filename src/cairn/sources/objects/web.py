"""One GET for one object: connections kept open, with patience for a server that is busy."""

import random
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import (
    BadStatusLine,
    HTTPConnection,
    HTTPException,
    HTTPResponse,
    HTTPSConnection,
)
from threading import Event, Lock
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

from cairn.base import UserError

CHUNK = 2**16
HOPS = 4  # redirects followed
IDLE = 64  # connections kept open
BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
MOVED = frozenset({301, 302, 303, 307, 308})
GONE = frozenset({404, 410})
HEADERS = {"Accept-Encoding": "identity", "User-Agent": "cairn"}
FAILED = (OSError, HTTPException)  # timeouts, resets, names that do not resolve, cut answers


@dataclass(frozen=True)
class Patience:
    """How long a server is asked again; times in seconds.

    tries: of one object. first, most: the wait before the second try and the longest one; waits
    double and are shortened at random. timeout: without a byte. whole: for one answer.
    give_up: objects in a row that all tries could not get, after which the server counts as away.
    """

    tries: int = 6
    first: float = 0.5
    most: float = 60.0
    timeout: float = 30.0
    whole: float = 300.0
    give_up: int = 64


class AbsentError(Exception):
    """The server says that there is no such object, or that it is not given."""


class UnreachedError(Exception):
    """All tries failed: what the last one said."""


class _AgainError(Exception):
    """This try failed; `wait` is what the server asks for, in seconds."""

    def __init__(self, problem: str, wait: float | None = None) -> None:
        super().__init__(problem)
        self.wait = wait


class Web:
    """Objects at `base`/NAME. Threads may share it; `close` it after the last one."""

    def __init__(self, base: str, patience: Patience) -> None:
        parts = urlsplit(base)
        try:
            whole = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            whole = False
        if not whole or parts.username or parts.query or parts.fragment:
            raise UserError("objects", base, "is no plain URL", "give https://HOST/FOLDER")
        self.base, self.patience = base.rstrip("/"), patience
        self._idle: list[tuple[tuple[str, str], HTTPConnection]] = []
        self._lock = Lock()
        self._not_before = 0.0

    def close(self) -> None:
        """Close the connections that are kept open."""
        with self._lock:
            for _, connection in self._idle:
                connection.close()
            self._idle.clear()

    def get(
        self, name: str, most: int, check: Callable[[bytes], bytes | None], stop: Event
    ) -> bytes:
        """What `check` makes of the object's bytes; where it gives None the answer was damaged.

        AbsentError at once where there is no such object, UnreachedError after all tries or when
        `stop` is set. An answer of more than `most` bytes is damaged.
        """
        patience, said = self.patience, "stopped"
        for tried in range(patience.tries):
            if stop.wait(max(0.0, self._not_before - time.monotonic())):
                break
            try:
                made = check(self._ask(f"{self.base}/{name}", most))
                if made is not None:
                    return made
                raise _AgainError("its bytes are not those of its SHA-1")
            except _AgainError as error:
                said, wait = str(error), error.wait
            except FAILED as error:
                said, wait = str(error) or type(error).__name__, None
            longest = min(patience.most, patience.first * 2**tried)
            if wait is not None:  # it holds for every thread
                self._not_before = time.monotonic() + min(wait, patience.most)
            elif tried + 1 < patience.tries and stop.wait(longest * random.uniform(0.5, 1.0)):
                break
        raise UnreachedError(f"{said} ({patience.tries} tries)")

    def _ask(self, url: str, most: int) -> bytes:
        for _ in range(HOPS):
            answer, raw = self._exchange(url, most)
            where = answer.getheader("Location")
            if answer.status not in MOVED or not where:
                _judge(answer)
                return raw
            url = urljoin(url, where)
            if urlsplit(url).scheme not in ("http", "https"):
                break
        raise AbsentError("is redirected too often, or to what is no web server")

    def _exchange(self, url: str, most: int) -> tuple[HTTPResponse, bytes]:
        parts = urlsplit(url)
        place = (parts.scheme, parts.netloc)
        target = parts._replace(scheme="", netloc="", fragment="").geturl() or "/"
        if parts.scheme == "http" and _proxy(*place) is not None:
            target = url
        while True:
            connection, used = self._connection(place)
            kept = False
            try:
                connection.request("GET", target, headers=HEADERS)
                answer = connection.getresponse()
                raw = _body(answer, most, time.monotonic() + self.patience.whole)
                kept = not answer.will_close
                return answer, raw
            except (ConnectionError, BadStatusLine):
                if not used:  # a server may close what was kept open; only then is this no try
                    raise
            finally:
                self._put(place, connection, kept)

    def _connection(self, place: tuple[str, str]) -> tuple[HTTPConnection, bool]:
        """A connection, and whether it was kept open from an earlier answer."""
        with self._lock:
            for number in range(len(self._idle) - 1, -1, -1):
                if self._idle[number][0] == place:
                    return self._idle.pop(number)[1], True
        scheme, host = place
        proxy = _proxy(scheme, host)
        if scheme == "http":
            return HTTPConnection(proxy or host, timeout=self.patience.timeout), False
        context = ssl.create_default_context()
        made = HTTPSConnection(proxy or host, timeout=self.patience.timeout, context=context)
        if proxy:
            made.set_tunnel(host)
        return made, False

    def _put(self, place: tuple[str, str], connection: HTTPConnection, kept: bool) -> None:
        with self._lock:
            if kept and len(self._idle) < IDLE:
                self._idle.append((place, connection))
                return
        connection.close()


def _proxy(scheme: str, host: str) -> str | None:
    """HOST:PORT of the proxy that the environment names for this host, or None."""
    found = getproxies().get(scheme)
    if not found or proxy_bypass(host):
        return None
    return urlsplit(found if "://" in found else f"http://{found}").netloc.rpartition("@")[2]


def _body(answer: HTTPResponse, most: int, until: float) -> bytes:
    """The whole answer; a server that stalls, drips or never ends is cut off."""
    held = bytearray()
    while chunk := answer.read1(CHUNK):
        held += chunk
        if len(held) > most:
            raise _AgainError(f"the answer is longer than {most:,} bytes")
        if time.monotonic() > until:
            raise _AgainError("the answer takes too long")
    if answer.length:
        raise _AgainError(f"the answer ended {answer.length:,} bytes early")
    answer.close()  # `read1` leaves that out, and the connection could not be used again
    return bytes(held)


def _judge(answer: HTTPResponse) -> None:
    """Nothing for an answer that may hold the object."""
    status = answer.status
    if status == 200:
        return
    if status in GONE:
        raise AbsentError(f"is not in the store ({status})")
    if status in BUSY or status >= 500:
        raise _AgainError(f"the server answers {status}", _retry_after(answer))
    raise AbsentError(f"is not given by the store ({status})")


def _retry_after(answer: HTTPResponse) -> float | None:
    """Seconds that the server asks to wait, written as a number or as a date."""
    text = (answer.getheader("Retry-After") or "").strip()
    if text.isdecimal():
        return float(text[:9])
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())
