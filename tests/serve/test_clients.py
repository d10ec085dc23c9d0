"""What clients of the OpenAI API and of other servers send and expect, beside its plain use."""

import json

import pytest

USER = {"role": "user", "content": "hello"}
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
LOOK = {"type": "function", "function": {"name": "look"}}


def chat(server, *messages: dict, **more: object):
    body = {"max_tokens": 3, "seed": 1, "messages": [USER, *messages], **more}
    return server.post("/v1/chat/completions", **body)


def complete(server, **body: object):
    return server.post("/v1/completions", **({"prompt": "def f(", "max_tokens": 3} | body))


def error_of(response, status: int = 400) -> dict:
    assert response.status_code == status, response.text
    return response.json()["error"]


TURNS = [
    # What the official client makes of an answer: `message.model_dump()`.
    {
        "role": "assistant",
        "content": "hello",
        "refusal": None,
        "annotations": None,
        "audio": None,
        "function_call": None,
        "tool_calls": None,
    },
    {"role": "assistant", "content": "hello", "refusal": None, "annotations": []},
    {"role": "assistant", "content": [{"type": "refusal", "refusal": "hello"}]},
    {"role": "assistant", "content": "", "refusal": "hello"},
]


@pytest.mark.parametrize("turn", TURNS)
def test_an_answer_may_be_sent_back_as_a_client_keeps_it(server, turn):
    plain = {"role": "assistant", "content": "hello"}
    expected = chat(server, plain, USER).json()["choices"]
    found = chat(server, turn, USER)
    assert found.status_code == 200, found.text
    assert found.json()["choices"] == expected


@pytest.mark.parametrize("arguments", ["{}", "", " "])
def test_calls_that_were_streamed_and_empty_results_are_taken(server, arguments):
    call = {**CALL, "index": 0, "function": {"name": "look", "arguments": arguments}}
    turn = {"role": "assistant", "content": "", "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": "c1", "content": ""}
    found = chat(server, turn, result, tools=[LOOK])
    assert found.status_code == 200, found.text
    plain = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    expected = chat(server, plain, {**result, "content": []}, tools=[LOOK])
    assert found.json()["choices"] == expected.json()["choices"]


def test_a_message_may_be_empty_and_not_missing(server):
    empty = chat(server, {"role": "assistant", "content": "x"}, {**USER, "content": ""})
    assert empty.status_code == 200
    error = error_of(chat(server, {"role": "assistant", "content": None}))
    assert error["param"] == "messages[1].content"
    error = error_of(chat(server, {"role": "user", "content": [{"type": "text"}]}))
    assert error["param"] == "messages[1].content[0]"


def test_fields_that_say_nothing_here_are_taken(server):
    known = {
        "metadata": {"run": "7"},
        "store": False,
        "service_tier": "auto",
        "modalities": ["text"],
        "safety_identifier": "somebody",
        "prompt_cache_key": "prefix",
        "user": "somebody",
    }
    found = chat(server, **known)
    assert found.status_code == 200, found.text
    assert found.json()["choices"] == chat(server).json()["choices"]
    for name, value in (("store", True), ("service_tier", "flex"), ("modalities", ["audio"])):
        assert name in error_of(chat(server, **{name: value}))["message"]


def test_null_asks_for_nothing_whatever_the_field(server):
    unset = dict.fromkeys(("prediction", "audio", "functions", "seed", "stop", "tools", "odd"))
    found = chat(server, **unset)
    assert found.status_code == 200, found.text
    error = error_of(chat(server, odd=1))
    assert (error["param"], error["message"]) == ("odd", "odd: is not a field of this request")


def test_effort_switches_thinking(server):
    def prompt(**more: object) -> int:
        return chat(server, **more).json()["usage"]["prompt_tokens"]

    on = prompt(chat_template_kwargs={"enable_thinking": True})
    off = prompt(chat_template_kwargs={"enable_thinking": False})
    assert on != off
    assert prompt(reasoning_effort="high") == on
    assert prompt(reasoning_effort="none") == off
    both = {"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": True}}
    assert error_of(chat(server, **both))["param"] == "reasoning_effort"


def test_the_ends_of_ranges_are_what_other_servers_take_them_for(server):
    greedy = complete(server, temperature=0).json()["choices"]
    assert complete(server, temperature=1, top_p=0).json()["choices"] == greedy
    free = complete(server, seed=3).json()["choices"]
    assert complete(server, seed=3, top_k=-1).json()["choices"] == free
    assert complete(server, temperature=1e-9).json()["choices"] == greedy


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_token_itself_is_among_the_likeliest(server, count):
    for stream in (False, True):
        body = {"seed": 5, "temperature": 3, "logprobs": count, "echo": True, "stream": stream}
        answer = complete(server, **body)
        lines = [answer.text]
        if stream:
            lines = [line[6:] for line in answer.text.split("\n\n") if line.startswith("data: {")]
        found = [json.loads(line)["choices"][0]["logprobs"] for line in lines]
        rows = [
            row
            for part in found
            if part
            for row in zip(
                part["tokens"], part["token_logprobs"], part["top_logprobs"], strict=True
            )
        ]
        assert rows[0][1:] == (None, None)
        for token, logprob, top in rows[1:]:
            assert top[token] >= logprob
            assert count <= len(top) <= count + 1


def test_a_prompt_that_is_too_long_has_the_code_for_it(server):
    for stream in (False, True):
        error = error_of(complete(server, prompt="word " * 9000, stream=stream))
        assert (error["code"], error["param"]) == ("context_length_exceeded", "prompt")
        long = {"role": "user", "content": "word " * 9000}
        error = error_of(chat(server, long, stream=stream))
        assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")


def test_what_the_engine_refuses_is_named_as_in_the_request(server):
    pytest.importorskip("llguidance", reason="the extra grammar is not installed")
    endless = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#"}}}
    error = error_of(chat(server, response_format=endless))
    assert error["param"] == "response_format"
    assert error["message"].endswith("cannot be followed: no text fits it")
    wrong = {"type": "function", "function": {"name": "f", "parameters": {"type": "objekt"}}}
    error = error_of(chat(server, tools=[wrong], tool_choice="required"))
    assert error["param"] == "tools"
    for body, field in (
        ({"logit_bias": {"99999": 1}}, "logit_bias"),
        ({"prompt": [-1]}, "prompt"),
        ({"stop_token_ids": [-1]}, "stop_token_ids"),
        ({"n": 100}, "n"),
    ):
        error = error_of(complete(server, **body))
        assert error["param"] == field
        assert error["message"].startswith(field)


def test_a_grammar_that_breaks_half_way_is_the_request_s_own(server):
    pytest.importorskip("llguidance", reason="the extra grammar is not installed")
    form = {"type": "regex", "regex": "(a{1000}){1000}{1000}"}
    error = error_of(complete(server, response_format=form))
    assert "cannot be followed to its end" in error["message"]
    assert error["type"] == "invalid_request_error"
    answer = complete(server, response_format=form, stream=True)
    assert "cannot be followed to its end" in answer.text
    assert answer.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("chatting", [False, True])
def test_chunks_say_null_of_what_is_used_until_the_last(server, chatting):
    options = {"stream": True, "stream_options": {"include_usage": True}}
    answer = chat(server, **options) if chatting else complete(server, **options)
    lines = [line[6:] for line in answer.text.split("\n\n") if line.startswith("data: {")]
    chunks = [json.loads(line) for line in lines]
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert chunks[-1]["usage"]["completion_tokens"] == 3
    assert chunks[-1]["choices"] == []


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", None])
def test_a_body_of_another_kind_is_told_so(server, kind):
    headers = {} if kind is None else {"content-type": kind}
    data = b'{"prompt": "a", "max_tokens": 1}'
    response = server.client.post("/v1/completions", content=data, headers=headers)
    error = error_of(response, 415)
    assert "application/json" in error["message"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('{"prompt": "a", "max_tokens": ' + "9" * 5000 + "}", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "the body: should be an object"),
        ('{"prompt": "a", "logit_bias": []}', "logit_bias: should be an object"),
        ('{"prompt": "a", "stop": 5}', "stop: should be a string or should be an array"),
        ('{"prompt": "a", "n": "x"}', "n: should be an integer"),
        ('{"prompt": "a", "stream": 1}', "stream: should be true or false"),
    ],
)
def test_mistakes_are_told_in_the_words_of_json(server, body, said):
    headers = {"content-type": "application/json"}
    response = server.client.post("/v1/completions", content=body, headers=headers)
    assert said in error_of(response)["message"]


def test_methods_that_a_path_lacks_are_told_the_one_it_has(server):
    response = server.client.get("/v1/completions")
    assert response.headers["allow"] == "POST"
    assert "POST" in error_of(response, 405)["message"]
    for path in ("/", "/health"):
        assert server.client.head(path).status_code == 200


def test_a_model_s_name_may_have_slashes(model, words, running_server):
    from cairn.engine import Engine
    from cairn.serve import create_app

    engine = Engine(model, words, slots=1, capacity=64)
    with running_server(create_app(engine, "me/mine"), engine) as server:
        for path in ("me/mine", "me%2Fmine"):
            assert server.client.get(f"/v1/models/{path}").json()["id"] == "me/mine"
        assert server.client.get("/v1/models/me").status_code == 404
