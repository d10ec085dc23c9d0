"""Kaggle's notebooks beside their data sets: StarCoder2 (arXiv 2402.19173), sections 2.4 and 5."""

import ast
import json
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from cairn.curate.messages import cut_characters
from cairn.curate.notebooks.cells import CODE, TEXT, Cell, Notebook, NotebookError, parse
from cairn.curate.notebooks.document import script
from cairn.curate.pieces import Document, Piece
from cairn.curate.rules import Verdict
from cairn.sources.record import KAGGLE

PYTHON = "Python"
COMMANDS = ("%", "!")
_COMMAND = re.compile(r"(?:cd|pip|apt|apt-get|wget)(?:\s|\Z)")
# What Kaggle's editor puts into every new notebook; what else its first cell holds is code.
_STARTER = "This Python 3 environment comes with many helpful analytics libraries installed"
_STARTER_LINES = frozenset(
    {
        *("import numpy as np", "import pandas as pd", "import os"),
        "for dirname, _, filenames in os.walk('/kaggle/input'):",
        *("for filename in filenames:", "print(os.path.join(dirname, filename))"),
        *('print(os.listdir("../input"))', "from subprocess import check_output"),
        'print(check_output(["ls", "../input"]).decode("utf8"))',
    }
)


@dataclass(frozen=True, kw_only=True)
class KaggleLimits:
    """Where each rule begins to drop or cut; the report's code has all but the description's."""

    fewest_cells: int = 4
    """Least cells of a notebook; a script has none."""
    fewest_characters: int = 100
    """Least characters of the code."""
    most_characters: int = 5_000_000
    """Most characters of the code."""
    longest_line: int = 600
    """Most characters of a line of code; longer ones go."""
    longest_description: int = 20_000
    """Characters that are kept of a data set's description."""


def kaggle_document(raw: bytes, limits: KaggleLimits) -> Document:
    """A notebook's script behind what its data set is and how its table looks, or a verdict.

    `raw` is the JSON that `cairn.sources.kaggle.read` gives. Rules in order: kaggle_language (not
    Python), kaggle_damaged (no notebook), kaggle_cells (too few), kaggle_template (nothing beside
    what the editor puts there), kaggle_long, kaggle_short, kaggle_syntax. Of code go lines of the
    shell and of magic, long lines, and text after the last code. Outputs are left out.
    """
    told = json.loads(raw)
    if told["language"].lower() != "python":
        return _dropped("language", f"is written in {told['language'] or 'no known language'}")
    try:
        notebook = _notebook(told)
    except NotebookError as error:
        return _dropped("damaged", str(error))
    if told["kind"] != "script" and len(notebook.cells) < limits.fewest_cells:
        return _dropped("cells", f"{len(notebook.cells)} cells")
    cells = [one for cell in notebook.cells if (one := _cleaned(cell, limits)) is not None]
    while cells and cells[-1].kind == TEXT:
        cells.pop()
    if not cells:
        return _dropped("template", "holds no code of its own")
    code = cells[0].source + "\n" if told["kind"] == "script" else ""
    code = code or script(replace(notebook, cells=tuple(cells)))
    failed = next(_failures(code, limits), None)
    if failed:
        return _dropped(*failed)
    return Document(KAGGLE, PYTHON, (*_shown(told["dataset"], limits), ("<jupyter_script>", code)))


def _dropped(rule: str, reason: str) -> Document:
    return Document(KAGGLE, PYTHON, (), Verdict(False, f"kaggle_{rule}", reason))


def _notebook(told: dict[str, Any]) -> Notebook:
    if told["kind"] == "script":
        source = told["code"].replace("\r\n", "\n").strip("\n")
        return Notebook(PYTHON, "#", (Cell(CODE, source),))
    return replace(parse(told["code"].encode()), language=PYTHON, comment="#")


def _cleaned(cell: Cell, limits: KaggleLimits) -> Cell | None:
    """The cell without what is no Python of its author's; None where nothing is left."""
    if cell.kind == TEXT:
        return cell
    if cell.source.lstrip().startswith("%%"):  # of another program
        return None
    lines = [line for line in cell.source.split("\n") if _is_code(line, limits)]
    if _STARTER in cell.source:
        bare = (line.partition("#")[0].strip() for line in lines)
        if all(not line or line in _STARTER_LINES for line in bare):
            return None
    source = "\n".join(lines).strip("\n")
    return replace(cell, source=source) if source.strip() else None


def _is_code(line: str, limits: KaggleLimits) -> bool:
    bare = line.lstrip()
    command = bare.startswith(COMMANDS) or _COMMAND.match(bare) is not None
    return not command and len(line) <= limits.longest_line


def _failures(code: str, limits: KaggleLimits) -> Iterator[tuple[str, str]]:
    if len(code) > limits.most_characters:
        yield "long", f"{len(code):,} characters"
    if len(code.strip()) < limits.fewest_characters:
        yield "short", f"{len(code.strip()):,} characters"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        yield "syntax", f"{type(error).__name__}: {error}"[:200]


def _shown(dataset: dict[str, Any] | None, limits: KaggleLimits) -> Iterator[Piece]:
    """What stands before the script: nothing where the data set is not at hand."""
    if dataset is None:
        return
    yield "<jupyter_start>", ""
    description = cut_characters(dataset["description"].strip(), limits.longest_description)
    about = [one for one in (dataset["title"].strip(), description) if one]
    about.append(f"Kaggle dataset identifier: {dataset['id']}")
    yield "<jupyter_text>", "\n".join(about)
    table = dataset["table"]
    if table is None:
        return
    path = repr(table["path"])
    yield "<jupyter_code>", f"import pandas as pd\n\ndf = pd.read_csv({path})\ndf.info()"
    yield "<jupyter_output>", frame_info(table["rows"], table["columns"])
    examples = [json.dumps(dict(one), ensure_ascii=False) for one in table["examples"]]
    yield "<jupyter_text>", "\n".join(["Examples:", *examples])


def frame_info(rows: int, columns: list[tuple[str, int, str]]) -> str:
    """What pandas prints of a frame by `df.info()`, but for its memory."""
    heads = (" # ", "Column", "Non-Null Count", "Dtype")
    cells = [
        (f" {place}", name, f"{count} non-null", kind)
        for place, (name, count, kind) in enumerate(columns)
    ]
    ruled = [heads, tuple("-" * len(head) for head in heads), *cells]
    widths = [max(map(len, column)) for column in zip(*ruled, strict=True)]
    kinds = Counter(kind for _, _, kind in columns)
    return "\n".join(
        [
            "<class 'pandas.core.frame.DataFrame'>",
            f"RangeIndex: {rows} entries, 0 to {rows - 1}",
            f"Data columns (total {len(columns)} columns):",
            *("  ".join(map(str.ljust, row, widths)) for row in ruled),
            "dtypes: " + ", ".join(f"{kind}({count})" for kind, count in sorted(kinds.items())),
        ]
    )
