"""SPDX expressions: what they name, and which side of an alternative is taken."""

import json
import re
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.resources import files

from cairn.curate.licences.table import table

UNKNOWN_ID = "LicenseRef-scancode-unknown-spdx"

# The tag at the beginning of a line, after the marks of a comment.
_TAG = re.compile(r"SPDX-License-Identifier[ \t]*:[ \t]*([^\r\n*#<>\"'`;|]{1,300})", re.IGNORECASE)
_PART = re.compile(r"[()]|[A-Za-z0-9][A-Za-z0-9.+:_-]*")
_WORDS = frozenset({"AND", "OR", "WITH"})
_DEPTH = 50  # of parentheses


@cache
def permissive_ids() -> frozenset[str]:
    """Identifiers that count as permissive: Blue Oak's and ScanCode's lists."""
    text = files("cairn.curate.licences").joinpath("permissive.json").read_text(encoding="utf-8")
    return frozenset(json.loads(text)["permissive"])


def tags(text: str) -> Iterable[str]:
    """Identifiers of SPDX tags; of alternatives (OR) the permissive ones, if there are any."""
    for expression in _TAG.findall(text):
        yield from chosen(expression)


def without_tags(text: str) -> str:
    return _TAG.sub("", text)


def ids_of(expression: str) -> Iterator[str]:
    """Every licence that an expression names, but for exceptions."""
    before = ""
    for part in _PART.findall(expression):
        if part not in "()" and part.upper() not in _WORDS and before.upper() != "WITH":
            yield spelled(part)
        before = part


@cache
def spelled(name: str) -> str:
    """An identifier as the SPDX list spells it: its case, `-only` and `-or-later`."""
    known = _spellings()
    bare = name.rstrip(".,").lower()
    if "-with-" in bare and bare.endswith("-exception"):  # as GPL-2.0-with-classpath-exception
        bare = bare.partition("-with-")[0]
    later = bare.removesuffix("+")
    tries = (f"{later}-or-later", later) if bare.endswith("+") else (bare, f"{bare}-only")
    if bare.endswith("+") or f"{bare}-only" not in known:
        found = next((known[one] for one in tries if one in known), None)
    else:
        found = known[f"{bare}-only"]
    return found or UNKNOWN_ID


@cache
def _spellings() -> dict[str, str]:
    parts = {
        part
        for expression in table().expressions
        for part in _PART.findall(expression)
        if part not in "()" and part not in _WORDS
    }
    return {part.lower(): part for part in parts | permissive_ids()}


@cache
def chosen(expression: str) -> frozenset[str]:
    """The licences to be kept: of alternatives the permissive ones, or all if none is."""
    parts = _PART.findall(expression)
    found, _ = _either(parts, 0, 0)
    return frozenset(found)


def told(names: Iterable[str]) -> set[str]:
    """What an origin says by itself (`mit`, `MIT OR GPL-2.0`), as `chosen` has it.

    What names no licence that is known stays as it is written.
    """
    found: set[str] = set()
    for name in names:
        licences = chosen(name)
        found |= {name} if UNKNOWN_ID in licences or not licences else licences
    return found


def is_known(expression: str) -> bool:
    """Whether all that an expression names are licences that are known."""
    licences = chosen(expression)
    return bool(licences) and UNKNOWN_ID not in licences


def _either(parts: list[str], place: int, depth: int) -> tuple[set[str], int]:
    """What `A OR B` asks for, from `place` to a closing parenthesis."""
    alternatives: list[set[str]] = []
    while True:
        found, place = _both(parts, place, depth)
        alternatives.append(found)
        if place < len(parts) and parts[place].upper() == "OR":
            place += 1
            continue
        break
    free = [one for one in alternatives if one and one <= permissive_ids()]
    return set().union(*(free or alternatives)), place


def _both(parts: list[str], place: int, depth: int) -> tuple[set[str], int]:
    """What `A AND B` asks for; names that merely follow each other count as joined."""
    found: set[str] = set()
    while place < len(parts):
        part = parts[place]
        if part == "(" and depth < _DEPTH:
            inner, place = _either(parts, place + 1, depth + 1)
            found |= inner
        elif part.upper() == "OR" or (part == ")" and depth):
            return found, place + (part == ")")
        elif part.upper() == "WITH":
            place += 2
            continue
        elif part not in "()" and part.upper() != "AND":
            found.add(spelled(part))
        place += 1
    return found, place
