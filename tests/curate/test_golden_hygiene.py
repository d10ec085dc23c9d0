"""Redaction and decontamination at their limits, in whole runs; what is done to which kind."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cairn.base.make import make
from cairn.curate import Curate, read_files, read_ledger
from cairn.curate.finish import Finishing, finish
from cairn.curate.redact import RESOLVERS, SYNTHETIC_V4
from cairn.sources.record import DOCUMENTATION, KINDS, SOURCE

HEX = "9f8e7d6c5b4a39281706f5e4d3c2b1a0"
# Line of a file, what redaction makes of it (itself: nothing), and how the ledger counts it.
LINES = [
    ("mail = 'jane.doe@corp-mail.io'", "mail = '<EMAIL>'", "email 1"),
    ("mail = 'jane.doe@example.com'", "", ""),
    ("clone = 'git@corp-mail.io:a/b'", "", ""),
    (f"api_key = '{HEX[:10]}'", "api_key = '<KEY>'", "key 1"),
    (f"api_key = '{HEX[:9]}'", "api_key = '<KEY>'", "key 1"),
    (f"api_key = '{HEX[:8]}'", "", ""),  # a key has more than eight characters
    ("api_key = 'configuration_1_name'", "", ""),  # and looks random
    ("password = 'xkcd93'", "password = '<PASSWORD>'", "password 1"),
    ("password = 'xkc93'", "", ""),
    ("password = 'xkcdef'", "", ""),
    ("host = '10.1.2.3'", "", ""),
    ("host = '172.31.255.255'", "", ""),
    ("host = '192.168.1.7'", "", ""),
    *((f"host = '{one}'", "", "") for one in sorted(RESOLVERS)),
    (f"pair = 'AKIAIOSFODNN7ABCDEFQ', '{SYNTHETIC_V4[0]}'",
     f"pair = '<KEY>', '{SYNTHETIC_V4[0]}'", "key 1"),
    (f"a = 'a.b@corp-mail.io'; secret = '{HEX}'", "a = '<EMAIL>'; secret = '<KEY>'",
     "email 1, key 1"),
]  # fmt: skip


def test_there_are_fourteen_resolvers_and_five_replacements():
    assert (len(RESOLVERS), len(SYNTHETIC_V4)) == (14, 5)


@pytest.fixture(scope="module")
def redacted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    root = tmp_path_factory.mktemp("redacted")
    tree = root / "tree"
    tree.mkdir()
    for number, (line, _, _) in enumerate(LINES):
        (tree / f"{number}.py").write_text(f"{line}  # some words of the case {number}\n")
    return built(root / "runs", tree)


def built(folder: Path, tree: Path, **fields: Any) -> dict[str, tuple[str, str]]:
    """Of each file its content (or the rule that drops it), and what was redacted or the reason."""
    recipe = Curate(sources=(str(tree),), workers=1, malware="off", **fields)
    make({"corpus": recipe}, folder)
    texts = [row for batch in read_files(folder / "corpus") for row in batch.to_pylist()]
    contents = {row["path"]: row["content"] for row in texts}
    rows = [row for batch in read_ledger(folder / "corpus") for row in batch.to_pylist()]
    return {
        row["path"]: (row["rule"], row["reason"])
        if row["rule"]
        else (contents[row["path"]], row["redactions"])
        for row in rows
    }


@pytest.mark.parametrize("number", range(len(LINES)))
def test_redaction_of_one_line(redacted: dict[str, tuple[str, str]], number: int):
    line, expected, counts = LINES[number]
    assert redacted[f"{number}.py"] == (
        f"{expected or line}  # some words of the case {number}\n",
        counts,
    )


def test_an_address_is_the_same_in_every_file_and_run(tmp_path: Path):
    for run in ("1", "2"):
        tree = tmp_path / f"tree{run}"
        tree.mkdir()
        for name in ("a", "b"):
            (tree / f"{name}.py").write_text(f"host_of_the_case_{name}{run} = '93.184.216.34'\n")
    found = [
        content.split("'")[1]
        for run in ("1", "2")
        for content, _ in built(tmp_path / run, tmp_path / f"tree{run}").values()
    ]
    assert len(found) == 4
    assert len(set(found)) == 1
    assert found[0] in SYNTHETIC_V4


def sets(folder: Path) -> dict[str, tuple[str, str]]:
    """Two test sets of the report that are made here; items by what they are."""
    question = "Polycarp has n coins of different sizes and wants to stack them into towers."
    prompt = "I have a data frame with two columns and want the mean of each of their groups."
    sums = "Nora buys 17 crates of 12 bottles and gives 5 bottles away; how many does she keep?"
    rows = {
        "apps/test.jsonl": {"id": 3000, "question": question},
        "ds1000/ds1000.jsonl": {"prompt": prompt, "metadata": {"problem_id": 17}},
        "gsm8k/test.jsonl": {"question": sums, "answer": "#### 199"},
    }
    for name, row in rows.items():
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(json.dumps(row) + "\n")
    return {"apps": ("apps", question), "ds1000": ("ds1000", prompt), "gsm8k": ("gsm8k", sums)}


def test_files_that_hold_an_item_of_a_test_set(tmp_path: Path):
    tree = tmp_path / "tree"
    tree.mkdir()
    items = sets(tmp_path / "sets")
    for name, (_, text) in items.items():
        spread = text.replace(" ", "\n#    ").replace("#", "").upper()
        (tree / f"{name}_whole.py").write_text(f'x_{name} = """\n{spread}\n"""\n')
        # Half of it is no item, nor a near copy of one.
        (tree / f"{name}_half.py").write_text(f"half_{name} = 1  # {text[: len(text) // 2]}\n")
    found = built(tmp_path / "runs", tree, benchmarks=str(tmp_path / "sets"))
    for name, (benchmark, _) in items.items():
        rule, reason = found[f"{name}_whole.py"]
        assert rule == "contaminated"
        assert reason.startswith(benchmark)
        assert found[f"{name}_half.py"][0].startswith(f"half_{name}")


def test_files_that_hold_an_item_of_the_published_sets(data_folder: Path, tmp_path: Path):
    """HumanEval and MBPP: a docstring or a solution; GSM8K: a question of the test split."""

    def rows(name: str) -> list[dict[str, Any]]:
        with gzip.open(data_folder / name, "rt", encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    human = {row["task_id"]: row for row in rows("humaneval/HumanEval.jsonl.gz")}
    mbpp = {row["task_id"]: row for row in rows("mbpp/mbpp.jsonl.gz")}
    question = rows("gsm8k/test.jsonl.gz")[7]["question"]
    outside = rows("gsm8k/train.jsonl.gz")[7]["question"]
    cases = {
        "prompt.py": (human["HumanEval/3"]["prompt"] + "    return 1\n", True),
        "solution.py": ("def f(string):\n" + human["HumanEval/10"]["canonical_solution"], True),
        "generic.py": ("def f(x, y):\n    return x + y\n", False),
        "mbpp_first.py": ("# " + mbpp[11]["text"] + "\n", True),
        "mbpp_before.py": ("# " + mbpp[10]["text"] + "\n", False),
        "mbpp_last.py": ("# " + mbpp[510]["text"].replace(" having", "\n# having") + "\n", True),
        "mbpp_after.py": ("# " + mbpp[511]["text"] + "\n", False),
        "question.md": (question.replace(". ", ".\n") + "\n", True),
        "training.md": (outside.replace(". ", ".\n") + "\n", False),
    }
    tree = tmp_path / "tree"
    tree.mkdir()
    for name, (text, _) in cases.items():
        (tree / name).write_text(text)
    found = built(tmp_path / "runs", tree, benchmarks=str(data_folder), near_duplicates=False)
    dropped = {name for name, (what, _) in found.items() if what == "contaminated"}
    assert dropped == {name for name, (_, expected) in cases.items() if expected}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_done_to_each_kind(tmp_path: Path, kind: str):
    """Documentation is searched for no test set, and keeps addresses and passwords."""
    items = sets(tmp_path / "sets")
    wanted = Finishing("rules", None, str(tmp_path / "sets"), False)
    said = "a.b@corp-mail.io 93.184.216.34 AKIAIOSFODNN7ABCDEFQ password='xkcd93'"
    texts = [items["apps"][1], said]
    pieces = [[["", text]] for text in texts]
    contents = texts if kind in (SOURCE, DOCUMENTATION, "text") else [json.dumps(p) for p in pieces]
    batch = pa.RecordBatch.from_pylist(
        [{"content": text, "kind": kind, "src_encoding": "utf-8"} for text in contents]
    )
    test_item, personal = finish(batch, wanted).to_pylist()
    documentation = kind == DOCUMENTATION
    assert test_item["rule"] == (None if documentation else "contaminated")
    counts = "email 1, key 1" if documentation else "email 1, ip 1, key 1, password 1"
    assert personal["redactions"] == counts
    assert ("93.184.216.34" in personal["content"]) == documentation
    off = finish(batch, Finishing("off", None, None, False)).to_pylist()
    assert [row["content"] for row in off] == contents
