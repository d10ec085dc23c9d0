"""`cairn serve`: a checkpoint folder behind a port, until it is interrupted."""

import contextlib
import errno
import gc
import os
import socket
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

import torch
import uvicorn
from fastapi import FastAPI

from cairn.base import UserError, note
from cairn.engine import Engine
from cairn.engine.options import Caching, Speculation
from cairn.ops.native.library import native
from cairn.serve.admin import refuse_unguarded
from cairn.serve.app import create_app
from cairn.serve.hosts import loopback
from cairn.serve.journal import log_to
from cairn.serve.keys import Keys
from cairn.serve.limits import Limits
from cairn.serve.patience import Patience
from cairn.serve.worker import Worker
from cairn.tokens.attribution import Attribution
from cairn.tokens.tokenizer import VOCABULARY

GRACE = 10  # seconds that running requests get when the server is asked to end
LATE = 15.0  # seconds more, after which a server that cannot go on ends at once


def folders_by_name(texts: Sequence[str]) -> dict[str, Path]:
    """`NAME=CHECKPOINT` each; UserError for one that is none."""
    found = [text.partition("=") for text in texts]
    for name, equals, folder in found:
        if not (name and equals and folder):
            raise UserError("--also", name, "is no NAME=CHECKPOINT")
    names = [name for name, _, _ in found]
    for name in names:
        if names.count(name) > 1:
            raise UserError("--also", name, "is the name of two models", "name them apart")
    return {name: Path(folder) for name, _, folder in found}


def serve(
    folder: str | Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    name: str | None = None,
    more: Mapping[str, str | Path] | None = None,
    slots: int | None = None,
    capacity: int | None = None,
    attribution: str | Path | None = None,
    limits: Limits | None = None,
    keys: Keys | None = None,
    admin_keys: Keys | None = None,
    weights: str | Path | None = None,
    allow_hosts: Collection[str] = (),
    grace: float = GRACE,
    caching: Caching | None = None,
    speculation: Speculation | None = None,
    float8: bool = False,
    invariant: bool = False,
    ranks: int = 1,
    state_dtype: str | None = None,
    memory: int | None = None,
) -> None:
    """Serve the checkpoint in `folder` over HTTP until SIGINT or SIGTERM.

    Only this machine can reach the default host. Port 0 takes a free one. `more` are folders of
    other models by name; `keys`, `admin_keys` and `weights` are those of `create_app`. A server
    on loopback without keys answers only to its own names and `allow_hosts`, for web pages reach
    it; another does so where there are any. At the end no new request is taken, and those that
    run have `grace` seconds. `caching`, `float8` (matrices in 8 bits), `invariant`, `state_dtype`
    and `memory` are those of each model's `Engine`, `speculation` is for the first. With `ranks`,
    so many processes share the model; it is then the only one. Raises
    UserError for a host or a port that cannot be had (before the model is loaded), for a folder
    that is no checkpoint, and where a rank was lost or an engine failed.
    """
    folder = Path(folder)
    name = name or folder.resolve().name
    others = dict(more or {})
    if name in others:
        raise UserError("name", name, "is that of two models", "name them apart")
    _refuse_early([folder, *others.values()], ranks, attribution, weights, admin_keys)
    with listen(host, port) as listening, contextlib.ExitStack() as closing:
        sizes = {
            "slots": slots, "capacity": capacity, "caching": caching, "invariant": invariant,
            "weights": "float8" if float8 else None, "state_dtype": state_dtype, "memory": memory,
        }  # fmt: skip
        only_here = keys is None and loopback(listening.getsockname()[0])
        hosts = allow_hosts if allow_hosts or only_here else None
        engine = Engine(folder, speculation=speculation, ranks=ranks, **sizes)
        closing.callback(engine.close)
        rest = {other: Engine(path, **sizes) for other, path in others.items()}
        _warm_up([engine, *rest.values()])
        app = create_app(
            engine, name, more=rest, limits=limits, attribution=attribution, keys=keys,
            admin_keys=admin_keys, weights=weights, hosts=hosts,
        )  # fmt: skip
        _note_ready(engine, [name, *rest], _address(listening))
        _until_ended(Server(app, grace), engine, ranks, listening)


def _note_ready(engine: Engine, names: Sequence[str], at: str) -> None:
    missing = native().missing if engine.model.device.type == "cpu" else ""
    if missing:
        note(f"this will be several times slower than it could be: {missing}")
    size = f"{engine.slots} slots of {engine.capacity} tokens"
    note(f"{', '.join(names)}: {at}/v1, a page at {at}/ ({size}); Ctrl-C ends it")


def _warm_up(engines: list[Engine]) -> None:
    """What compiles on a GPU compiles before a request waits for it.

    UserError where steps as large as requests may make them do not fit into the GPU's memory, and
    where a rank is lost.
    """
    try:
        took = sum(one.warm_up() for one in engines if one.model.device.type == "cuda")
    except RuntimeError as error:
        lost = [one.lost for one in engines if one.lost is not None]
        if not lost and not isinstance(error, torch.OutOfMemoryError):
            raise
        told = (*lost, str(error))[0].partition(". ")[0]
        if lost and "out of memory" not in told:
            raise UserError(f"ranks: {told} while kernels were compiled") from error
        raise UserError(
            f"the GPU's memory does not hold a step as large as requests may make it ({told}): "
            "give less --memory, which is for keys and states of each model, or fewer --slots"
        ) from error
    if took:
        note(f"kernels compiled and graphs captured in {took:.1f} s")


def _until_ended(server: "Server", engine: Engine, ranks: int, listening: socket.socket) -> None:
    log_to()
    engine.when_lost(server.lose)
    with frozen(), contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listening])  # uvicorn raises it again when it has ended
    if engine.lost is not None:
        raise UserError("ranks", ranks, engine.lost, "start the server again")
    server.refuse_failed()


@contextlib.contextmanager
def frozen() -> Iterator[None]:
    """Garbage is sought in what is new alone: through all that is loaded it takes as long as
    several steps, which no request gets meanwhile."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _refuse_early(
    folders: Sequence[str | Path],
    ranks: int,
    attribution: str | Path | None,
    weights: str | Path | None,
    admin_keys: Keys | None,
) -> None:
    """UserError for what the application would refuse once the models are loaded, minutes later."""
    if ranks > 1 and len(folders) > 1:
        problem = "are for one model, and there are more"
        raise UserError("ranks", ranks, problem, "start a server for each model")
    if weights is not None:
        refuse_unguarded(admin_keys)
        if not Path(weights).is_dir():
            raise UserError("--weights", str(weights), "is no folder", "give one of checkpoints")
    if attribution is not None:
        Attribution.open(attribution)
    for folder in folders:
        if Path(folder).is_dir() and not (Path(folder) / VOCABULARY).is_file():
            problem = f"has no tokenizer ({VOCABULARY}), so it cannot be served"
            raise UserError("checkpoint", str(folder), problem, "add it")


def _address(listening: socket.socket) -> str:
    where, taken = listening.getsockname()[:2]
    at = f"[{where}]" if ":" in where else where
    return f"http://{at}:{taken}"


class Server(uvicorn.Server):
    """uvicorn, which on its first signal takes no more requests and lets those that run end.

    Just before `grace` seconds are over, clients that still wait are told so (503, or an error
    event in a stream) instead of being cut off.
    """

    def __init__(self, app: FastAPI, grace: float = GRACE) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                http=Patience,
                lifespan="on",
                timeout_graceful_shutdown=max(1, round(grace)),
            )
        )
        self.workers: list[Worker] = [service.worker for service in app.state.models]
        self._grace = grace
        for worker in self.workers:
            worker.when_failed(self.lose)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """On SIGINT and SIGTERM; a second SIGINT ends at once."""
        for worker in self.workers:
            worker.drain()
            timer = threading.Timer(max(0.1, self._grace - 0.5), worker.end_all)
            timer.daemon = True
            timer.start()
        super().handle_exit(sig, frame)

    def refuse_failed(self) -> None:
        """UserError where an engine ended by an exception."""
        for worker in self.workers:
            if worker.failed is not None:
                what = f"the engine of {worker.name} ended ({worker.failed})"
                raise UserError(f"{what}: start the server again; the log has the traceback")

    def lose(self, why: str) -> None:
        """End, for nothing can be computed any more; at once if ending takes too long."""
        self.should_exit = True
        timer = threading.Timer(self._grace + LATE, _end_at_once, [why])
        timer.daemon = True
        timer.start()


def _end_at_once(why: str) -> None:
    """Where a thread waits for a device that does not answer, nothing else ends the process."""
    note(f"{why}; the server did not end by itself")
    os._exit(2)


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to the port, so that nobody takes it while the model loads."""
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
        raise UserError("port", port, "is not a port", "write 1 to 65535, or 0 for a free one")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        reason = error.strerror or "is unknown"
        raise UserError("host", host, f"cannot be listened on ({reason})") from None
    family, kind, protocol, _, address = found[0]
    listening = socket.socket(family, kind, protocol)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(address)
        listening.listen(512)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError("port", port, f"is in use on {host}", "choose another") from None
        problem = f"cannot be listened on ({error.strerror})"
        raise UserError("host and port", f"{host}:{port}", problem) from None
    return listening
