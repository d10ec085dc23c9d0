"""What one client may ask of the server, and the middleware that bounds a body."""

import asyncio
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cairn.serve.errors import ApiError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Sizes above which a request is refused with a message that names the limit."""

    body_bytes: int = 4 * 2**20
    """Bytes of a request's body (413)."""
    body_seconds: float = 120
    """Until all of it has come (408)."""
    completions: int = 128
    """Completions of one request: prompts times n (400)."""
    stops: int = 16
    """Stop strings of one request (400)."""
    stop_characters: int = 256
    """Characters of one stop string (400)."""
    messages: int = 1024
    """Messages of one conversation (400)."""
    open_requests: int = 1024
    """Completions that run or wait at the same time, over all clients (429)."""


class BodyLimit:
    """Refuses a body that is longer than it may be, before more of it is read, and one that does
    not come to its end."""

    def __init__(self, app: ASGIApp, most: int, seconds: float) -> None:
        self.app, self.most, self.seconds = app, most, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > self.most:
            error = self._error()
            await JSONResponse(error.body(), error.status)(scope, receive, send)
            return
        read, going = 0, True
        end = asyncio.get_running_loop().time() + self.seconds

        async def counted() -> Message:
            nonlocal read, going
            try:
                async with asyncio.timeout_at(end if going else None):
                    message = await receive()
            except TimeoutError:
                said = f"the body did not come to its end in {self.seconds:g} seconds"
                raise HTTPException(408, said, {"connection": "close"}) from None
            read += len(message.get("body", b""))
            going = message.get("more_body", False)  # after it, what comes is that the client left
            if read > self.most:  # chunked bodies declare no length
                # The one kind of exception that FastAPI lets through from reading a body.
                raise HTTPException(413, self._error().message)
            return message

        await self.app(scope, counted, send)

    def _error(self) -> ApiError:
        return ApiError(413, f"the body is longer than {self.most} bytes")
