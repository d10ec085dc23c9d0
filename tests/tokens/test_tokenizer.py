"""Text to ids and back: exact bytes, plain sentinels, golden ids, equal backends."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from cairn.base import UserError
from cairn.tokens import SENTINELS, Tokenizer
from cairn.tokens.encoder import PROBES
from cairn.tokens.learning import SMALLEST, learn

CODE = (
    "def add(a, b):\n    return a + b\n\nfor i in range(10):\n    print(add(i, 1))\n"
    "class Stone:\n    def __init__(self, weight):\n        self.weight = weight\n"
)
NASTY = (
    *PROBES,
    "ab\x00cd",
    "\ud7ff\ue000\U0010ffff",
    "ﷺ ǅ ß ẞ İ ı K Å",
    "a\u0300\u0301\u0302 \u1100\u1161\u11a8 각",
    "\r\r\n\n\r \t\v\f\u0085\u2028",
    "[CLS] </s> <pad> ▁ Ġ Ċ <0x0A>",
    "\u088f ౜ \U00010940\U00011db0",  # letters that came with Unicode 17
    *SENTINELS,
)
# A byte's id is 41 and the place of its letter: "a" is 41 + 97 - 33. From 297 on stand the merges
# of CODE: 297 is two blanks, 332 "pr", 335 two line ends.
GOLDEN = {
    "": [],
    "ab": [105, 106],
    "é": [168, 143],
    "🙂": [213, 294, 288, 265],
    "10": [57, 56],
    "<pr>": [68, 332, 70],
    "\n\n": [335],
    " e\u0301\r\n": [261, 109, 177, 264, 242, 239],
    "def add(a, b):\n    return": [317, 313, 309, 307, 52, 314, 300, 299, 315, 326, 334],
}


@pytest.fixture(scope="module")
def small() -> Tokenizer:
    return learn([CODE] * 3, 340)


def test_golden_ids(small: Tokenizer):
    assert {text: small.encode(text) for text in GOLDEN} == GOLDEN
    merges = (b"  ", b":\n", b"   ", b"):\n", b"ei", b"gh", b"in", b"wei", b"ght", b"weight")
    assert small.token_bytes[297:307] == merges


def test_sentinels_have_the_ids_of_the_paper(small: Tokenizer):
    assert [small.id(name) for name in SENTINELS] == list(range(41))
    assert small.sentinels == {name: place for place, name in enumerate(SENTINELS)}
    paper = {"<|endoftext|>": 0, "<fim_suffix>": 3, "<file_sep>": 6, "<pr>": 18, "<NAME>": 34}
    assert {name: small.id(name) for name in paper} == paper
    assert small.id("<pr_diff_hunk_comment_line>") == 33
    assert small.id("<SPECIAL_12>") == 40
    assert small.is_special(40)
    assert not small.is_special(41)


def test_every_byte_has_a_token(small: Tokenizer):
    assert sorted(small.token_bytes[41:297]) == [bytes([byte]) for byte in range(256)]


@settings(max_examples=300, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_decoding_gives_back_every_byte(tokenizer: Tokenizer, text: str):
    ids = tokenizer.encode(text)
    assert tokenizer.decode_bytes(ids) == text.encode("utf-8")
    assert tokenizer.decode(ids) == text
    assert all(index >= len(SENTINELS) for index in ids)


@settings(max_examples=200, deadline=None)
@given(pieces=st.lists(st.sampled_from([*NASTY, CODE, "_", ">", "<", "|"]), max_size=6))
def test_nasty_texts_come_back_and_hold_no_sentinel(tokenizer: Tokenizer, pieces: list[str]):
    text = "".join(pieces)
    ids = tokenizer.encode(text)
    assert tokenizer.decode_bytes(ids) == text.encode("utf-8")
    assert not any(tokenizer.is_special(index) for index in ids)


@pytest.mark.parametrize("text", [*NASTY, CODE])
def test_ids_are_those_of_hugging_face(tokenizer: Tokenizer, made: Path, text: str):
    reference = tokenizers.Tokenizer.from_file(str(made / "words" / "tokenizer.json"))
    reference.encode_special_tokens = True
    assert tokenizer.encode(text) == reference.encode(text).ids
    assert tokenizer.encode_batch([text, "x"]) == [reference.encode(t).ids for t in (text, "x")]


def test_the_slow_backend_gives_the_same_ids(
    made: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, texts: dict
):
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    slow = Tokenizer.load(made / "words")
    assert slow.backend == "tokenizers"
    everything = [*texts.values(), *NASTY]
    assert slow.encode_batch(everything) == tokenizer.encode_batch(everything)


def test_the_fast_backend_is_left_where_it_differs(monkeypatch: pytest.MonkeyPatch, made: Path):
    gigatoken = pytest.importorskip("gigatoken")
    real = gigatoken.Tokenizer.from_json
    assert Tokenizer.load(made / "words").backend == "gigatoken"

    class Wrong:
        def __init__(self, text: str) -> None:
            self.inner = real(text)

        def encode(self, text: str):
            return self.inner.encode(text)[::-1]

    monkeypatch.setattr(gigatoken.Tokenizer, "from_json", Wrong)
    assert Tokenizer.load(made / "words").backend == "tokenizers"


def test_the_program_can_mean_sentinels(tokenizer: Tokenizer):
    ids = tokenizer.encode_with_sentinels("<fim_prefix>def f(<fim_suffix>)<fim_middle>")
    assert [index for index in ids if tokenizer.is_special(index)] == [1, 3, 2]
    assert tokenizer.decode(ids) == "<fim_prefix>def f(<fim_suffix>)<fim_middle>"


def test_digits_stand_alone(tokenizer: Tokenizer):
    digits = set("0123456789")
    for token in tokenizer.token_bytes[41:]:
        text = token.decode("utf-8", errors="ignore")
        assert len(text) == 1 or not digits & set(text)


def test_learning_twice_gives_the_same_bytes(tmp_path: Path):
    code = (
        "import sys, pathlib\n"
        "from cairn.tokens.learning import learn\n"
        "ties = [' '.join(a + b for a in 'abcdefgh' for b in 'stuvwxyz')] * 4\n"
        "learn(ties, 400).save(pathlib.Path(sys.argv[1]))\n"
    )
    for name in ("one", "two"):  # processes of their own: hash seeds differ
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], check=True)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_the_order_of_documents_does_not_matter(texts: dict):
    some = list(texts.values())[:8]
    assert learn(some, 600).digest == learn(some[::-1], 600).digest


def test_saving_and_loading_keep_every_byte(tokenizer: Tokenizer, made: Path, tmp_path: Path):
    tokenizer.save(tmp_path)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (made / "words" / path.name).read_bytes()
    assert len(list(tmp_path.iterdir())) == 3
    assert Tokenizer.load(tmp_path).digest == tokenizer.digest


def test_transformers_loads_it(tokenizer: Tokenizer, made: Path):
    transformers = pytest.importorskip("transformers")
    loaded = transformers.AutoTokenizer.from_pretrained(made / "words")
    assert len(loaded) == tokenizer.vocab_size
    assert loaded.eos_token_id == 0
    assert loaded("def f(x):\n")["input_ids"] == tokenizer.encode("def f(x):\n")
    prompt = "<fim_prefix>é<fim_suffix> \n<fim_middle>"
    assert loaded(prompt)["input_ids"] == tokenizer.encode_with_sentinels(prompt)
    assert loaded.decode(tokenizer.encode("a ,  b . c 's\n")) == "a ,  b . c 's\n"
    assert set(SENTINELS) <= set(loaded.all_special_tokens)


@pytest.mark.parametrize("family", ["nemotron_h", "starcoder2", "llama", "qwen3"])
def test_transformers_loads_it_beside_a_models_config(
    tokenizer: Tokenizer, tmp_path: Path, family: str
):
    """transformers prefers a family's own tokenizer to the one that the folder names."""
    transformers = pytest.importorskip("transformers")
    tokenizer.save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in ("12345\n\n\n  it's é e\u0301 🙂 x ,", CODE):
        assert loaded(text)["input_ids"] == tokenizer.encode(text)
        assert loaded.decode(tokenizer.encode(text)) == text


def test_a_cut_character_decodes_to_a_mark(tokenizer: Tokenizer):
    ids = tokenizer.encode("🙂")
    assert len(ids) > 1
    assert (
        tokenizer.decode_bytes(ids[:-1]) == "🙂".encode()[: len(tokenizer.decode_bytes(ids[:-1]))]
    )
    assert "\ufffd" in tokenizer.decode(ids[:-1])


@pytest.mark.parametrize("text", ["\ud800", "fine \udfff not fine"])
def test_a_lone_surrogate_is_refused(tokenizer: Tokenizer, text: str):
    for call in (tokenizer.encode, tokenizer.encode_with_sentinels):
        with pytest.raises(UserError, match="surrogate"):
            call(text)
    with pytest.raises(UserError, match="surrogate"):
        tokenizer.encode_batch(["x", text])


def test_mistakes_are_named(tokenizer: Tokenizer, tmp_path: Path):
    with pytest.raises(UserError, match="vocab_size=100"):
        learn(["x"], 100)
    with pytest.raises(UserError, match="minimum_count=0"):
        learn(["x"], 400, minimum_count=0)
    with pytest.raises(UserError, match="<think>"):
        tokenizer.id("<think>")
    assert not tokenizer.has("<think>")
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0", "mod')
    with pytest.raises(UserError, match="damaged"):
        Tokenizer.load(tmp_path)


def test_a_small_corpus_gives_a_small_vocabulary():
    assert learn(["ab"], 5000).vocab_size == SMALLEST


def test_foreign_added_tokens_that_are_not_special_stay_words(made: Path, tmp_path: Path):
    plain = json.loads((made / "words" / "tokenizer.json").read_text(encoding="utf-8"))
    plain["added_tokens"].append({**plain["added_tokens"][0], "id": 2048, "content": "<think>"})
    plain["added_tokens"][-1]["special"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(plain), encoding="utf-8")
    foreign = Tokenizer.load(tmp_path)
    assert foreign.encode("<think>") == [2048]
    assert foreign.decode([2048]) == "<think>"
    assert foreign.backend == "tokenizers"
    assert foreign.vocab_size == 2049
