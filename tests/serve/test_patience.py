"""Clients that are slow on purpose: no connection is held for ever, and no honest one is cut."""

import asyncio
import contextlib
import json
import socket
import time

import pytest
from fastapi import FastAPI

from cairn.engine import Engine
from cairn.serve import Limits, create_app
from cairn.serve.patience import Patience
from cairn.serve.server import Server

HEAD = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
BODY = json.dumps({"prompt": "a", "max_tokens": 1})


class Hasty(Patience):
    """It does not wait for long."""

    seconds = 0.4


@pytest.fixture(scope="module")
def hasty(model, words, running_server):
    engine = Engine(model, words, slots=2, capacity=4096)
    app = create_app(engine, "tiny", limits=Limits(body_seconds=0.4))
    with running_server(app, engine, http=Hasty) as found:
        yield found


def connected(server) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    client = socket.create_connection((host, int(port)))
    client.settimeout(10)
    return client


def rest(client: socket.socket) -> bytes:
    """What comes until the server hangs up."""
    found = b""
    while piece := client.recv(65536):
        found += piece
    return found


@pytest.mark.parametrize("begun", ["", "POST /v1/comp", HEAD])
def test_a_request_that_does_not_begin_is_hung_up_on(hasty, begun):
    with connected(hasty) as client:
        client.sendall(begun.encode())
        before = time.monotonic()
        assert rest(client) == b""
        assert 0.2 < time.monotonic() - before < 5


def test_one_that_trickles_is_hung_up_on_too_and_after_an_answer(hasty):
    whole = f"{HEAD}Content-Length: {len(BODY)}\r\n\r\n{BODY}"
    with connected(hasty) as client:
        client.sendall(whole.encode())
        assert b"200 OK" in client.recv(65536)
        before = time.monotonic()
        with contextlib.suppress(OSError):  # the pipe breaks, or the connection is reset
            for letter in HEAD * 9:
                client.sendall(letter.encode())
                time.sleep(0.05)
        assert time.monotonic() - before < 5


def test_a_body_that_does_not_end_is_told_so(hasty):
    with connected(hasty) as client:
        client.sendall(f"{HEAD}Content-Length: 500\r\n\r\n{{".encode())
        answer = rest(client)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"did not come to its end" in answer


def test_an_answer_may_take_longer_than_a_request_may(hasty):
    body = {"prompt": "a", "max_tokens": 2500, "ignore_eos": True}
    before = time.monotonic()
    for stream in (False, True):
        answer = hasty.client.post("/v1/completions", json={**body, "stream": stream})
        assert answer.status_code == 200
    assert answer.text.endswith("data: [DONE]\n\n")
    assert time.monotonic() - before > 2 * Hasty.seconds


def test_the_server_is_of_that_kind():
    app = FastAPI()
    app.state.models = []
    server = Server(app)
    server.config.load()
    assert server.config.http_protocol_class is Patience
    assert issubclass(Patience, asyncio.Protocol)
