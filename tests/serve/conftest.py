"""A real server on a free port, over a small model."""

import contextlib
import hashlib
import inspect
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import uvicorn
from fastapi import FastAPI

from cairn.base import Recipe, Ref, Work
from cairn.base.make import make
from cairn.engine import Engine
from cairn.model import Decoder, build
from cairn.serve import Limits, create_app
from cairn.serve import server as serving
from cairn.serve.server import listen
from cairn.tokens import IndexAttribution, LearnTokenizer, Tokenize
from cairn.tokens.learning import learn
from cairn.tokens.tokenizer import Tokenizer

from ..fixtures.shapes import LIVELY, untrained

LIMITS = Limits(body_bytes=200_000, completions=8, stops=4, messages=6, open_requests=120)


@pytest.fixture(scope="session")
def words() -> Tokenizer:
    """A tokenizer of 400 ids."""
    return learn([inspect.getsource(textwrap)], 400)


@pytest.fixture(scope="session")
def model(words: Tokenizer) -> Decoder:
    """A small hybrid."""
    return build(untrained("M*-", words.vocab_size, **LIVELY), seed=0)


@dataclass
class Running:
    """A server and a client of it."""

    url: str
    client: httpx.Client
    engine: Engine

    def post(self, path: str, **body: object) -> httpx.Response:
        """POST a JSON body."""
        return self.client.post(path, json=body)

    def load(self) -> dict[str, int]:
        """What /health says."""
        return self.client.get("/health").json()

    def wait_until_idle(self, seconds: float = 10) -> None:
        """Until no request runs or waits."""
        end = time.monotonic() + seconds
        while (state := self.load())["running"] or state["waiting"]:
            assert time.monotonic() < end, f"slots are not freed: {state}"
            time.sleep(0.02)


@contextlib.contextmanager
def running(app: FastAPI, engine: Engine, **more: Any) -> Iterator[Running]:
    """Serve the app in a thread on a free port; `more` are uvicorn's options."""
    with listen("127.0.0.1", 0) as listening:
        config = uvicorn.Config(
            app, log_level="critical", lifespan="on", timeout_graceful_shutdown=2, **more
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        try:
            with httpx.Client(base_url=url, timeout=60) as client:
                yield Running(url, client, engine)
        finally:
            server.should_exit = True
            thread.join(20)
        assert not thread.is_alive(), "the server does not end"


@pytest.fixture(scope="module")
def server(model: Decoder, words: Tokenizer) -> Iterator[Running]:
    """One server for the tests of a module."""
    engine = Engine(model, words, slots=4, capacity=4096, token_budget=64)
    with running(create_app(engine, "tiny", limits=LIMITS), engine) as found:
        yield found
        found.wait_until_idle()


@pytest.fixture(scope="session")
def twin(model: Decoder, words: Tokenizer) -> Engine:
    """An engine of the test's own, to compare with."""
    return Engine(model, words, slots=4, capacity=4096)


@pytest.fixture(scope="session")
def running_server():
    """`with running_server(app, engine) as server`, for a test that needs one of its own."""
    return running


TEXT = inspect.getsource(textwrap)
BLOB = hashlib.sha1(b"blob %d\0" % len(TEXT.encode()) + TEXT.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class OneFile(Recipe):
    """A corpus of one file."""

    def run(self, work: Work) -> dict[str, Any]:
        row = {
            "ledger_row": 7,
            "content_id": BLOB,
            "repo_name": "python/cpython",
            "path": "Lib/textwrap.py",
            "language": "Python",
            "license_type": "permissive",
            "detected_licenses": ["PSF-2.0"],
            "length_bytes": len(TEXT.encode()),
            "content": TEXT,
        }
        (work.out / "files").mkdir()
        pq.write_table(pa.Table.from_pylist([row]), work.out / "files" / "part-00000.parquet")
        return {}


@dataclass
class Made:
    """What `serve` made: keywords of each engine, and of the application."""

    engines: list[dict[str, Any]] = field(default_factory=list)
    app: dict[str, Any] = field(default_factory=dict)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    """`serve` comes as far as to engines and application, of which none is real, and ends."""
    found = Made()

    def engine(_: object, **given: object) -> SimpleNamespace:
        found.engines.append(given)
        device = SimpleNamespace(device=torch.device("cpu"))
        return SimpleNamespace(
            model=device, slots=1, capacity=1, lost=None, when_lost=lambda hears: None,
            close=lambda: None,
        )  # fmt: skip

    monkeypatch.setattr(serving, "Engine", engine)
    monkeypatch.setattr(serving, "create_app", lambda *_, **more: found.app.update(more))
    monkeypatch.setattr(serving, "log_to", lambda: None)
    quiet = SimpleNamespace(run=lambda sockets: None, lose=None, refuse_failed=lambda: None)
    monkeypatch.setattr(serving, "Server", lambda *_: quiet)
    return found


@pytest.fixture(scope="session")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An attribution index of one file."""
    folder = tmp_path_factory.mktemp("runs")
    plan = {
        "corpus": OneFile(),
        "words": LearnTokenizer(corpus=Ref("corpus"), vocab_size=400),
        "shards": Tokenize(corpus=Ref("corpus"), tokenizer=Ref("words"), heldout=0.0),
        "index": IndexAttribution(shards=Ref("shards")),
    }
    make(plan, folder)
    return folder / "index"
