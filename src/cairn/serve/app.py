"""The application: routes over engines, errors in one shape, limits, keys, start and end."""

import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response

from cairn import __version__
from cairn.base import UserError
from cairn.engine.engine import Engine
from cairn.serve.admin import admin_routes, refuse_unguarded
from cairn.serve.chat import chat_routes
from cairn.serve.completions import completion_routes
from cairn.serve.errors import answer_errors
from cairn.serve.hosts import Hosts
from cairn.serve.journal import Journal
from cairn.serve.keys import Gate, Keys
from cairn.serve.limits import BodyLimit, Limits
from cairn.serve.metrics import TYPE, Metrics
from cairn.serve.models import Models, Service
from cairn.serve.page import page_routes
from cairn.serve.tokenizing import tokenizing_routes
from cairn.serve.worker import Worker


def create_app(
    engine: Engine,
    name: str,
    *,
    more: Mapping[str, Engine] | None = None,
    limits: Limits | None = None,
    attribution: str | Path | None = None,
    keys: Keys | None = None,
    admin_keys: Keys | None = None,
    weights: str | Path | None = None,
    hosts: Collection[str] | None = None,
) -> FastAPI:
    """The application that serves `engine` under the model name `name`, and `more` by theirs.

    It owns the engines from start-up to shutdown: nobody else may drive them meanwhile. With the
    folder of an attribution index, /v1/trace says where a text was learned from. With `keys`,
    requests must bear one; `admin_keys` and the root folder `weights` open /admin/weights. With
    `hosts`, requests by names other than these, localhost and addresses are refused. Raises
    UserError for an engine without a tokenizer, an index that cannot be read, or a root of
    weights without admin keys.
    """
    limits, metrics = limits or Limits(), Metrics()
    engines = {name: engine, **(more or {})}
    models = Models([_service(*each, limits, metrics) for each in engines.items()])

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        for service in models:
            service.worker.start()
        try:
            yield
        finally:
            for service in models:
                await service.worker.close()

    app = FastAPI(
        title="cairn", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.state.models = models
    app.add_middleware(BodyLimit, most=limits.body_bytes, seconds=limits.body_seconds)
    app.add_middleware(Gate, keys=keys, admin=admin_keys)
    if hosts is not None:
        app.add_middleware(Hosts, names=hosts)
    app.add_middleware(Journal, metrics=metrics)  # the outermost
    answer_errors(app)
    _add_state_routes(app, models, metrics)
    app.include_router(completion_routes(models))
    app.include_router(chat_routes(models))
    app.include_router(tokenizing_routes(models))
    app.include_router(page_routes(traces=attribution is not None, locked=keys is not None))
    if attribution is not None:
        from cairn.serve.trace import trace_routes

        app.include_router(trace_routes(Path(attribution)))
    if weights is not None:
        refuse_unguarded(admin_keys)
        app.include_router(admin_routes(models, Path(weights)))
    return app


def _service(name: str, engine: Engine, limits: Limits, metrics: Metrics) -> Service:
    if engine.tokenizer is None:
        raise UserError(f"{name} has no tokenizer, so it cannot be served: add tokenizer.json")
    worker = Worker(engine, limits.open_requests, name, metrics)
    return Service(worker, engine.tokenizer, name, limits)


def _add_state_routes(app: FastAPI, models: Models, metrics: Metrics) -> None:
    created = int(time.time())

    @app.head("/health", include_in_schema=False)
    @app.get("/health")
    async def health() -> JSONResponse:
        """Whether requests are taken; numbers are those of the first model."""
        workers = [service.worker for service in models]
        down = not all(worker.alive for worker in workers)
        draining = any(worker.ending for worker in workers)
        status = "down" if down else "draining" if draining else "ok"
        state = {"status": status, **asdict(workers[0].engine.load)}
        return JSONResponse(state, 200 if status == "ok" else 503)

    @app.get("/metrics")
    async def exposition() -> Response:
        loads = {}
        for service in models:
            loads[service.name] = asdict(service.worker.engine.load)
        return Response(metrics.text(loads), media_type=TYPE)

    @app.get("/v1/models")
    async def cards() -> dict[str, Any]:
        return {"object": "list", "data": [card(service) for service in models]}

    @app.get("/v1/models/{name:path}")
    async def one(name: str) -> dict[str, Any]:
        return card(models.named(name))

    def card(service: Service) -> dict[str, Any]:
        return {
            "id": service.name,
            "object": "model",
            "created": created,
            "owned_by": "cairn",
            "max_model_len": service.worker.engine.capacity,
        }
