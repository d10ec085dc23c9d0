"""`cairn serve`: a checkpoint folder behind a port, until it is interrupted."""

import contextlib
import errno
import socket
from pathlib import Path

import uvicorn

from cairn.base import UserError, note
from cairn.engine import Engine
from cairn.serve.app import create_app
from cairn.serve.limits import Limits

GRACE = 10  # seconds that running requests get when the server is asked to end


def serve(
    folder: str | Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    name: str | None = None,
    slots: int | None = None,
    capacity: int | None = None,
    attribution: str | Path | None = None,
    limits: Limits | None = None,
) -> None:
    """Serve the checkpoint in `folder` over HTTP until SIGINT or SIGTERM.

    Only this machine can reach the default host. Port 0 takes a free one. Raises UserError for a
    host or a port that cannot be had (before the model is loaded) and for a folder that is no
    checkpoint.
    """
    folder = Path(folder)
    with listen(host, port) as listening:
        engine = Engine(folder, slots=slots, capacity=capacity)
        name = name or folder.resolve().name
        app = create_app(engine, name, limits=limits, attribution=attribution)
        config = uvicorn.Config(
            app, log_level="warning", timeout_graceful_shutdown=GRACE, lifespan="on"
        )
        where, taken = listening.getsockname()[:2]
        note(
            f"{name}: http://{f'[{where}]' if ':' in where else where}:{taken}/v1 "
            f"({engine.slots} slots of {engine.capacity} tokens); Ctrl-C ends it"
        )
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again when it has ended
            uvicorn.Server(config).run(sockets=[listening])


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
