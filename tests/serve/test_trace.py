"""/v1/trace names the file that a text was learned from."""

import hashlib
import inspect
import textwrap
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cairn.base import Recipe, Ref, UserError, Work
from cairn.base.make import make
from cairn.engine import Engine
from cairn.serve import create_app
from cairn.tokens import IndexAttribution, LearnTokenizer, Tokenize

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


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    plan = {
        "corpus": OneFile(),
        "words": LearnTokenizer(corpus=Ref("corpus"), vocab_size=400),
        "shards": Tokenize(corpus=Ref("corpus"), tokenizer=Ref("words"), heldout=0.0),
        "index": IndexAttribution(shards=Ref("shards")),
    }
    make(plan, folder)
    return folder / "index"


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
