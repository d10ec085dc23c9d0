"""Linguist's facts on languages (table.json), by what a file shows."""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True)
class Table:
    """Languages by key, in the order of their names; extensions have a dot and are lower case."""

    types: dict[str, str]
    groups: dict[str, str]
    aliases: dict[str, str]
    filenames: dict[str, tuple[str, ...]]
    extensions: dict[str, tuple[str, ...]]
    interpreters: dict[str, tuple[str, ...]]


@cache
def table() -> Table:
    """The shipped table."""
    text = files("cairn.curate.languages").joinpath("table.json").read_text(encoding="utf-8")
    known = json.loads(text)["languages"]
    found = Table({}, {}, {}, {}, {}, {})
    for language, shown in sorted(known.items()):
        found.types[language] = shown["type"]
        found.groups[language] = shown.get("group", language)
        found.aliases[alias_key(language)] = language
        for one in shown.get("aliases", ()):
            found.aliases.setdefault(alias_key(one), language)
        for one in shown.get("extensions", ()):
            _append(found.extensions, one.lower(), language)
        for one in shown.get("filenames", ()):
            _append(found.filenames, one, language)
        for one in shown.get("interpreters", ()):
            _append(found.interpreters, one, language)
    return found


def alias_key(name: str) -> str:
    """How a modeline's name is looked up."""
    return name.partition(",")[0].replace(" ", "_").lower()


def type_of(language: str) -> str:
    """`programming`, `markup`, `data` or `prose`; empty for a language that linguist lacks."""
    return table().types.get(language, "")


def _append(into: dict[str, tuple[str, ...]], key: str, language: str) -> None:
    if language not in into.get(key, ()):
        into[key] = (*into.get(key, ()), language)
