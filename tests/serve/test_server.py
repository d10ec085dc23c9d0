"""The server's life: its port, its end, and what happens when the engine fails."""

import gc
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, Literal

import httpx
import pytest
import torch
from pydantic import BaseModel

from cairn.base import UserError
from cairn.engine import Engine
from cairn.model import save
from cairn.serve import create_app, serve
from cairn.serve.server import _warm_up, frozen


@pytest.fixture(scope="module")
def folder(model, words, tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoints") / "tiny"
    save(model, path)
    words.save(path)
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def started(*command: str) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """A server in a process of its own, and what it writes; it is gone afterwards."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env)
    assert process.stderr is not None
    try:
        yield process, process.stderr
    finally:
        process.kill()
        process.wait()


def test_a_port_in_use_is_told_before_the_model_is_loaded(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port={port}: is in use"):
            serve(tmp_path / "no-checkpoint-here", port=port)


@pytest.mark.parametrize(
    ("host", "port", "message"),
    [
        ("127.0.0.1", 65536, "port"),
        ("127.0.0.1", -1, "port"),
        ("127.0.0.1", "80", "port"),
        ("no such host", 0, "host"),
        ("192.0.2.1", 0, "host"),
    ],
)
def test_addresses_that_cannot_be_had_are_refused(folder, host, port, message):
    with pytest.raises(UserError, match=message):
        serve(folder, host, port)


def test_a_folder_without_a_tokenizer_is_refused(model, tmp_path):
    save(model, tmp_path)
    with pytest.raises(UserError, match="tokenizer"):
        serve(tmp_path, port=0)


def test_what_is_loaded_is_not_searched_for_garbage_while_the_server_runs():
    before = gc.get_freeze_count()
    with frozen():
        assert gc.get_freeze_count() > before + 1000
        cycle = [object()]
        cycle.append(cycle)
        del cycle
        assert gc.collect() > 0, "what is new is still sought"
    assert gc.get_freeze_count() == 0


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        (None, r"\(CUDA out of memory\): give less --memory"),
        ("the first rank failed: OutOfMemoryError CUDA out of memory. Tried", "give less --memory"),
        ("rank 1 ended: SIGKILL", "ranks: rank 1 ended: SIGKILL while kernels were compiled"),
    ],
)
def test_what_fails_before_there_are_requests_is_told_in_a_line(lost, message):
    def warm_up() -> float:
        if lost is not None:
            raise RuntimeError(f"ranks: {lost}")
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. And more.")

    engine: Any = SimpleNamespace(model=SimpleNamespace(device=torch.device("cuda")), lost=lost)
    engine.warm_up = warm_up
    with pytest.raises(UserError, match=message):
        _warm_up([engine])


def test_a_missing_extra_names_the_line_to_type():
    code = (
        "import sys\n"
        "sys.modules['uvicorn'] = None\n"
        "from cairn.base import UserError\n"
        "try:\n"
        "    from cairn.serve import serve\n"
        "except UserError as error:\n"
        "    assert \"pip install 'cairn-lm[serve]'\" in str(error), error\n"
        "else:\n"
        "    raise SystemExit('no error')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_after_the_running_requests(folder, kind):
    port = free_port()
    code = f"from cairn.serve import serve; serve({str(folder)!r}, port={port})"
    with started(sys.executable, "-c", code) as (process, said):
        assert f"tiny: http://127.0.0.1:{port}/v1" in said.readline()
        url = f"http://127.0.0.1:{port}"
        body = {"prompt": "a", "max_tokens": 200, "stream": True, "ignore_eos": True}
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=30) as stream:
            lines = stream.iter_lines()
            assert next(lines).startswith("data: ")
            process.send_signal(kind)
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert json.loads(rest[-2].removeprefix("data: "))["choices"][0]["finish_reason"]
        _, noise = process.communicate(timeout=30)
        assert "Traceback" not in noise
        assert process.returncode in (0, -kind)


def test_who_still_waits_at_the_end_is_told_so(folder):
    port = free_port()
    code = f"from cairn.serve import serve; serve({str(folder)!r}, port={port}, grace=2)"
    with started(sys.executable, "-c", code) as (process, said):
        said.readline()
        body = {"prompt": "a", "max_tokens": 8000, "stream": True, "ignore_eos": True}
        url = f"http://127.0.0.1:{port}/v1/completions"
        with httpx.stream("POST", url, json=body, timeout=30) as stream:
            lines = stream.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        error = json.loads(rest[-2].removeprefix("data: "))["error"]
        assert "shutting down" in error["message"]
        _, noise = process.communicate(timeout=30)
        assert "Traceback" not in noise
        (line,) = [json.loads(line) for line in noise.splitlines() if '"path"' in line]
        assert (line["path"], line["status"], line["model"]) == ("/v1/completions", 200, "tiny")


@pytest.mark.parallel
def test_a_server_whose_rank_dies_ends_with_one_line(folder):
    port = free_port()
    cairn = [sys.executable, "-m", "cairn", "serve", str(folder), "--port", str(port)]
    with started(*cairn, "--ranks", "2", "--grace", "5") as (process, said):
        assert f"http://127.0.0.1:{port}/v1" in said.readline()
        url = f"http://127.0.0.1:{port}/v1/completions"
        body = {"prompt": "a", "max_tokens": 8, "temperature": 0}
        assert httpx.post(url, json=body, timeout=30).json()["choices"][0]["text"]
        long = body | {"max_tokens": 8000, "stream": True, "ignore_eos": True}
        with httpx.stream("POST", url, json=long, timeout=30) as stream:
            lines = stream.iter_lines()
            next(lines)
            os.kill(_rank_of(process.pid), signal.SIGKILL)
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        error = json.loads(rest[-2].removeprefix("data: "))["error"]
        assert "the server ends" in error["message"]
        _, noise = process.communicate(timeout=30)
        assert process.returncode == 2
        assert "Traceback" not in noise
        assert noise.splitlines()[-1] == (
            "cairn: ranks=2: rank 1 ended: SIGKILL; start the server again"
        )


FAILS = """
import sys
from cairn.cli import main
from cairn.engine import Engine

enter = Engine.enter

def fails(engine, sequence):
    if sequence.params.seed == 666:
        raise RuntimeError("out of\\nmemory")
    return enter(engine, sequence)

Engine.enter = fails
sys.exit(main(["serve", *sys.argv[1:]]))
"""


def test_a_server_whose_engine_fails_tells_everybody_and_ends(folder):
    """A supervisor starts it again; one that answered 503 for ever would stay."""
    port = free_port()
    with started(sys.executable, "-c", FAILS, str(folder), "--port", str(port)) as (process, said):
        said.readline()
        url = f"http://127.0.0.1:{port}/v1/completions"
        body = {"prompt": "a", "max_tokens": 3000, "ignore_eos": True}
        with httpx.stream("POST", url, json={**body, "stream": True}, timeout=30) as stream:
            lines = stream.iter_lines()
            next(lines)
            refused = httpx.post(url, json={**body, "n": 2, "seed": 666}, timeout=30)
            rest = [line for line in lines if line]
        assert refused.status_code == 503
        assert "the engine of this model ended" in refused.json()["error"]["message"]
        assert "memory" not in refused.text
        assert rest[-1] == "data: [DONE]"
        error = json.loads(rest[-2].removeprefix("data: "))["error"]
        assert "the engine of this model ended" in error["message"]
        _, noise = process.communicate(timeout=30)
        assert process.returncode == 2
        *log, last = noise.splitlines()
        assert last.startswith("cairn: the engine of tiny ended (RuntimeError out of memory)")
        (why,) = [line for line in map(json.loads, log) if line["level"] == "critical"]
        assert why["message"] == "the engine of tiny ended: RuntimeError out of memory"
        assert "Traceback" in why["error"]


def _rank_of(parent: int) -> int:
    """The process of the second rank."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    started = [int(c) for c in children if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()]
    assert len(started) == 1
    return started[0]


def test_ranks_are_for_one_model(folder):
    with pytest.raises(UserError, match="ranks=2: are for one model"):
        serve(folder, port=0, more={"other": folder}, ranks=2)


def test_a_failing_engine_answers_500_and_goes_on(model, words, monkeypatch, running_server):
    engine = Engine(model, words, slots=2, capacity=256)
    with running_server(create_app(engine, "tiny"), engine) as server:
        body = {"prompt": "a", "max_tokens": 4, "temperature": 0}
        before = server.post("/v1/completions", **body).json()["choices"]
        run = engine._runner.run

        def breaks(slices):
            raise RuntimeError("secret detail")

        monkeypatch.setattr(engine._runner, "run", breaks)
        response = server.post("/v1/completions", **body)
        assert response.status_code == 500
        assert response.json()["error"]["type"] == "server_error"
        assert "secret" not in response.text
        stream = server.post("/v1/completions", **body, stream=True)
        first, last = [line for line in stream.text.split("\n\n") if line]
        assert json.loads(first.removeprefix("data: "))["error"]["type"] == "server_error"
        assert last == "data: [DONE]"
        monkeypatch.setattr(engine._runner, "run", run)
        assert server.post("/v1/completions", **body).json()["choices"] == before
        server.wait_until_idle()


def test_logits_that_are_no_numbers_answer_500(model, words, monkeypatch, running_server):
    engine = Engine(model, words, slots=2, capacity=256)
    logits = engine._runner.logits
    monkeypatch.setattr(engine._runner, "logits", lambda *a: logits(*a) * float("nan"))
    with running_server(create_app(engine, "tiny"), engine) as server:
        response = server.post("/v1/completions", prompt="a")
        assert response.status_code == 500
        assert "not numbers" in response.json()["error"]["message"]
        assert server.load()["status"] == "ok"


def test_the_openai_client_reads_the_answers(model, words, running_server):
    openai = pytest.importorskip("openai", reason="the openai client is not installed")
    engine = Engine(model, words, slots=4, capacity=512)
    with running_server(create_app(engine, "tiny"), engine) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        assert [card.id for card in client.models.list()] == ["tiny"]
        kind = {"model": "tiny", "max_tokens": 8, "seed": 3}
        whole = client.completions.create(prompt="def f(", suffix="):", logprobs=2, **kind)
        stream = client.completions.create(prompt="def f(", suffix="):", stream=True, **kind)
        assert "".join(chunk.choices[0].text for chunk in stream) == whole.choices[0].text
        said = [{"role": "user", "content": "hello"}]
        turn = client.chat.completions.create(messages=said, logprobs=True, **kind)
        pieces = client.chat.completions.create(messages=said, stream=True, **kind)
        text = "".join(piece.choices[0].delta.content or "" for piece in pieces)
        assert text == turn.choices[0].message.content
        with pytest.raises(openai.BadRequestError, match="temperature"):
            client.completions.create(prompt="a", temperature=-1, **kind)
        with pytest.raises(openai.NotFoundError, match="gpt-9"):
            client.completions.create(prompt="a", **{**kind, "model": "gpt-9"})


class Verdict(BaseModel):
    """What the client asks for by a schema."""

    ok: bool
    kind: Literal["a", "b"]


def test_the_openai_client_calls_tools_and_parses_schemas(model, words, running_server):
    openai = pytest.importorskip("openai", reason="the openai client is not installed")
    pytest.importorskip("llguidance", reason="the extra grammar is not installed")
    engine = Engine(model, words, slots=4, capacity=1024)
    city = {"type": "object", "properties": {"city": {"enum": ["Rome", "Bern"]}}}
    city |= {"required": ["city"], "additionalProperties": False}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": city}}]
    with running_server(create_app(engine, "tiny"), engine) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        kind = {"model": "tiny", "max_tokens": 100, "seed": 3}
        said: list = [{"role": "user", "content": "hello"}]
        asked = {"messages": said, "tools": tools, "tool_choice": "required"}
        turn = client.chat.completions.create(**asked, parallel_tool_calls=False, **kind)
        (call,) = turn.choices[0].message.tool_calls
        assert turn.choices[0].finish_reason == "tool_calls"
        assert json.loads(call.function.arguments)["city"] in ("Rome", "Bern")
        pieces = client.chat.completions.create(
            **asked, parallel_tool_calls=False, stream=True, **kind
        )
        calls = [one for piece in pieces for one in piece.choices[0].delta.tool_calls or ()]
        assert [one.function.arguments for one in calls] == [call.function.arguments]
        answer = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
        said += [turn.choices[0].message.to_dict(), answer]
        client.chat.completions.create(messages=said, tools=tools, model="tiny", max_tokens=4)
        parsed = client.chat.completions.parse(
            messages=said[:1], response_format=Verdict, model="tiny", max_tokens=80
        )
        assert isinstance(parsed.choices[0].message.parsed, Verdict)


def test_the_openai_client_gets_calls_or_an_answer_by_schema(model, words, running_server):
    """Tools and a response format together: each choice is one of the two, whole and streamed."""
    openai = pytest.importorskip("openai", reason="the openai client is not installed")
    pytest.importorskip("llguidance", reason="the extra grammar is not installed")

    class Weather(BaseModel):
        """What the tool is asked."""

        city: Literal["Rome", "Bern"]

    engine = Engine(model, words, slots=8, capacity=1024)
    with running_server(create_app(engine, "tiny"), engine) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        said: list = [{"role": "user", "content": "hello"}]
        asked = {"model": "tiny", "messages": said, "max_tokens": 120, "seed": 3, "n": 8}
        asked |= {"tools": [openai.pydantic_function_tool(Weather)], "response_format": Verdict}
        whole = client.chat.completions.parse(**asked)
        kinds = set()
        for choice in whole.choices:
            kinds.add(choice.finish_reason)
            if choice.finish_reason == "tool_calls":
                assert choice.message.content is None
                for call in choice.message.tool_calls or ():
                    assert isinstance(call.function.parsed_arguments, Weather)
            else:
                assert not choice.message.tool_calls
                assert isinstance(choice.message.parsed, Verdict)
        assert kinds == {"stop", "tool_calls"}
        with client.chat.completions.stream(**asked) as stream:
            for _ in stream:
                pass
            streamed = stream.get_final_completion()
        for one, other in zip(streamed.choices, whole.choices, strict=True):
            assert one.finish_reason == other.finish_reason
            assert one.message.parsed == other.message.parsed
            calls = [
                [call.function.arguments for call in each.message.tool_calls or ()]
                for each in (one, other)
            ]
            assert calls[0] == calls[1]
