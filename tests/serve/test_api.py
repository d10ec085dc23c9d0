"""Answers over HTTP equal those of the engine; mistakes get one clear message each."""

import asyncio
import json
import socket
import time

import httpx
import pytest

from cairn.engine import SamplingParams
from cairn.tokens.chat import prompt_ids

PROMPT = "def add("
GREEDY = {"temperature": 0, "max_tokens": 12}
EVERY = {"ignore_eos": True}


def events(response: httpx.Response) -> list[dict]:
    """The chunks of a stream; it must end with [DONE]."""
    lines = [line for line in response.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def test_health_and_models(server):
    state = server.load()
    assert (state["status"], state["slots"]) == ("ok", 4)
    (card,) = server.client.get("/v1/models").json()["data"]
    assert (card["id"], card["object"], card["max_model_len"]) == ("tiny", "model", 4096)


def test_a_completion_is_the_engines(server, twin):
    answer = server.post("/v1/completions", model="tiny", prompt=PROMPT, **GREEDY).json()
    (expected,) = twin.generate([PROMPT], SamplingParams(**GREEDY))
    (choice,) = answer["choices"]
    assert choice["text"] == expected.text
    assert choice["finish_reason"] == expected.finish_reason
    assert choice["logprobs"] is None
    assert answer["object"] == "text_completion"
    assert answer["usage"] == {
        "prompt_tokens": len(expected.prompt_tokens),
        "completion_tokens": len(expected.tokens),
        "total_tokens": len(expected.prompt_tokens) + len(expected.tokens),
    }


def test_default_length_is_sixteen_tokens(server):
    answer = server.post("/v1/completions", prompt=PROMPT, **EVERY).json()
    assert answer["usage"]["completion_tokens"] == 16


def test_infilling_through_suffix(server, twin):
    body = {"prompt": "def f(", "suffix": "):\n", **GREEDY}
    answer = server.post("/v1/completions", **body).json()
    (expected,) = twin.generate(["def f("], SamplingParams(**GREEDY), suffix="):\n")
    assert answer["choices"][0]["text"] == expected.text
    assert answer["usage"]["prompt_tokens"] == len(expected.prompt_tokens)


def test_lists_of_prompts_and_n_give_choices_in_order(server, twin, words):
    body = {"n": 2, "seed": 5, "max_tokens": 6, "temperature": 1.0}
    answer = server.post("/v1/completions", prompt=["a", "b"], **body).json()
    prompts = ["a", "a", "b", "b"]
    params = [SamplingParams(max_tokens=6, seed=seed) for seed in (5, 6, 5, 6)]
    expected = [one.text for one in twin.generate(prompts, params)]
    assert [choice["text"] for choice in answer["choices"]] == expected
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert answer["usage"]["prompt_tokens"] == len(words.encode("a")) + len(words.encode("b"))


def test_token_ids_are_prompts_too(server, words):
    ids = words.encode(PROMPT)
    as_text = server.post("/v1/completions", prompt=PROMPT, **GREEDY).json()["choices"]
    as_ids = server.post("/v1/completions", prompt=ids, **GREEDY).json()["choices"]
    as_list = server.post("/v1/completions", prompt=[ids, ids], **GREEDY).json()["choices"]
    assert as_ids == as_text
    assert [choice["text"] for choice in as_list] == [as_text[0]["text"]] * 2


def test_stop_strings_end_the_text(server, twin):
    params = SamplingParams(max_tokens=40, seed=1, ignore_eos=True)
    (free,) = twin.generate([PROMPT], params)
    stop = free.text[7:10]
    body = {"max_tokens": 40, "seed": 1, "stop": ["never-there", stop], **EVERY}
    (choice,) = server.post("/v1/completions", prompt=PROMPT, **body).json()["choices"]
    assert choice["text"] == free.text[: free.text.index(stop)]
    assert choice["finish_reason"] == "stop"


def test_echo_and_logprobs_score_the_prompt(server, twin, words):
    body = {"max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 2, **EVERY}
    (choice,) = server.post("/v1/completions", prompt=PROMPT, **body).json()["choices"]
    params = SamplingParams(
        max_tokens=1, temperature=0, logprobs=2, prompt_logprobs=2, ignore_eos=True
    )
    (expected,) = twin.generate([PROMPT], params)
    assert choice["text"] == PROMPT + expected.text
    found = choice["logprobs"]
    assert found["token_logprobs"][0] is None
    assert found["top_logprobs"][0] is None
    assert expected.prompt_logprobs is not None
    assert expected.logprobs is not None
    truth = expected.prompt_logprobs[1:] + expected.logprobs
    assert found["token_logprobs"][1:] == pytest.approx(truth, abs=1e-4)
    size = len(words.encode(PROMPT))
    assert "".join(found["tokens"][:size]) == PROMPT
    for token, offset in zip(found["tokens"][:size], found["text_offset"], strict=False):
        assert PROMPT[offset:].startswith(token)
    assert all(2 <= len(top) <= 3 for top in found["top_logprobs"][1:])


def test_a_stream_gives_the_same_text_in_pieces(server):
    body = {"prompt": ["a", "b"], "max_tokens": 30, "seed": 2, "n": 2, "logprobs": 1}
    whole = server.post("/v1/completions", **body).json()
    response = server.post(
        "/v1/completions", **body, stream=True, stream_options={"include_usage": True}
    )
    assert response.headers["content-type"].startswith("text/event-stream")
    *chunks, last = events(response)
    assert last["choices"] == []
    assert last["usage"] == whole["usage"]
    for index, choice in enumerate(whole["choices"]):
        parts = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == index]
        assert "".join(part["text"] for part in parts) == choice["text"]
        assert [part["finish_reason"] for part in parts[:-1]] == [None] * (len(parts) - 1)
        assert parts[-1]["finish_reason"] == choice["finish_reason"]
        for key in ("tokens", "text_offset"):
            pieces = [item for part in parts if part["logprobs"] for item in part["logprobs"][key]]
            assert pieces == choice["logprobs"][key]
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert len(chunks) > 8


def test_a_stream_echoes_its_prompt_first(server):
    body = {"prompt": PROMPT, **GREEDY, "echo": True}
    whole = server.post("/v1/completions", **body).json()["choices"][0]["text"]
    chunks = events(server.post("/v1/completions", **body, stream=True))
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole
    assert chunks[0]["choices"][0]["text"].startswith(PROMPT)


@pytest.mark.parametrize("most", [0, 1, 9])
@pytest.mark.parametrize("prompt", [PROMPT, "\u20ac " * 60, ["a", "def f("], [5], [[7, 8], [0, 9]]])
def test_a_stream_that_echoes_gives_the_logprobs_of_the_whole(server, prompt, most):
    body = {"prompt": prompt, "max_tokens": most, "temperature": 0, "echo": True, "logprobs": 2}
    body |= {"n": 2, **EVERY}
    whole = server.post("/v1/completions", **body).json()["choices"]
    chunks = events(server.post("/v1/completions", **body, stream=True))
    for choice in whole:
        mine = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == choice["index"]]
        assert "".join(part["text"] for part in mine) == choice["text"]
        assert len(choice["logprobs"]["tokens"]) >= most + 1
        for key, expected in choice["logprobs"].items():
            pieces = [item for part in mine if part["logprobs"] for item in part["logprobs"][key]]
            if key in ("tokens", "text_offset"):
                assert pieces == expected
                continue
            assert len(pieces) == len(expected)  # batches differ in the last bits
            for one, other in zip(pieces, expected, strict=True):
                assert one == (other and pytest.approx(other, abs=1e-4))


CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Add <SPECIAL_12> two numbers"},
]


def test_chat_is_a_completion_of_the_template(server, twin, words):
    body = {"messages": CONVERSATION, "max_tokens": 10, "temperature": 0}
    answer = server.post("/v1/chat/completions", model="tiny", **body).json()
    ids = prompt_ids(CONVERSATION, words)
    (expected,) = twin.generate([ids], SamplingParams(**{**GREEDY, "max_tokens": 10}))
    (choice,) = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": expected.text}
    assert choice["finish_reason"] == expected.finish_reason
    assert answer["object"] == "chat.completion"
    assert answer["usage"]["prompt_tokens"] == len(ids)


def test_a_chat_stream_begins_with_the_role_and_gives_the_same_text(server):
    parts = [{"type": "text", "text": "Add "}, {"type": "text", "text": "two numbers"}]
    body = {
        "messages": [{"role": "user", "content": parts}],
        "max_completion_tokens": 20,
        "seed": 4,
        "n": 2,
        "logprobs": True,
        "top_logprobs": 2,
    }
    whole = server.post("/v1/chat/completions", **body).json()
    options = {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = events(server.post("/v1/chat/completions", **body, **options))
    assert last["usage"] == whole["usage"]
    for choice in whole["choices"]:
        mine = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == choice["index"]]
        assert mine[0]["delta"] == {"role": "assistant", "content": ""}
        text = "".join(part["delta"].get("content", "") for part in mine)
        assert text == choice["message"]["content"]
        assert mine[-1]["finish_reason"] == choice["finish_reason"]
        streamed = [e for part in mine if part["logprobs"] for e in part["logprobs"]["content"]]
        content = choice["logprobs"]["content"]
        assert [entry["token"] for entry in streamed] == [entry["token"] for entry in content]
        assert all(len(entry["top_logprobs"]) == 2 for entry in content)


TOOL = {"type": "function", "function": {"name": "add"}}
BAD = [
    ("completions", {}, 400, "prompt"),
    ("completions", {"prompt": 5}, 400, "prompt"),
    ("completions", {"prompt": []}, 400, "prompt"),
    ("completions", {"prompt": [[]]}, 400, "prompt"),
    ("completions", {"prompt": [1, "a"]}, 400, "prompt"),
    ("completions", {"prompt": [10**9]}, 400, "no token id"),
    ("completions", {"prompt": [-1]}, 400, "no token id"),
    ("completions", {"prompt": [True]}, 400, "prompt"),
    ("completions", {"prompt": None}, 400, "prompt"),
    ("completions", {"prompt": ["a"] * 9}, 400, "8"),
    ("completions", {"prompt": "a", "n": 9}, 400, "8"),
    ("completions", {"prompt": "a", "n": 0}, 400, "n:"),
    ("completions", {"prompt": "word " * 9000}, 400, "4096"),
    ("completions", {"prompt": "a", "max_tokens": -1}, 400, "max_tokens"),
    ("completions", {"prompt": "a", "max_tokens": "16"}, 400, "max_tokens"),
    ("completions", {"prompt": "a", "max_tokens": 1.5}, 400, "max_tokens"),
    ("completions", {"prompt": "a", "max_tokens": True}, 400, "max_tokens"),
    ("completions", {"prompt": "a", "temperature": -1}, 400, "temperature"),
    ("completions", {"prompt": "a", "temperature": "hot"}, 400, "temperature"),
    ("completions", {"prompt": "a", "top_p": -0.1}, 400, "top_p"),
    ("completions", {"prompt": "a", "top_p": 2}, 400, "top_p"),
    ("completions", {"prompt": "a", "top_k": -2}, 400, "top_k"),
    ("completions", {"prompt": "a", "seed": 0.5}, 400, "seed"),
    ("completions", {"prompt": "a", "seed": 2**63}, 400, "seed"),
    ("completions", {"prompt": "a", "stop": 5}, 400, "stop"),
    ("completions", {"prompt": "a", "stop": [""]}, 400, "stop"),
    ("completions", {"prompt": "a", "stop": ["x"] * 5}, 400, "stop"),
    ("completions", {"prompt": "a", "stop": "x" * 257}, 400, "stop"),
    ("completions", {"prompt": "a", "logprobs": 21}, 400, "logprobs"),
    ("completions", {"prompt": "a", "suffix": 5}, 400, "suffix"),
    ("completions", {"prompt": [1, 2], "suffix": "x"}, 400, "suffix"),
    ("completions", {"prompt": "a", "suffix": "x", "echo": True}, 400, "echo"),
    ("completions", {"prompt": "a", "best_of": 3}, 400, "best_of"),
    ("completions", {"prompt": "a", "presence_penalty": 101}, 400, "presence_penalty"),
    ("completions", {"prompt": "a", "repetition_penalty": 0}, 400, "repetition_penalty"),
    ("completions", {"prompt": "a", "min_p": 1.5}, 400, "min_p"),
    ("completions", {"prompt": "a", "logit_bias": {"x": 1}}, 400, "logit_bias"),
    ("completions", {"prompt": "a", "logit_bias": {"99999": 1}}, 400, "logit_bias"),
    ("completions", {"prompt": "a", "response_format": {"type": "regex"}}, 400, "regex"),
    (
        "completions",
        {"prompt": "a", "response_format": {"type": "regex", "regex": "(a"}},
        400,
        "response_format",
    ),
    ("completions", {"prompt": [1], "repository": {"path": "a.py"}}, 400, "repository"),
    ("completions", {"prompt": "a", "repository": {"path": ""}}, 400, "repository.path"),
    ("completions", {"prompt": "a", "thinking_budget_action": "force"}, 400, "budget"),
    ("completions", {"prompt": "a", "thinking_token_budget": -1}, 400, "budget"),
    ("completions", {"prompt": "a", "stream_options": {}}, 400, "stream"),
    ("completions", {"prompt": "a", "temprature": 1}, 400, "temprature"),
    ("completions", {"prompt": "a", "model": "gpt-9"}, 404, "gpt-9"),
    ("completions", {"prompt": "a\ud800"}, 400, "surrogate"),
    ("completions", {"prompt": "x" * 200_001}, 413, "200000"),
    ("chat/completions", {}, 400, "messages"),
    ("chat/completions", {"messages": []}, 400, "messages"),
    ("chat/completions", {"messages": "hello"}, 400, "messages"),
    ("chat/completions", {"messages": [{"role": "user"}]}, 400, "content"),
    ("chat/completions", {"messages": [{"role": "wizard", "content": "x"}]}, 400, "role"),
    ("chat/completions", {"messages": [{"role": "user", "content": 5}]}, 400, "content"),
    ("chat/completions", {"messages": [{"role": "user", "content": "x"}] * 7}, 400, "6"),
    (
        "chat/completions",
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
        400,
        "messages",
    ),
    ("chat/completions", {"messages": CONVERSATION[::-1]}, 400, "system"),
    ("chat/completions", {"messages": CONVERSATION, "n": 9}, 400, "8"),
    ("chat/completions", {"messages": CONVERSATION, "top_logprobs": 2}, 400, "logprobs"),
    ("chat/completions", {"messages": CONVERSATION, "tools": []}, 400, "tools"),
    ("chat/completions", {"messages": CONVERSATION, "tools": [TOOL] * 129}, 400, "tools"),
    ("chat/completions", {"messages": CONVERSATION, "tool_choice": "required"}, 400, "tool"),
    (
        "chat/completions",
        {
            "messages": CONVERSATION,
            "tools": [TOOL],
            "tool_choice": {"type": "function", "function": {"name": "none"}},
        },
        400,
        "tool_choice",
    ),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "body", "status", "message"), BAD)
def test_a_mistake_gets_one_message_that_names_it(server, path, body, status, message, stream):
    body = body | ({"stream": True} if stream and "stream_options" not in body else {})
    data = json.dumps(body).encode("utf-8", "surrogatepass")
    headers = {"content-type": "application/json"}
    response = server.client.post(f"/v1/{path}", content=data, headers=headers)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert message in error["message"]
    assert error["type"] == "invalid_request_error"
    assert set(error) == {"message", "type", "param", "code"}
    assert "\n" not in error["message"]


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'"x"', b"\xff", b"null", b'{"prompt": NaN}'])
def test_a_body_that_is_no_json_object_is_refused(server, data):
    headers = {"content-type": "application/json"}
    response = server.client.post("/v1/completions", content=data, headers=headers)
    assert response.status_code == 400
    assert response.json()["error"]["message"]


def test_a_chunked_body_is_bounded_too(server):
    def pieces():
        yield b'{"prompt": "'
        for _ in range(50):
            yield b"x" * 10_000
        yield b'"}'

    headers = {"content-type": "application/json"}
    response = server.client.post("/v1/completions", content=pieces(), headers=headers)
    assert response.status_code == 413


def test_unknown_paths_and_methods_have_the_same_shape(server):
    for response, status in (
        (server.client.get("/v1/nothing"), 404),
        (server.client.get("/v1/completions"), 405),
    ):
        assert response.status_code == status
        assert response.json()["error"]["type"] == "invalid_request_error"


def test_fifty_concurrent_requests_get_what_each_would_get_alone(server, twin):
    seeds = range(50)
    params = [SamplingParams(max_tokens=10, seed=seed, ignore_eos=True) for seed in seeds]
    prompts = [f"x{seed} = " for seed in seeds]
    expected = [one.text for one in twin.generate(prompts, params)]

    async def one(client: httpx.AsyncClient, seed: int) -> str:
        body = {"prompt": prompts[seed], "max_tokens": 10, "seed": seed, **EVERY}
        if seed % 2:
            response = await client.post("/v1/completions", json=body)
            return response.json()["choices"][0]["text"]
        response = await client.post("/v1/completions", json={**body, "stream": True})
        return "".join(chunk["choices"][0]["text"] for chunk in events(response))

    async def everybody() -> list[str]:
        limits = httpx.Limits(max_connections=50)
        async with httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits) as client:
            return await asyncio.gather(*(one(client, seed) for seed in seeds))

    assert asyncio.run(everybody()) == expected
    server.wait_until_idle()


def half_open(server, body: dict) -> socket.socket:
    """A client that sends a request and reads nothing."""
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    data = json.dumps(body).encode()
    head = (
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    connection.sendall(head.encode() + data)
    return connection


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_vanishes_frees_its_slots(server, stream):
    body = {"prompt": "a", "max_tokens": 4000, "n": 3, "stream": stream, **EVERY}
    clients = [half_open(server, body) for _ in range(4)]  # 12 completions for 4 slots
    end = time.monotonic() + 10
    while server.load()["waiting"] < 8:
        assert time.monotonic() < end
        time.sleep(0.01)
    drawn = server.load()["tokens_drawn"]
    for client in clients:
        client.close()
    server.wait_until_idle()
    assert server.load()["tokens_drawn"] - drawn < 8000, "they ran to their ends"
    assert server.post("/v1/completions", prompt=PROMPT, **GREEDY).status_code == 200


def test_too_many_open_requests_are_told_to_come_back(server):
    clients = [
        half_open(server, {"prompt": "a", "max_tokens": 4000, "n": 8, **EVERY}) for _ in range(15)
    ]
    end = time.monotonic() + 10
    while (state := server.load())["waiting"] + state["running"] < 120:
        assert time.monotonic() < end
        time.sleep(0.01)
    response = server.post("/v1/completions", prompt=PROMPT, **GREEDY)
    assert response.status_code == 429
    assert response.json()["error"]["type"] == "rate_limit_error"
    for client in clients:
        client.close()
    server.wait_until_idle()
    assert server.post("/v1/completions", prompt=PROMPT, **GREEDY).status_code == 200
