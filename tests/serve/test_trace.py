"""/v1/trace names the file that a text was learned from."""

import hashlib
import inspect
import textwrap

import pytest

from cairn.base import UserError
from cairn.engine import Engine
from cairn.serve import create_app

TEXT = inspect.getsource(textwrap)
BLOB = hashlib.sha1(b"blob %d\0" % len(TEXT.encode()) + TEXT.encode()).hexdigest()


def test_a_passage_is_traced_to_its_file_and_licence(model, words, index, running_server):
    engine = Engine(model, words, slots=1, capacity=64)
    passage = TEXT[500:560]
    with running_server(create_app(engine, "tiny", attribution=index), engine) as server:
        answer = server.post("/v1/trace", text=f"zzz{passage}\x00\x00", minimum=24, top=3)
        (match,) = answer.json()["data"]
        assert passage in match["text"]
        (found,) = match["occurrences"]
        assert found["path"] == "Lib/textwrap.py"
        assert found["swhid"] == f"swh:1:cnt:{BLOB}"
        assert found["detected_licenses"] == ["PSF-2.0"]
        for body in ({}, {"text": ""}, {"text": "x", "minimum": 1}, {"text": "x", "top": 0}):
            assert server.post("/v1/trace", **body).status_code == 400


def test_a_folder_that_is_no_index_is_refused(model, words, tmp_path):
    engine = Engine(model, words, slots=1, capacity=64)
    with pytest.raises(UserError, match="index"):
        create_app(engine, "tiny", attribution=tmp_path)


def test_without_an_index_there_is_no_such_path(model, words, running_server):
    engine = Engine(model, words, slots=1, capacity=64)
    with running_server(create_app(engine, "tiny"), engine) as server:
        assert server.post("/v1/trace", text="x").status_code == 404
