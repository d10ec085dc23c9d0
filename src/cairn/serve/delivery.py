"""From a ticket to the wire: whole answers and server-sent events, until the client is gone."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from cairn.engine import Completion
from cairn.serve.errors import ApiError, as_api_error
from cairn.serve.journal import FACTS
from cairn.serve.worker import Ticket

log = logging.getLogger(__name__)
CLIENT_GONE = 499  # nobody reads it; it is for the log


async def collect(request: Request, ticket: Ticket) -> list[Completion]:
    """All completions of a ticket; a client that leaves meanwhile frees its slots."""
    work = asyncio.create_task(ticket.completions())
    gone = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ApiError(CLIENT_GONE, "the client closed the connection")
        return work.result()
    finally:
        work.cancel()
        gone.cancel()
        ticket.close()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class EventStream(StreamingResponse):
    """Chunks as server-sent events, ended by `[DONE]`; the ticket is closed whatever happens."""

    def __init__(
        self,
        request: Request,
        ticket: Ticket,
        model: str,
        chunks: AsyncIterator[dict[str, Any]],
    ) -> None:
        super().__init__(_events(chunks), media_type="text/event-stream")
        self.headers["cache-control"] = "no-cache"
        self.headers["x-accel-buffering"] = "no"  # proxies pass each event on at once
        self._request, self._ticket, self._model = request, ticket, model

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ticket.close()
            note_completions(self._request, self._model, self._ticket.done)


def note_completions(request: Request, model: str, completions: list[Completion]) -> None:
    """What the request's line in the log says of its completions: counts and reasons."""
    request.scope.setdefault(FACTS, {}).update(
        model=model,
        completions=len(completions),
        completion_tokens=sum(len(one.tokens) for one in completions),
        finish_reasons=sorted({one.finish_reason for one in completions}),
    )


async def _events(chunks: AsyncIterator[dict[str, Any]]) -> AsyncIterator[str]:
    try:
        async for chunk in chunks:
            yield _event(json.dumps(chunk, ensure_ascii=False))
    except Exception as error:  # the status is sent already: the error travels as an event
        if not isinstance(error, ApiError):
            log.exception("a stream failed")
        yield _event(json.dumps(as_api_error(error).body()))
    yield _event("[DONE]")


def _event(data: str) -> str:
    return f"data: {data}\n\n"
