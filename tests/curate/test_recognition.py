"""A token classifier whose weights are set by hand: one label for each word that it knows."""

import json
from pathlib import Path
from typing import Any

import pytest

from cairn.base import UserError, read_manifest
from cairn.base.make import make
from cairn.curate import Curate
from cairn.curate.corpus import read_files, read_ledger
from cairn.curate.recognition import LABELS, Recogniser, finds, redact_with, require_model
from cairn.curate.redact import SYNTHETIC_V4

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

TAUGHT = {
    "Ada": "B-NAME",
    "Grace": "B-NAME",
    "Byron": "I-NAME",
    "adal": "B-USERNAME",
    "username_3": "B-USERNAME",
    "hunter": "B-PASSWORD",
    "Zq3": "B-KEY",
    "vX8kLm2Pt": "I-KEY",
    "plainword": "B-KEY",
    "foggy": "B-AMBIGUOUS",
    "8.8.8.8": "B-IP_ADDRESS",
    "93.184.216.34": "B-IP_ADDRESS",
    "ada": "B-EMAIL",
    "at": "I-EMAIL",
    "home": "I-EMAIL",
}
NAMES = ["O", *(f"{mark}-{label}" for label in [*LABELS, "AMBIGUOUS"] for mark in "BI")]


def teach(folder: Path, positions: int = 64) -> Path:
    """A BERT without layers' effect: what a token is called depends on the token alone."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *TAUGHT]
    inner = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({w: n for n, w in enumerate(words)}, unk_token="[UNK]")
    )
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]"}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, sep_token="[SEP]", model_max_length=positions, **special
    )
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=positions,
        id2label=dict(enumerate(NAMES)),
        label2id={name: n for n, name in enumerate(NAMES)},
    )
    model = transformers.BertForTokenClassification(config)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            weights.fill_(1.0 if name.endswith("LayerNorm.weight") else 0.0)
        model.bert.embeddings.word_embeddings.weight.copy_(torch.eye(len(words), 32) * 10)
        for number, word in enumerate(words):
            model.classifier.weight[NAMES.index(TAUGHT.get(word, "O")), number] = 5.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return teach(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture(scope="module")
def model(folder: Path) -> Recogniser:
    return Recogniser(folder)


def test_spans_are_joined_and_scored(model: Recogniser):
    text = "by Ada Byron \n and Grace Ada or adal"
    found = [(text[start:end], label) for start, end, label, _ in model.spans(text)]
    assert found == [
        ("Ada Byron", "NAME"),
        ("Grace", "NAME"),
        ("Ada", "NAME"),
        ("adal", "USERNAME"),
    ]
    assert all(0.9 < score <= 1.0 for *_, score in model.spans(text))
    assert model.spans("") == []
    assert model.spans("nothing to foggy see") == []


@pytest.mark.parametrize(
    ("text", "expected", "counts"),
    [
        ("of Ada Byron and", "of <NAME> and", {"name": 1}),
        ("of Ada alone", "of Ada alone", {}),
        ("x = adal ;", "x = <NAME> ;", {"username": 1}),
        ("username_3 wrote", "username_3 wrote", {}),
        ("log hunter in", "log <PASSWORD> in", {"password": 1}),
        ("is Zq3 vX8kLm2Pt it", "is Zq3 vX8kLm2Pt it", {}),
        ("is plainword it", "is plainword it", {}),
        ("host 8.8.8.8 up", "host 8.8.8.8 up", {}),
        ("to ada at home now", "to <EMAIL> now", {"email": 1}),
        ("j.d@corp-mail.io by Ada Byron", "<EMAIL> by <NAME>", {"email": 1, "name": 1}),
    ],
)
def test_what_is_found_is_replaced(
    model: Recogniser, text: str, expected: str, counts: dict[str, int]
):
    assert redact_with(text, model) == (expected, counts)


def test_addresses_get_the_replacement_that_rules_give(model: Recogniser):
    found, counts = redact_with("host 93.184.216.34 up", model)
    assert counts == {"ip": 1}
    assert found.split()[1] in SYNTHETIC_V4


@pytest.mark.parametrize(
    ("value", "label", "replaced"),
    [
        ("Zq3vX8kLm", "KEY", True),
        ("Zq3vX8kL", "KEY", False),
        ("qwertyuiop", "KEY", False),
        ("pw12", "PASSWORD", True),
        ("pw1", "PASSWORD", False),
        ("a@bc", "EMAIL", True),
        ("Ada Byron", "NAME", True),
        ("AdaByron", "NAME", False),
        ("username_12", "USERNAME", False),
        ("username_x", "USERNAME", True),
        ("<EMAIL>", "EMAIL", False),
        ("10.1.2.3", "IP_ADDRESS", False),
        ("not an address", "IP_ADDRESS", False),
    ],
)
def test_filters_at_both_sides(value: str, label: str, replaced: bool):
    assert bool(list(finds(value, [(0, len(value), label, 1.0)]))) == replaced


@pytest.mark.parametrize("length", [1, 61, 62, 63, 93, 94, 124, 125, 500, 3_000])
def test_windows_cover_each_token_once(model: Recogniser, length: int):
    text = " ".join(f"word{n}" for n in range(length))
    found = [(token.start, token.end) for token in model._tokens(text)]
    words = text.split(" ")
    assert [text[start:end] for start, end in found] == words
    for place in {0, length // 2, length - 1}:
        told = " ".join([*words[:place], "adal", *words[place + 1 :]])
        assert [told[a:b] for a, b, _, _ in model.spans(told)] == ["adal"]


def test_a_find_across_windows_is_one(model: Recogniser):
    for before in range(20, 70):
        text = "w " * before + "Ada Byron" + " w" * 200
        assert [text[a:b] for a, b, _, _ in model.spans(text)] == ["Ada Byron"]


def test_folders_that_cannot_be_used_are_refused(folder: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"holds no config\.json"):
        require_model(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UserError, match="no other weights are read"):
        require_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match="none of StarPII's labels"):
        require_model(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="cannot be loaded"):
        Recogniser(tmp_path)


def test_code_beside_the_weights_is_never_run(folder: Path, tmp_path: Path):
    planted = teach(tmp_path / "m")
    config: dict[str, Any] = json.loads((planted / "config.json").read_text())
    config["auto_map"] = {"AutoModelForTokenClassification": "evil.Evil", "AutoConfig": "evil.C"}
    (planted / "config.json").write_text(json.dumps(config))
    (planted / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    assert Recogniser(planted).spans("adal") == Recogniser(folder).spans("adal")
    assert not (tmp_path / "ran").exists()


def test_curation_with_a_model(folder: Path, tmp_path: Path):
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a.py").write_text("# by Ada Byron <j.d@corp-mail.io>\nx = 'adal'\n")
    recipe = Curate(
        sources=(str(tmp_path / "tree"),), redact="model", redact_model=str(folder), workers=1
    )
    make({"corpus": recipe}, tmp_path / "runs")
    corpus = tmp_path / "runs" / "corpus"
    (row,) = [row for batch in read_files(corpus) for row in batch.to_pylist()]
    assert row["content"] == "# by <NAME> <<EMAIL>>\nx = 'adal'\n"
    (row,) = [row for batch in read_ledger(corpus) for row in batch.to_pylist()]
    assert row["redactions"] == "email 1, name 1"
    assert read_manifest(corpus).digest
