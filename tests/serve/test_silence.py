"""Nothing that a request says is ignored in silence: it holds, or is refused by name."""

import json

import pytest

SAID = [{"role": "user", "content": "hello"}]
ROLL = {"type": "function", "function": {"name": "roll", "parameters": {"type": "object"}}}
OFF = {"chat_template_kwargs": {"enable_thinking": False}}


def called(*ids: str | None, arguments: str = "{}") -> dict:
    function = {"name": "roll", "arguments": arguments}
    calls = [{"id": name, "type": "function", "function": function} for name in ids]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def nested(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


REFUSED = [
    (
        {"messages": [{"role": "user", "content": "a /no_think"}], "thinking_token_budget": 3},
        "thinking_token_budget: this conversation does not think",
    ),
    ({"messages": SAID, "thinking_token_budget": 3, **OFF}, "thinking_token_budget"),
    (
        {"messages": SAID, "stream": True, "stream_options": {"include_obfuscation": True}},
        "stream_options.include_obfuscation: is not offered",
    ),
    ({"messages": SAID, "max_tokens": 3, "max_completion_tokens": 4}, "max_tokens: is not max_com"),
    ({"messages": SAID, "max_tokens": 3, "max_completion_tokens": 0}, "max_tokens: is not max_com"),
    ({"messages": SAID, "parallel_tool_calls": True}, "parallel_tool_calls: there are no tools"),
    (
        {"messages": SAID, "response_format": {"type": "json_object", "regex": "a"}},
        "response_format.regex: does not go with type 'json_object'",
    ),
    (
        {"messages": [*SAID, called("x"), {"role": "tool", "tool_call_id": "y", "content": "1"}]},
        "messages[2].tool_call_id: 'y' is no call",
    ),
    ({"messages": [{**SAID[0], "tool_call_id": "y"}]}, "messages[0].tool_call_id: belongs to"),
    ({"messages": [{**SAID[0], "refusal": "no"}]}, "messages[0].refusal: belongs to"),
    (
        {"messages": [*SAID, {"role": "assistant", "content": "a", "refusal": "no"}, *SAID]},
        "messages[1].refusal: stands beside content",
    ),
]


@pytest.mark.parametrize(("body", "message"), REFUSED)
def test_what_has_no_effect_is_refused(server, body, message):
    response = server.post("/v1/chat/completions", **{"max_tokens": 1, **body})
    assert response.status_code == 400, response.text
    assert message in response.json()["error"]["message"]


def test_results_of_tools_stand_in_the_order_of_their_calls(server):
    def result(name: str | None, text: str) -> dict:
        return {"role": "tool", "tool_call_id": name, "content": text}

    def ids(*results: dict) -> list[int]:
        messages = [*SAID, called("x", "y"), *results, *SAID]
        return server.post("/tokenize", messages=messages).json()["tokens"]

    told = ids(result("x", "1"), result("y", "2"))
    assert ids(result("y", "2"), result("x", "1")) == told
    assert ids(result(None, "1"), result(None, "2")) == told
    assert ids(result(None, "2"), result(None, "1")) != told


def test_a_refusal_is_what_the_assistant_said(server):
    def ids(turn: dict) -> list[int]:
        messages = [*SAID, {"role": "assistant", **turn}, *SAID]
        return server.post("/tokenize", messages=messages).json()["tokens"]

    assert ids({"content": None, "refusal": "No."}) == ids({"content": "No."})
    assert ids({"content": "Yes.", "refusal": None}) == ids({"content": "Yes."})


@pytest.mark.parametrize("depth", [101, 900, 5_000, 20_000])
def test_json_that_is_nested_too_deep_is_a_mistake(server, depth):
    """Python's stack is not the client's to fill: 400, wherever the JSON stands."""
    headers = {"content-type": "application/json"}
    turns = [*SAID, called("x", arguments=nested(depth))]
    turns.append({"role": "tool", "tool_call_id": "x", "content": "1"})
    schema = '{"type":"json_schema","json_schema":{"name":"x","schema":@}}'.replace(
        "@", nested(depth)
    )
    tools = '[{"type":"function","function":{"name":"f","parameters":@}}]'.replace(
        "@", nested(depth)
    )
    said = json.dumps(SAID)
    for path, body in (
        ("v1/chat/completions", json.dumps({"messages": turns, "max_tokens": 1})),
        ("tokenize", json.dumps({"messages": turns})),
        ("v1/completions", f'{{"prompt":"a","response_format":{schema}}}'),
        ("v1/chat/completions", f'{{"messages":{said},"response_format":{schema}}}'),
        ("v1/chat/completions", f'{{"messages":{said},"tools":{tools}}}'),
        ("tokenize", f'{{"messages":{said},"tools":{tools}}}'),
        ("v1/completions", f'{{"prompt":"a","metadata":{nested(depth)}}}'),
        ("v1/completions", '{"prompt":@}'.replace("@", "[" * depth + "]" * depth)),
        ("admin/weights", nested(depth)),
    ):
        response = server.client.post(f"/{path}", content=body, headers=headers)
        expected = 404 if path.startswith("admin") else 400
        assert response.status_code == expected, (path, body[:80], response.text[:200])
        assert response.json()["error"]["message"]


def test_json_that_is_deep_enough_for_anybody_goes(server):
    pytest.importorskip("llguidance", reason="the extra grammar is not installed")
    schema: dict = {"type": "integer"}
    for _ in range(20):
        schema = {"type": "object", "properties": {"a": schema}}
    held = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    response = server.post("/v1/completions", prompt="a", max_tokens=2, response_format=held)
    assert response.status_code == 200
    turns = [*SAID, called("x", arguments=nested(60)), *SAID]
    assert server.post("/tokenize", messages=turns).status_code == 200
