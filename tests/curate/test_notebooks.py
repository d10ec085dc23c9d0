"""Notebooks as scripts and as text, code and outputs."""

import json
import time
from typing import Any

import pytest

from cairn.curate.notebooks import NotebookLimits, notebook_documents
from cairn.curate.pieces import Document

Plain = dict[str, Any]
PYTHON = {"language_info": {"name": "python"}}


def text(source: Any) -> Plain:
    return {"cell_type": "markdown", "source": source}


def code(source: Any, *outputs: Plain) -> Plain:
    return {"cell_type": "code", "source": source, "outputs": list(outputs)}


def stream(said: Any) -> Plain:
    return {"output_type": "stream", "name": "stdout", "text": said}


def result(said: str) -> Plain:
    return {"output_type": "execute_result", "data": {"text/plain": [said], "image/png": "x"}}


def made(*cells: Plain, metadata: Any = PYTHON, **limits: Any) -> list[Document]:
    raw = json.dumps({"cells": cells, "metadata": metadata, "nbformat": 4}).encode()
    return notebook_documents(raw, "x.ipynb", NotebookLimits(**limits))


def rule(raw: bytes) -> str:
    (document,) = notebook_documents(raw, "x.ipynb", NotebookLimits())
    assert not document.pieces
    return document.verdict.rule


def test_a_script():
    (script, _) = made(
        text(["# Title\n", "\n", "of all"]),
        code(["import os\n", "%matplotlib inline\n", "!ls"]),
        code("a = 1\n\nb = 2\n"),
        code("%%bash\necho 1"),
        code("  "),
    )
    assert script.kind == "notebook_script"
    assert script.language == "Python"
    assert script.pieces == (
        (
            "<jupyter_script>",
            "# # Title\n#\n# of all\n\nimport os\n# %matplotlib inline\n# !ls\n\n"
            "# +\na = 1\n\nb = 2\n# -\n\n# %%bash\n# echo 1\n",
        ),
    )


def test_cells_of_a_kind_are_one_and_the_last_output_counts():
    (_, notebook) = made(
        text("# Title"),
        text("more"),
        code("print(1)", stream("1\n")),
        code("2 + 2", stream(["a\n", "b\n"]), result("4")),
        text("end"),
        code("x = 3"),
    )
    assert notebook.kind == "notebook"
    assert notebook.pieces == (
        ("<jupyter_start>", ""),
        ("<jupyter_text>", "# Title\nmore"),
        ("<jupyter_code>", "print(1)\n2 + 2"),
        ("<jupyter_output>", "a\nb\n4"),
        ("<jupyter_text>", "end"),
        ("<jupyter_code>", "x = 3"),
        ("<jupyter_output>", ""),
        ("<empty_output>", ""),
    )


def test_only_python_is_told_with_outputs():
    (script,) = made(text("Hello"), code("x <- 1"), metadata={"kernelspec": {"name": "ir"}})
    assert (script.language, script.pieces[0][1]) == ("R", "# Hello\n\nx <- 1\n")
    (script,) = made(
        text("Hello"), code("!done"), metadata={"kernelspec": {"language": "JavaScript"}}
    )
    assert (script.language, script.pieces[0][1]) == ("JavaScript", "// Hello\n\n!done\n")


def test_outputs_are_text_without_colours_and_bounded():
    error = {"output_type": "error", "ename": "E", "evalue": "\x1b[31mwhy\x1b[0m", "traceback": []}
    picture = {"output_type": "display_data", "data": {"image/png": "iVBOR"}}
    (_, notebook) = made(code("1", picture, error))
    assert notebook.pieces[2] == ("<jupyter_output>", "E: why")
    for size, shown in ((5, "x" * 5), (6, "x" * 5 + "[TRUNCATED]")):
        (_, notebook) = made(code("1", stream("x" * size)), longest_output=5)
        assert notebook.pieces[2] == ("<jupyter_output>", shown)


def test_pictures_in_text_are_left_out():
    (_, notebook) = made(text("![a](data:image/png;base64,AAAA+/=) and on"), code("1"))
    assert notebook.pieces[1] == ("<jupyter_text>", "![a]() and on")


def test_format_3():
    cells = [
        {"cell_type": "heading", "level": 2, "source": "Title"},
        {"cell_type": "code", "language": "python", "input": ["1"],
         "outputs": [{"output_type": "pyout", "text": ["1"]}]},
    ]  # fmt: skip
    raw = json.dumps({"worksheets": [{"cells": cells}], "metadata": {}, "nbformat": 3}).encode()
    (script, notebook) = notebook_documents(raw, "x.ipynb", NotebookLimits())
    assert script.pieces[0][1] == "# ## Title\n\n1\n"
    assert notebook.pieces[2:] == (("<jupyter_code>", "1"), ("<jupyter_output>", "1"))


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"{", "notebook_damaged"),
        (b"\xff\xfe", "notebook_damaged"),
        (b"[1]", "notebook_damaged"),
        (b'{"cells": 3}', "notebook_damaged"),
        (b"[" * 200_000, "notebook_damaged"),
        (b'{"cells": []}', "notebook_language"),
        (b'{"cells": [], "metadata": {"language_info": {"name": "elvish"}}}', "notebook_language"),
        (b'{"cells": [], "metadata": {"language_info": {"name": "r"}}}', "notebook_code"),
    ],
)
def test_what_is_dropped(raw: bytes, expected: str):
    assert rule(raw) == expected


@pytest.mark.parametrize("wrong", [None, 3, "x", [], {}, [None], NotImplemented])
def test_values_of_wrong_types_are_passed_over(wrong: Any):
    wrong = float("nan") if wrong is NotImplemented else wrong
    odd = {"cell_type": "code", "source": wrong, "outputs": wrong}
    outputs = [{"output_type": kind, "text": wrong, "data": wrong} for kind in ("stream", "pyout")]
    raw = json.dumps(
        {"cells": [wrong, odd, text(wrong), code("1", *outputs)], "metadata": PYTHON}
    ).encode()
    script, notebook = notebook_documents(raw, "x.ipynb", NotebookLimits())
    assert "1" in script.pieces[0][1]
    assert ("<jupyter_code>", "1") in notebook.pieces or "x\n1" in notebook.pieces[-3][1]


def test_halves_of_characters_are_mended():
    (script, _) = made(code("'\ud800'"))
    script.pieces[0][1].encode("utf-8")


def test_scripts_are_what_jupytext_reads_back():
    jupytext = pytest.importorskip("jupytext", reason="jupytext is not installed")
    cells = [
        text("# Title\n\ntext"),
        code("a = 1\n\n\nb = 2"),
        text("x"),
        code("def f():\n    return 1"),
    ]
    (script, _) = made(*cells)
    read = jupytext.reads(script.pieces[0][1], fmt="py:light")
    assert [(one.cell_type, one.source) for one in read.cells] == [
        (one["cell_type"], one["source"]) for one in cells
    ]


@pytest.mark.parametrize("unit", ["data:image/png;base64,", "\x1b[0;", "data:a/", "%%\n", "\n\n"])
def test_time_is_linear(unit: str):
    def seconds(size: int) -> float:
        begun = time.process_time()
        made(text(unit * size), code(unit * size, stream(unit * size)))
        return time.process_time() - begun

    short = max(min(seconds(20_000) for _ in range(2)), 0.005)
    assert min(seconds(160_000) for _ in range(2)) < 25 * short
