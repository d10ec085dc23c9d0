"""Every kind of source in one corpus: read by its scheme, laid out, and made into shards."""

import json
import shutil
from pathlib import Path

import pytest

from cairn.base import Ref
from cairn.base.make import make
from cairn.curate import Curate, read_files, read_ledger
from cairn.curate.pieces import from_content
from cairn.tokens import LearnTokenizer, Tokenize, TokenShards

WORDS = " ".join(f"word{number}" for number in range(60))
POSTS = """<?xml version="1.0" encoding="utf-8"?><posts>
<row Id="1" PostTypeId="1" Score="3" Body="&lt;p&gt;How so?&lt;/p&gt;" OwnerUserId="5" />
{answers}</posts>"""
ANSWER = '<row Id="{0}" PostTypeId="2" ParentId="1" Score="{0}" Body="Thus {0}." />'


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("kinds")
    for name in ("code", "docs", "site.example.org", "programs"):
        (root / name).mkdir()
    cells = [
        {"cell_type": "markdown", "source": f"# Notes\n\n{WORDS}"},
        {
            **{"cell_type": "code", "source": "print(1)"},
            "outputs": [{"output_type": "stream", "text": "1\n"}],
        },
    ]
    notebook = {"cells": cells, "metadata": {"language_info": {"name": "python"}}, "nbformat": 4}
    (root / "code" / "n.ipynb").write_text(json.dumps(notebook))
    (root / "code" / "broken.ipynb").write_text("{")
    (root / "code" / "a.py").write_text("def a(value):\n    return value + 1\n")
    page = f"<html><body><h1>Manual</h1><p>{WORDS}</p></body></html>"
    (root / "docs" / "index.html").write_text(page)
    (root / "docs" / "guide.md").write_text(f"# Guide\n\n{WORDS[::-1]}\n")
    answers = "".join(ANSWER.format(number) for number in (2, 3, 4))
    (root / "site.example.org" / "Posts.xml").write_text(POSTS.format(answers=answers))
    told = f"A text.\n{WORDS.upper()}"
    rows = [{"text": told}, {"text": ""}, {"no": 1}, {"text": f"{told} more"}]
    (root / "set.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (root / "programs" / "p.rs").write_text('fn main() { println!("hi"); }\n')
    sources = (
        f"{root}/code",
        f"docs:{root}/docs",
        f"stackexchange:{root}/site.example.org",
        f"text:{root}/set.jsonl",
        f"pairs:{root}/programs",
    )
    plan = {
        "corpus": Curate(sources=sources, workers=1, malware="off"),
        "words": LearnTokenizer(corpus=Ref("corpus"), vocab_size=400),
        "shards": Tokenize(corpus=Ref("corpus"), tokenizer=Ref("words"), heldout=0.0),
    }
    make(plan, root / "runs")
    return root / "runs"


def test_each_has_its_kind_and_layout(runs: Path):
    rows = [row for batch in read_files(runs / "corpus") for row in batch.to_pylist()]
    found: dict[str, list[list[str]]] = {}
    for row in rows:
        marks = [mark for mark, _ in from_content(row["kind"], row["content"])]
        found.setdefault(row["kind"], []).append(marks)
    if not shutil.which("rustc"):
        found.setdefault("intermediate", [["", "<code_to_intermediate>"]])
    assert found == {
        "source": [[""]],
        "notebook_script": [["<jupyter_script>"]],
        "notebook": [["<jupyter_start>", "<jupyter_text>", "<jupyter_code>", "<jupyter_output>"]],
        "documentation": [[""], [""]],
        "answers": [["<issue_start>", *["<issue_comment>"] * 3]],
        "text": [[""], [""]],  # nearly the same, which is no matter here
        "intermediate": [["", "<code_to_intermediate>"]],
    }


def test_what_is_damaged_or_empty_is_told(runs: Path):
    ledger = [row for batch in read_ledger(runs / "corpus") for row in batch.to_pylist()]
    rules = {(row["path"], row["rule"]) for row in ledger if row["verdict"] != "keep"}
    rules = {one for one in rules if not one[0].endswith(".rs")}
    assert rules == {
        ("broken.ipynb", "notebook_damaged"),
        ("set.jsonl#2", "empty"),
        ("set.jsonl#3", "unreadable"),
    }


def test_shards_hold_them_all(runs: Path):
    shards = TokenShards.open(runs / "shards" / "train")
    kinds = shards.documents["kind"].to_pylist()
    assert sorted(set(kinds) - {"intermediate"}) == [
        "answers", "documentation", "notebook", "notebook_script", "source", "text",
    ]  # fmt: skip
