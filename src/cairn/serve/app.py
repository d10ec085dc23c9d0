"""The application: routes over one engine, errors in one shape, limits, start and end."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse

from cairn import __version__
from cairn.base import UserError
from cairn.engine.engine import Engine
from cairn.serve.chat import chat_routes
from cairn.serve.completions import Service, completion_routes
from cairn.serve.errors import answer_errors
from cairn.serve.limits import BodyLimit, Limits
from cairn.serve.worker import Worker


def create_app(
    engine: Engine,
    name: str,
    *,
    limits: Limits | None = None,
    attribution: str | Path | None = None,
) -> FastAPI:
    """The application that serves `engine` under the model name `name`.

    It owns the engine from start-up to shutdown: nobody else may drive it meanwhile. With the
    folder of an attribution index, /v1/trace says where a text was learned from. Raises
    UserError for an engine without a tokenizer or an index that cannot be read.
    """
    if engine.tokenizer is None:
        raise UserError(f"{name} has no tokenizer, so it cannot be served: add tokenizer.json")
    limits = limits or Limits()
    worker = Worker(engine, limits.open_requests)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        worker.start()
        try:
            yield
        finally:
            await worker.close()

    app = FastAPI(title="cairn", version=__version__, lifespan=lifespan)
    app.add_middleware(BodyLimit, most=limits.body_bytes)
    answer_errors(app)
    service = Service(worker, engine.tokenizer, name, limits)
    _add_state_routes(app, worker, name)
    app.include_router(completion_routes(service))
    app.include_router(chat_routes(service))
    if attribution is not None:
        from cairn.serve.trace import trace_routes

        app.include_router(trace_routes(Path(attribution)))
    return app


def _add_state_routes(app: FastAPI, worker: Worker, name: str) -> None:
    created = int(time.time())
    card = {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "cairn",
        "max_model_len": worker.engine.capacity,
    }

    @app.get("/health")
    async def health() -> JSONResponse:
        state = {"status": "ok" if worker.alive else "down", **asdict(worker.engine.load)}
        return JSONResponse(state, 200 if worker.alive else 503)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [card]}
