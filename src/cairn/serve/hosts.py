"""By which names a server may be asked: what keeps web pages from a server without keys.

A page whose name its owner points at 127.0.0.1 (DNS rebinding) is of one origin with a server
there, for the browser: it may ask and read. Its requests bear the page's name as Host, though,
and those of other pages bear theirs as Origin.
"""

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from cairn.serve.errors import ApiError

LOCAL = "localhost"


class Hosts:
    """Refuses requests whose Host is none of `names`, localhost or an address (421), and those of
    pages that this machine or `names` did not serve (403)."""

    def __init__(self, app: ASGIApp, names: Collection[str]) -> None:
        self.app, self._names = app, frozenset(_plain(name) for name in names) | {LOCAL}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = self._error(scope) if scope["type"] == "http" else None
        if error is not None:
            await JSONResponse(error.body(), error.status)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _error(self, scope: Scope) -> ApiError | None:
        headers = dict(scope["headers"])
        host = _name("//" + headers.get(b"host", b"").decode("latin-1"))
        # A name can be pointed at this machine by anybody, an address cannot. Browsers always
        # send a Host, so what comes without one is no page.
        if host and host not in self._names and not _address(host):
            said = f"Host: {host[:100]!r} is no name of this server"
            return ApiError(421, f"{said}: start it with --allow-host NAME to be asked by it")
        origin = headers.get(b"origin", b"").decode("latin-1")
        if not origin.startswith(("http:", "https:", "null")):
            return None  # none, or an extension's: no page can bear it
        page = _name(origin)
        if page == host or page in self._names or loopback(page):
            return None
        said = f"Origin: pages of {origin[:100]!r} may not ask this server"
        return ApiError(403, f"{said}: start it with --allow-host NAME, or with --keys")


def loopback(host: str) -> bool:
    """Whether it is this machine's own address."""
    found = _address(host)
    return found is not None and found.is_loopback


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _name(url: str) -> str:
    """The host of a URL, without port and brackets; "?" for what is none."""
    try:
        return _plain(urlsplit(url).hostname or ("?" if url != "//" else ""))
    except ValueError:
        return "?"


def _plain(name: str) -> str:
    return name.lower().rstrip(".")
