"""Which language a file is in, as go-enry 2.9 decides it by linguist 9.0's strategies in order.

Modeline, file name, shebang, extension, XML declaration, man page, patterns, classifier. A strategy
that finds one language settles it; one that finds several leaves them to those after it.
"""

import re

from cairn.curate.languages import classifier, heuristics
from cairn.curate.languages.table import alias_key, table

EDGE = 5  # lines at either end where a modeline may stand
BINARY_WITHIN = 8000  # characters of which none may be NUL

_VIM = re.compile(r"(?:(?:^|(?<=\s))vi(?:m(?:[<=>]?\d++)?)?|ex)\s*+:\s*+([^\n]*)", re.M | re.A)
_VIM_TYPE = re.compile(r"(?i:filetype|ft|syntax)\s*+=(\w++)(?:\s|:|\Z)", re.A)
_EMACS_MODE = re.compile(r"(?i:mode)\s*+:\s*+([^\s;]++)", re.A)
_EXECUTED = re.compile(r"exec (\w++)[^\n]{1,200}\$0[^\n]{1,200}\$@", re.A)
_PYTHON = re.compile(r"python\d\.\d", re.A)
_MAN_PAGE = re.compile(r"\.(?:[1-9](?:[a-z_]++[a-z_0-9]*+)?|0p|n|man|mdoc)(?:\.in)?\Z")
_MAN_PAGES = ("Roff", "Roff Manpage")


def extension_of(path: str) -> str:
    """The part after the last dot of the file's name, lower case; empty where there is none."""
    name = path.rpartition("/")[2]
    stem, dot, extension = name.rpartition(".")
    return extension.lower() if dot and stem else ""


def language_of(path: str, text: str) -> str:
    """The language by linguist's name; empty where no strategy knows one, and of binary data."""
    if "\0" in text[:BINARY_WITHIN]:
        return ""
    by_modeline = _by_modeline(text)
    if by_modeline:
        return by_modeline
    known, name = table(), path.rpartition("/")[2]
    left: tuple[str, ...] = ()
    for found in (
        known.filenames.get(name, ()),
        known.interpreters.get(_interpreter(text), ()) if text.startswith("#!") else (),
        _by_extension(name.lower()),
    ):
        if len(found) == 1:
            return found[0]
        left = found or left
    if not left and _is_xml(text):
        return "XML"
    return _among(left, name.lower(), text)


def _among(left: tuple[str, ...], name: str, text: str) -> str:
    """By man pages' names, by patterns and by the classifier."""
    if _MAN_PAGE.search(name):
        left = _MAN_PAGES
    dot = name.rfind(".")
    found = heuristics.decide(name[dot:], text) if dot >= 0 else ()
    if len(found) == 1:
        return found[0]
    left = found or left
    return classifier.choose(text, left) if left else ""


def _by_extension(name: str) -> tuple[str, ...]:
    """The languages of the longest ending of the name that the table has."""
    known = table().extensions
    at = name.find(".")
    while at >= 0:
        found = known.get(name[at:])
        if found:
            return found
        at = name.find(".", at + 1)
    return ()


def _is_xml(text: str) -> bool:
    """Whether a declaration stands on one of the first two lines."""
    end = text.find("\n", text.find("\n") + 1)
    return "xml version=" in (text if end < 0 else text[:end])


def _edges(text: str) -> str:
    """The first and last lines, or all of a short text."""
    begin = -1
    for _ in range(EDGE):
        begin = text.find("\n", begin + 1)
        if begin < 0:
            return text
    end = len(text)
    for _ in range(EDGE):
        end = text.rfind("\n", begin + 1, end)
        if end < 0:
            return text
    return text[:begin] + text[end + 1 :]


def _by_modeline(text: str) -> str:
    edges = _edges(text)
    emacs = _emacs_alias(edges) if "-*-" in edges else ""
    found = table().aliases.get(alias_key(emacs), "") if emacs else ""
    if found or "=" not in edges:
        return found
    lowered = edges.lower()
    if "ft" in lowered or "filetype" in lowered or "syntax" in lowered:
        return table().aliases.get(alias_key(_vim_alias(edges)), "")
    return ""


def _emacs_alias(edges: str) -> str:
    """What the last line that holds -*- twice names: its last mode, or all between the marks."""
    for line in reversed(edges.split("\n")):
        parts = line.rsplit("-*-", 2)
        if len(parts) == 3 and parts[1].strip():
            modes = _EMACS_MODE.findall(parts[1])
            return modes[-1] if modes else parts[1].strip()
    return ""


def _vim_alias(edges: str) -> str:
    """What the last modeline sets, where it sets one."""
    lines = _VIM.findall(edges)
    found = set(_VIM_TYPE.findall(lines[-1])) if lines else set()
    return found.pop() if len(found) == 1 else ""


def _interpreter(text: str) -> str:
    """The program that the first line names, by its file's name; empty where none is named."""
    line = text.partition("\n")[0][2:]
    words = line.split()
    if not words:
        return ""
    program = words[0].rpartition("/")[2]
    if program == "env":
        rest = words[1:]
        while len(rest) > 1 and ("-" in rest[0] or 0 < rest[0].find("=") < len(rest[0]) - 1):
            rest = rest[1:]
        program = rest[0].rpartition("/")[2] if rest else ""
    if program == "sh":
        program = _executed(text) or program
    if _PYTHON.search(program):
        program = program.partition(".")[0]
    return "" if program == "osascript" and "-l" in line else program


def _executed(text: str) -> str:
    """What a shell's first lines put in the shell's place."""
    for line in text[:2000].split("\n")[:EDGE]:
        found = _EXECUTED.search(line)
        if found:
            return found[1]
    return ""
