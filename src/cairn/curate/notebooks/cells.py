"""A notebook's file as cells: formats 3 and 4 of nbformat, whatever else stands in the JSON."""

import json
import re
from dataclasses import dataclass
from typing import Any

TEXT, CODE = "text", "code"

# A kernel's language as notebooks write it: linguist's name, and what begins a line of comment.
LANGUAGES = {
    "bash": ("Shell", "#"),
    "c": ("C", "//"),
    "c#": ("C#", "//"),
    "c++": ("C++", "//"),
    "clojure": ("Clojure", ";;"),
    "csharp": ("C#", "//"),
    "f#": ("F#", "//"),
    "fsharp": ("F#", "//"),
    "go": ("Go", "//"),
    "groovy": ("Groovy", "//"),
    "haskell": ("Haskell", "--"),
    "java": ("Java", "//"),
    "javascript": ("JavaScript", "//"),
    "julia": ("Julia", "#"),
    "kotlin": ("Kotlin", "//"),
    "lua": ("Lua", "--"),
    "matlab": ("MATLAB", "%"),
    "octave": ("MATLAB", "%"),
    "perl": ("Perl", "#"),
    "powershell": ("PowerShell", "#"),
    "python": ("Python", "#"),
    "python2": ("Python", "#"),
    "python3": ("Python", "#"),
    "ir": ("R", "#"),
    "r": ("R", "#"),
    "ruby": ("Ruby", "#"),
    "rust": ("Rust", "//"),
    "sagemath": ("Sage", "#"),
    "scala": ("Scala", "//"),
    "scheme": ("Scheme", ";;"),
    "sh": ("Shell", "#"),
    "sql": ("SQL", "--"),
    "swift": ("Swift", "//"),
    "typescript": ("TypeScript", "//"),
    "tsql": ("TSQL", "--"),
}
_SAID = (("language_info", "name"), ("kernelspec", "language"), ("kernelspec", "name"))
_COLOURS = re.compile(r"\x1b\[[0-9;]{0,20}[A-Za-z]")
_INLINE = re.compile(r"data:[\w.+-]{1,40}/[\w.+-]{1,40};base64,[A-Za-z0-9+/=%]*+")


class NotebookError(Exception):
    """Why a file is no notebook, in one line."""


@dataclass(frozen=True)
class Cell:
    """kind: TEXT or CODE; `output` is what the run of a code cell wrote, as text."""

    kind: str
    source: str
    output: str = ""


@dataclass(frozen=True)
class Notebook:
    """language: by linguist's name, or empty where the metadata names none that is known."""

    language: str
    comment: str
    cells: tuple[Cell, ...]


def parse(raw: bytes) -> Notebook:
    """The notebook in a file; NotebookError for what is none. Cells without text are left out."""
    try:
        found = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise NotebookError(f"is no JSON ({type(error).__name__})") from None
    if not isinstance(found, dict):
        raise NotebookError("is no JSON object")
    cells = found.get("cells")
    if cells is None:  # format 3 has worksheets of cells
        sheets = found.get("worksheets")
        sheets = sheets if isinstance(sheets, list) else []
        cells = [one for sheet in sheets for one in _list(sheet, "cells")]
    if not isinstance(cells, list):
        raise NotebookError("has no list of cells")
    language, comment = _language(found)
    made = (_cell(one) for one in cells if isinstance(one, dict))
    return Notebook(language, comment, tuple(one for one in made if one and one.source.strip()))


def _list(value: Any, key: str) -> list[Any]:
    inside = value.get(key) if isinstance(value, dict) else None
    return inside if isinstance(inside, list) else []


def _language(found: dict[str, Any]) -> tuple[str, str]:
    metadata = found.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    told = []
    for part, key in (
        ("language_info", "name"),
        ("kernelspec", "language"),
        ("kernelspec", "name"),
    ):
        inside = metadata.get(part)
        told.append(inside.get(key) if isinstance(inside, dict) else None)
    told += [one.get("language") for one in _first_code(found)]  # format 3 says it of each cell
    for one in told:
        if isinstance(one, str) and one.strip().lower() in LANGUAGES:
            return LANGUAGES[one.strip().lower()]
    return "", ""


def _first_code(found: dict[str, Any]) -> list[dict[str, Any]]:
    for sheet in _list(found, "worksheets"):
        for cell in _list(sheet, "cells"):
            if isinstance(cell, dict) and cell.get("cell_type") == "code":
                return [cell]
    return []


def _cell(found: dict[str, Any]) -> Cell | None:
    kind = found.get("cell_type")
    if kind == "code":
        source = _text(found.get("source", found.get("input")))
        return Cell(CODE, source.strip("\n"), _output(_list(found, "outputs")))
    if kind in ("markdown", "heading", "html", "rst"):  # all but markdown are of format 3
        source = _text(found.get("source")).strip()
        level = found.get("level")
        if kind == "heading" and isinstance(level, int):
            source = "#" * max(1, min(level, 6)) + " " + source
        return Cell(TEXT, _INLINE.sub("", source))
    return None  # raw cells are for programs that convert notebooks


def _output(outputs: list[Any]) -> str:
    """Text that was written, results in plain text, and what an error says."""
    parts: list[str] = []
    for one in outputs:
        if not isinstance(one, dict):
            continue
        kind = one.get("output_type")
        if kind == "stream":
            parts.append(_text(one.get("text")))
        elif kind in ("execute_result", "display_data", "pyout"):
            data = one.get("data", one)
            plain = data.get("text/plain", data.get("text")) if isinstance(data, dict) else None
            parts.append(_text(plain))
        elif kind in ("error", "pyerr"):
            parts.append(f"{_text(one.get('ename'))}: {_text(one.get('evalue'))}")
    made = "\n".join(part.strip("\n") for part in parts if part.strip())
    return _COLOURS.sub("", made)


def _text(value: Any) -> str:
    """A text or its list of lines; halves of characters become the replacement character."""
    if isinstance(value, list):
        value = "".join(one for one in value if isinstance(one, str))
    if not isinstance(value, str):
        return ""
    value = value.replace("\r\n", "\n").replace("\r", "\n")
    return value.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
