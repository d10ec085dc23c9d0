"""Kaggle's notebooks: from what its client leaves on disk to documents, rules and layout."""

import json
from pathlib import Path
from typing import Any

import pytest

from cairn.base import UserError
from cairn.base.make import make
from cairn.curate import Curate, read_files, read_ledger
from cairn.curate.notebooks import KaggleLimits, kaggle_document
from cairn.curate.notebooks.kaggle import frame_info
from cairn.curate.pieces import Document, from_content
from cairn.sources import kaggle
from cairn.sources.damage import Damaged
from cairn.sources.origins import read_origin
from cairn.sources.record import SourceFile
from cairn.sources.tables import read_table

LINE = "total = sum(number * number for number in range(1000))  # of squares\n"
STARTER = """# This Python 3 environment comes with many helpful analytics libraries installed
import numpy as np # linear algebra
import pandas as pd # data processing
import os
for dirname, _, filenames in os.walk('/kaggle/input'):
    for filename in filenames:
        print(os.path.join(dirname, filename))
"""
TABLE = 'Id,Name,Age,Alive\n1,"Ann, B",22,True\n2,Bob,,False\n3,"two\nlines",3.5,True\n'
INFO = """<class 'pandas.core.frame.DataFrame'>
RangeIndex: 3 entries, 0 to 2
Data columns (total 4 columns):
 #   Column  Non-Null Count  Dtype  
---  ------  --------------  -----  
 0   Id      3 non-null      int64  
 1   Name    3 non-null      object 
 2   Age     2 non-null      float64
 3   Alive   3 non-null      bool   
dtypes: bool(1), float64(1), int64(1), object(1)"""


def cell(source: str, kind: str = "code") -> dict[str, Any]:
    return {"cell_type": kind, "source": source, "outputs": [{"output_type": "stream"}]}


def notebook(*cells: dict[str, Any]) -> str:
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4})


def made(code: str, *, kind: str = "notebook", language: str = "python", **more: Any) -> Document:
    limits = KaggleLimits(**{key: more.pop(key) for key in list(more) if key != "dataset"})
    told = {"code": code, "kind": kind, "language": language, "dataset": None} | more
    return kaggle_document(json.dumps(told).encode(), limits)


def pulled(root: Path, name: str, code: str, **more: Any) -> Path:
    """A folder as `kaggle kernels pull --metadata` leaves it."""
    folder = root / name
    folder.mkdir(parents=True)
    told = {"id": name, "title": "T", "code_file": "main.ipynb", "language": "python"}
    told |= {"kernel_type": "notebook", "dataset_sources": ["ann/boats"]} | more
    (folder / kaggle.KERNEL).write_text(json.dumps(told))
    (folder / "main.ipynb").write_text(code)
    return folder


def dataset(root: Path, info: dict[str, Any], table: str = TABLE) -> Path:
    folder = root / "ann" / "boats" / "inside"
    folder.mkdir(parents=True)
    (folder.parent / kaggle.DATASET).write_text(json.dumps(info))
    (folder / "boats.csv").write_text(table)
    return root


def read(root: Path, **options: object) -> list[SourceFile]:
    query = "&".join(f"{key}={value}" for key, value in options.items())
    return list(read_origin(f"kaggle:{root}?{query}"))


READS = "import pandas as pd\ndf = pd.read_csv('/kaggle/input/boats/boats.csv')\n"


def test_a_notebook_stands_behind_its_data_set(tmp_path: Path) -> None:
    cells = [
        cell(STARTER),
        cell("# Boats", "markdown"),
        cell(READS + LINE),
        cell("!ls"),
        cell("x=1"),
    ]
    pulled(tmp_path / "code", "bob/sail", notebook(*cells, cell("The end", "markdown")))
    info = {"info": {"title": "Boats", "description": "Who sailed."}}
    dataset(tmp_path / "data", info)
    recipe = Curate(
        sources=(f"kaggle:{tmp_path}/code?datasets={tmp_path}/data",), malware="off", workers=1
    )
    make({"corpus": recipe}, tmp_path / "runs", "corpus", report=lambda _: None)
    (row,) = [r for batch in read_files(tmp_path / "runs" / "corpus") for r in batch.to_pylist()]
    assert (row["kind"], row["language"], row["repo_name"]) == ("kaggle", "Python", "bob/sail")
    assert (row["origin_url"], row["path"]) == (
        "https://www.kaggle.com/code/bob/sail",
        "main.ipynb",
    )
    assert (row["detected_licenses"], row["license_type"]) == (["Apache-2.0"], "permissive")
    path = "'/kaggle/input/boats/boats.csv'"
    assert from_content("kaggle", row["content"]) == [
        ("<jupyter_start>", ""),
        ("<jupyter_text>", "Boats\nWho sailed.\nKaggle dataset identifier: ann/boats"),
        ("<jupyter_code>", f"import pandas as pd\n\ndf = pd.read_csv({path})\ndf.info()"),
        ("<jupyter_output>", INFO),
        (
            "<jupyter_text>",
            'Examples:\n{"Id": "1", "Name": "Ann, B", "Age": "22.0", "Alive": "true"}\n'
            '{"Id": "2", "Name": "Bob", "Alive": "false"}\n'
            '{"Id": "3", "Name": "two\\nlines", "Age": "3.5", "Alive": "true"}',
        ),
        ("<jupyter_script>", f"# # Boats\n\n{READS}{LINE}\nx=1\n"),
    ]


def test_without_a_data_set_or_a_table_less_is_told(tmp_path: Path) -> None:
    code = notebook(*[cell(LINE * 2)] * 4)
    pulled(tmp_path / "code", "bob/sail", code, dataset_sources=["ann/none"])
    (alone,) = read(tmp_path / "code")
    assert alone.raw is not None
    assert [mark for mark, _ in kaggle_document(alone.raw, KaggleLimits()).pieces] == [
        "<jupyter_script>"
    ]
    dataset(tmp_path / "data", {"title": "Boats"})
    pulled(tmp_path / "code", "bob/reads", code)  # another file than the table
    first, _ = read(tmp_path / "code", datasets=tmp_path / "data", licence="MIT")
    assert first.detected_licenses == ("MIT",)
    assert first.raw is not None
    assert kaggle_document(first.raw, KaggleLimits()).pieces[:2] == (
        ("<jupyter_start>", ""),
        ("<jupyter_text>", "Boats\nKaggle dataset identifier: ann/boats"),
    )


@pytest.mark.parametrize(
    ("code", "more", "rule"),
    [
        (notebook(*[cell(LINE)] * 4), {}, ""),
        (notebook(*[cell(LINE)] * 3), {}, "kaggle_cells"),
        (LINE * 2, {"kind": "script"}, ""),
        (LINE * 2, {"kind": "script", "language": "r"}, "kaggle_language"),
        ("{", {}, "kaggle_damaged"),
        (notebook(cell(STARTER), *[cell("!pip install x")] * 3), {}, "kaggle_template"),
        (notebook(cell(STARTER + "mine = 1"), *[cell(LINE)] * 3), {}, ""),
        ("#" * 99, {"kind": "script"}, "kaggle_short"),
        ("#" * 100, {"kind": "script"}, ""),
        ("#" * 100 + "\n#", {"kind": "script", "most_characters": 103}, ""),  # and a line's end
        ("#" * 100 + "\n##", {"kind": "script", "most_characters": 103}, "kaggle_long"),
        (LINE * 2 + "x = = 1\n", {"kind": "script"}, "kaggle_syntax"),
        ("(" * 10_000, {"kind": "script", "longest_line": 10_000}, "kaggle_syntax"),
        ("-" * 300_000 + "1", {"kind": "script", "longest_line": 10**6}, "kaggle_syntax"),
    ],
)
def test_every_rule_at_its_threshold(code: str, more: dict[str, Any], rule: str) -> None:
    assert made(code, **more).verdict.rule == rule


def test_lines_of_the_shell_and_long_lines_go() -> None:
    lines = ["%cd x", " !ls", "pip install a", "cd /tmp", "wget u", "aptitude = 1", "cdf = 2"]
    document = made("\n".join([*lines, "#" * 600, "#" * 601, LINE]), kind="script")
    assert document.pieces == (
        ("<jupyter_script>", "aptitude = 1\ncdf = 2\n" + "#" * 600 + "\n" + LINE),
    )
    cells = [cell("%%bash\nls"), cell(LINE), cell(LINE), cell("## End", "markdown")]
    assert made(notebook(*cells)).pieces == (("<jupyter_script>", f"{LINE}\n{LINE}"),)


def test_the_frame_is_told_as_pandas_tells_it(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a long name,b\n1,2\n3,NA\n")
    table = read_table(path)
    assert frame_info(table.rows, table.columns).split("\n")[3:] == [
        " #   Column       Non-Null Count  Dtype  ",
        "---  ------       --------------  -----  ",
        " 0   a long name  2 non-null      int64  ",
        " 1   b            1 non-null      float64",
        "dtypes: float64(1), int64(1)",
    ]


@pytest.mark.parametrize(
    "raw",
    [b"", b"\x00\xff" * 100, b'a,b\n"1,2\n', b"a" * 3_000_000 + b"\n1\n", b"a," * 300 + b"z\n"],
)
def test_what_is_no_table_is_damaged(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "a.csv").write_bytes(raw)
    with pytest.raises(Damaged):
        read_table(tmp_path / "a.csv")


def test_damage_is_told_and_the_rest_is_read(tmp_path: Path) -> None:
    good = notebook(*[cell(READS + LINE)] * 4)
    for name in ("bob/a", "bob/b", "bob/c"):
        pulled(tmp_path / "code", name, good)
    outside = tmp_path / "secret.ipynb"
    outside.write_text(good)
    pulled(tmp_path / "code", "bob/d", good, code_file="../../../secret.ipynb")
    pulled(tmp_path / "code", "bob/e", good, id="../..")
    (pulled(tmp_path / "code", "bob/f", good) / kaggle.KERNEL).write_text("[" * 100_000)
    link = pulled(tmp_path / "code", "bob/g", good) / "main.ipynb"
    link.unlink()
    link.symlink_to(outside)
    dataset(tmp_path / "data", {"title": "Boats"}, table='a,b\n"1,2\n')
    found = read(tmp_path / "code", datasets=tmp_path / "data")
    problems = [one.problem for one in found if one.problem]
    assert len([one for one in found if one.problem is None]) == 3
    assert len(problems) == 5, "a table that is damaged is told once"
    assert all("secret" not in (one.raw or b"").decode() for one in found)
    assert sum("boats.csv" in one for one in problems) == 1
    recipe = Curate(sources=(f"kaggle:{tmp_path}/code",), malware="off", workers=1)
    make({"corpus": recipe}, tmp_path / "runs", "corpus", report=lambda _: None)
    rows = [r for batch in read_ledger(tmp_path / "runs" / "corpus") for r in batch.to_pylist()]
    assert sum(row["rule"] == "unreadable" for row in rows) == 4


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("kaggle:{}/none", "is no folder"),
        ("kaggle:{}", "holds no kernel-metadata.json"),
        ("kaggle:{}?datasets={}/none", "names no folder"),
        ("kaggle:{}?data=x", "unknown option"),
    ],
)
def test_mistakes_are_told_at_once(tmp_path: Path, source: str, told: str) -> None:
    if "datasets" in source:
        pulled(tmp_path, "a/b", "{}")
    with pytest.raises(UserError, match=told):
        read_origin(source.format(tmp_path, tmp_path))
