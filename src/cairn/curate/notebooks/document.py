"""Notebooks: The Stack v2 (arXiv 2402.19173), section 2.4, in the layouts of its section 5."""

from dataclasses import dataclass

from cairn.curate.messages import cut_characters
from cairn.curate.notebooks.cells import CODE, Cell, Notebook, NotebookError, parse
from cairn.curate.pieces import Document, Piece
from cairn.curate.rules import Verdict
from cairn.sources.record import NOTEBOOK, NOTEBOOK_SCRIPT

MAGIC = ("%", "!", "?")  # what begins a line that is no code of the language


@dataclass(frozen=True, kw_only=True)
class NotebookLimits:
    """Where each rule begins to drop or cut. The report drops what cannot be read, and no more."""

    fewest_code_cells: int = 1
    """Least code cells of a notebook."""
    longest_output: int = 20_000
    """Characters that are kept of an output; the report names no bound."""
    structured_languages: tuple[str, ...] = ("Python",)
    """Languages whose notebooks are also told as text, code and outputs."""


def notebook_documents(raw: bytes, path: str, limits: NotebookLimits) -> list[Document]:
    """A notebook's script, and its cells with outputs; each with its verdict.

    Rules in order: notebook_damaged (no JSON, or no cells), notebook_language (the metadata names
    none that is known), notebook_code (too few code cells). The second document is only of
    `structured_languages`.
    """
    try:
        notebook = parse(raw)
    except NotebookError as error:
        return [_dropped("notebook_damaged", str(error))]
    if not notebook.language:
        return [_dropped("notebook_language", "the metadata names no language that is known")]
    count = sum(one.kind == CODE for one in notebook.cells)
    if count < limits.fewest_code_cells:
        return [_dropped("notebook_code", f"{count} code cells")]
    language = notebook.language
    made = [Document(NOTEBOOK_SCRIPT, language, (("<jupyter_script>", script(notebook)),))]
    if language in limits.structured_languages:
        made.append(Document(NOTEBOOK, language, tuple(_structured(notebook, limits))))
    return made


def _dropped(rule: str, reason: str) -> Document:
    return Document(NOTEBOOK_SCRIPT, "", (), Verdict(False, rule, reason))


def script(notebook: Notebook) -> str:
    """As jupytext's light format has it: text and magic as comments, a blank line between cells.

    A code cell that holds a blank line stands between `+` and `-`, so that cells can be told.
    """
    mark, cells = notebook.comment, notebook.cells
    parts: list[str] = []
    for cell in cells:
        if cell.kind != CODE:
            lines = cell.source.split("\n")
            parts.append("\n".join(f"{mark} {line}".rstrip() for line in lines))
            continue
        source = _without_magic(cell.source, mark)
        inside = "\n\n" in source
        parts.append(f"{mark} +\n{source}\n{mark} -" if inside else source)
    return "\n\n".join(parts) + "\n"


def _without_magic(source: str, mark: str) -> str:
    lines = source.split("\n")
    if lines[0].startswith("%%"):  # the whole cell is of another program
        return "\n".join(f"{mark} {line}".rstrip() for line in lines)
    return "\n".join(
        f"{mark} {line}" if mark == "#" and line.lstrip().startswith(MAGIC) else line
        for line in lines
    )


def _structured(notebook: Notebook, limits: NotebookLimits) -> list[Piece]:
    """Runs of cells of one kind as one block; after code the output of the run's last cell."""
    pieces: list[Piece] = [("<jupyter_start>", "")]
    for run in _runs(notebook.cells):
        source = "\n".join(one.source for one in run)
        if run[0].kind != CODE:
            pieces.append(("<jupyter_text>", source))
            continue
        output = cut_characters(run[-1].output, limits.longest_output)
        pieces += [("<jupyter_code>", source), ("<jupyter_output>", output)]
        if not output:
            pieces.append(("<empty_output>", ""))
    return pieces


def _runs(cells: tuple[Cell, ...]) -> list[list[Cell]]:
    runs: list[list[Cell]] = []
    for cell in cells:
        if runs and runs[-1][0].kind == cell.kind:
            runs[-1].append(cell)
        else:
            runs.append([cell])
    return runs
