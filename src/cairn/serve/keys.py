"""API keys: who may ask, compared in constant time."""

import hashlib
import hmac
import os
from pathlib import Path

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from cairn.base import UserError
from cairn.serve.errors import ApiError

LEAST_CHARACTERS = 16
OPEN = frozenset({"/", "/health"})  # paths that need no key: the page, and whether the server lives


class Keys:
    """A set of keys, of which only digests are kept."""

    def __init__(self, keys: list[str]) -> None:
        for key in keys:
            if len(key) < LEAST_CHARACTERS or not key.isascii() or not key.isprintable():
                problem = f"has {len(key)} characters, or odd ones"
                raise UserError(
                    "API key", "...", problem, f"take {LEAST_CHARACTERS} or more plain characters"
                )
        self._digests = [_digest(key.encode()) for key in keys]

    @classmethod
    def read(cls, file: str | Path | None, variable: str) -> "Keys | None":
        """Keys of a file, one a line (# begins a comment line), and of an environment variable,
        commas between them; None where neither is given. UserError for a file that cannot be
        read, and for one without keys."""
        given = [key.strip() for key in os.environ.get(variable, "").split(",") if key.strip()]
        if file is not None:
            try:
                lines = Path(file).read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                problem = f"cannot be read ({getattr(error, 'strerror', None) or 'it is no text'})"
                raise UserError("API keys", str(file), problem, "write one key a line") from None
            found = [line.strip() for line in lines]
            found = [line for line in found if line and not line.startswith("#")]
            if not found:
                raise UserError("API keys", str(file), "has none", "write one key a line")
            given += found
        return cls(given) if given else None

    def allow(self, header: bytes) -> bool:
        """Whether an Authorization header bears one of the keys; all are compared, in full."""
        kind, _, key = header.partition(b" ")
        digest = _digest(key.strip())
        found = False
        for known in self._digests:
            found |= hmac.compare_digest(known, digest)
        return found and kind.lower() == b"bearer"


class Gate:
    """Lets through who bears a key; `admin` guards the paths under /admin."""

    def __init__(self, app: ASGIApp, keys: Keys | None, admin: Keys | None) -> None:
        self.app, self._keys, self._admin = app, keys, admin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._allows(scope):
            error = ApiError(401, "this needs `Authorization: Bearer KEY` with a key of the server")
            headers = {"www-authenticate": "Bearer"}
            await JSONResponse(error.body(), error.status, headers)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _allows(self, scope: Scope) -> bool:
        path = scope["path"]
        needed = self._keys
        if path.startswith("/admin"):
            if self._admin is None:
                return True  # there is nothing: the answer is 404
            needed = self._admin
        if needed is None or path in OPEN:
            return True
        return needed.allow(dict(scope["headers"]).get(b"authorization", b""))


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
