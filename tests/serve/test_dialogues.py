"""/v1/chat/completions of families without cairn's sentinels: the checkpoint's own template."""

import json

import pytest

from cairn.engine import Engine
from cairn.model import build, save
from cairn.serve import create_app

from ..fixtures.shapes import untrained
from ..tokens import test_templates as templates

SAID = templates.SAID
TOOL = {"type": "function", "function": {"name": "add"}}


def bare(tokenizer):
    """The tokenizer without cairn's sentinels: they are called otherwise."""
    files = dict(tokenizer._files)
    files["tokenizer.json"] = files["tokenizer.json"].replace("<SPECIAL_", "<RESERVED_")
    return type(tokenizer)(files)


@pytest.fixture
def serving(running_server, tmp_path):
    def start(template: object):
        words = bare(templates.made(template))
        config = untrained("*-", words.vocab_size, max_positions=512, eos_token_ids=(0,))
        save(build(config, seed=0), tmp_path)
        words.save(tmp_path)
        ends = {"eos_token_id": [0, words.id("<|eot|>")]}
        (tmp_path / "generation_config.json").write_text(json.dumps(ends))
        engine = Engine(tmp_path, slots=2, capacity=512)
        return running_server(create_app(engine, "other"), engine), words

    return start


def test_a_conversation_is_laid_out_by_the_template(serving):
    running, words = serving(templates.QWEN)
    with running as server:
        prompt, _ = templates.template_of(words).prompt(SAID, None)
        assert server.post("/tokenize", messages=SAID).json()["tokens"] == prompt
        end = str(words.id("<|eot|>"))
        body = {"messages": SAID, "max_tokens": 5, "logit_bias": {end: 100}}
        answer = server.post("/v1/chat/completions", **body).json()
        assert answer["usage"]["prompt_tokens"] == len(prompt)
        assert answer["usage"]["completion_tokens"] == 1
        assert answer["choices"][0]["finish_reason"] == "stop"
        off = {"chat_template_kwargs": {"enable_thinking": False}}
        found = server.post("/v1/chat/completions", messages=SAID, max_tokens=5, seed=1, **off)
        assert "reasoning_content" not in found.json()["choices"][0]["message"]
        info = server.client.get("/tokenizer_info").json()
        assert info["chat_template"] == templates.QWEN
        assert (info["bos_token"], info["eos_token"]) == ("<|bos|>", "<|eot|>")
        for more, message in (
            ({"tools": [TOOL]}, "tools: this model calls tools in a way that is not read here"),
            ({"messages": [{"role": "tool", "content": "a"}]}, "begin with a user"),
        ):
            refused = server.post("/v1/chat/completions", **{"messages": SAID, **more})
            assert refused.status_code == 400
            assert message in refused.json()["error"]["message"]


def test_what_a_template_cannot_do_is_refused(serving):
    running, _ = serving(templates.LLAMA)
    with running as server:
        for more in (
            {"chat_template_kwargs": {"enable_thinking": True}},
            {"thinking_token_budget": 5},
        ):
            refused = server.post("/v1/chat/completions", messages=SAID, **more)
            assert refused.status_code == 400
            assert "no such switch" in refused.json()["error"]["message"]


def test_without_a_template_there_is_no_chat(serving):
    running, _ = serving(None)
    with running as server:
        refused = server.post("/v1/chat/completions", messages=SAID)
        assert refused.status_code == 400
        assert "neither chat sentinels nor a chat_template" in refused.json()["error"]["message"]
