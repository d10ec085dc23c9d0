"""Connections on which no request comes: they are hung up, so that they do not use up all there may
be (a process has some thousand at a time), however slowly somebody feeds them."""

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

SECONDS = 60.0  # for a request's line and headers


class Patience(AutoHTTPProtocol):  # pyright: ignore[reportGeneralTypeIssues]
    """uvicorn's protocol, of h11 or httptools, that waits so long for the next request to begin.

    uvicorn bounds the time between two requests, up to the first byte of the second, and no other.
    """

    seconds = SECONDS
    loop: asyncio.AbstractEventLoop
    cycle: Any
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's call."""
        super().connection_made(transport)
        self._wait(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio's call."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """uvicorn's call; a request that came meanwhile begins in it."""
        self._wait(self.transport)  # pyright: ignore[reportAttributeAccessIssue]
        super().on_response_complete()  # pyright: ignore[reportAttributeAccessIssue]

    def _wait(self, transport: asyncio.BaseTransport) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(self.seconds, self._hang_up, transport, self.cycle)

    def _hang_up(self, transport: asyncio.BaseTransport, before: Any) -> None:
        if self.cycle is before:  # of each request there is a new one
            transport.close()
