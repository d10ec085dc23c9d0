"""Prompts have what the tokenizer's post-processor puts around texts; data has nothing."""

import inspect
import json
import textwrap
from pathlib import Path

import pytest

from cairn.engine import Engine, SamplingParams
from cairn.engine.code import CodePrompt
from cairn.model import ModelConfig, build
from cairn.tokens.learning import learn
from cairn.tokens.tokenizer import Tokenizer

BOS = "<|begin_of_text|>"
TEXTS = ["", "def add(a, b):\n    return a + b\n", f"a {BOS} b", " \u20ac\u0301 \n"]


def around(before: str, after: str) -> Tokenizer:
    """As Llama 3.1's: byte-level BPE, and a template of the post-processor after it."""
    words = learn([inspect.getsource(textwrap)], 400)
    plain = json.loads(words.vocabulary)
    number = words.vocab_size
    plain["added_tokens"].append(
        {**plain["added_tokens"][0], "id": number, "content": BOS, "special": True}
    )
    special = {"id": BOS, "ids": [number], "tokens": [BOS]}
    piece = {"SpecialToken": {"id": BOS, "type_id": 0}}
    single = [piece] * bool(before) + [{"Sequence": {"id": "A", "type_id": 0}}]
    single += [piece] * bool(after)
    pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}]
    template = {"type": "TemplateProcessing", "single": single, "pair": pair}
    template["special_tokens"] = {BOS: special}
    bytewise = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False}
    bytewise["use_regex"] = True
    plain["post_processor"] = {"type": "Sequence", "processors": [bytewise, template]}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BOS}
    return Tokenizer(
        {"tokenizer.json": json.dumps(plain), "tokenizer_config.json": json.dumps(config)}
    )


@pytest.fixture(scope="module")
def llama() -> Tokenizer:
    return around(BOS, "")


def test_prompts_are_those_of_transformers(llama: Tokenizer, tmp_path: Path):
    transformers = pytest.importorskip("transformers", reason="the extra eval is not installed")
    llama.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    bos = llama.id(BOS)
    for text in TEXTS:
        if BOS not in text:  # what is spelled in a text is text here
            assert llama.encode_prompt(text) == theirs(text).input_ids
        assert llama.encode_prompt(text) == [bos, *llama.encode(text)]
        assert bos not in llama.encode(text)


def test_a_tokenizer_without_a_post_processor_adds_nothing():
    words = learn([inspect.getsource(textwrap)], 400)
    for text in TEXTS:
        assert words.encode_prompt(text) == words.encode(text)
        assert words.surrounded(words.encode(text)) == words.encode(text)


def test_what_stands_after_a_text_is_added_too():
    both = around(BOS, BOS)
    bos = both.id(BOS)
    assert both.encode_prompt("a b") == [bos, *both.encode("a b"), bos]
    assert both.surrounded([5]) == [bos, 5, bos]
    assert both.surrounded([]) == [bos, bos]


def test_texts_get_it_and_ids_and_code_do_not(llama: Tokenizer):
    config = ModelConfig(
        pattern="*-",
        vocab_size=llama.vocab_size,
        hidden_size=32,
        intermediate_size=64,
        attention_heads=4,
        key_value_heads=2,
        head_dim=8,
        eos_token_ids=(0,),
        bos_token_id=llama.id(BOS),
    )
    engine = Engine(build(config, seed=0), llama, slots=2, capacity=128)
    params = SamplingParams(max_tokens=1, temperature=0)
    ids, bos = llama.encode("def f("), llama.id(BOS)

    def prompt(given, **more) -> list[int]:
        return engine.generate([given], params, **more)[0].prompt_tokens

    assert prompt("def f(") == [bos, *ids]
    assert prompt("") == [bos]
    assert prompt(ids) == ids
    assert bos not in prompt("def f(", suffix=")")
    assert bos not in prompt(CodePrompt(prefix="def f(", path="a.py"))
