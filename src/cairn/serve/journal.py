"""One JSON line for each request, with an id that the answer bears too."""

import json
import logging
import re
import sys
import time
import uuid
from contextvars import ContextVar
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cairn.serve.metrics import Metrics

log = logging.getLogger("cairn.serve.requests")
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
FACTS = "cairn.facts"
"""Where in an ASGI scope an endpoint writes what its line shall say: counts, never texts."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SANE = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


class Journal:
    """Gives each request an id (its own X-Request-Id where that is sane), times and logs it."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        name = given.decode() if _SANE.fullmatch(given) else uuid.uuid4().hex
        token = request_id.set(name)
        facts: dict[str, Any] = scope.setdefault(FACTS, {})
        status, begun = 500, time.perf_counter()

        async def marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", name.encode())]
            await send(message)

        try:
            await self.app(scope, receive, marked)
        finally:
            request_id.reset(token)
            self._write(scope, name, status, time.perf_counter() - begun, facts)

    def _write(
        self, scope: Scope, name: str, status: int, seconds: float, facts: dict[str, Any]
    ) -> None:
        route = scope.get("route")
        path = getattr(route, "path", None) or "other"  # no label for each path that is guessed
        path = path.replace(":path}", "}")
        method = scope["method"] if scope["method"] in METHODS else "other"  # nor for each method
        self._metrics.request(method, path, status, seconds)
        if path in ("/health", "/metrics") and status == 200:
            return  # asked for every few seconds
        client = scope.get("client")
        line = {
            "request_id": name,
            "method": scope["method"][:20],
            "path": scope["path"][:200],
            "status": status,
            "seconds": round(seconds, 4),
            "client": client[0] if client else None,
            **facts,
        }
        log.info("request", extra={"fields": line})


class JsonLines(logging.Formatter):
    """A record as one JSON line: time (UTC), level, logger, message, fields, traceback."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        name = request_id.get()
        if name is not None:
            line["request_id"] = name
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def log_to(stream: Any = None) -> None:
    """Have this package and uvicorn log as JSON lines to a stream (standard error)."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    for name, level in (("cairn", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
