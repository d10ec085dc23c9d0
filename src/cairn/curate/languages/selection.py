"""Which languages and extensions a training set takes (StarCoder2, sections 2.1 and 4)."""

import json
from functools import cache
from importlib.resources import files

PROGRAMMING = (
    *("C", "C#", "C++", "Go", "Java", "JavaScript", "Kotlin", "Lua", "PHP", "Python", "R"),
    *("Ruby", "Rust", "SQL", "Shell", "Swift", "TypeScript"),
)
DOCUMENTATION = (
    *("AsciiDoc", "HTML", "Markdown", "RDoc", "RMarkdown", "Text", "reStructuredText"),
)
# The report's list of these is in an appendix that is not published in full.
CONFIGURATION = (
    *("Ant Build System", "CMake", "Dockerfile", "Go Module", "Gradle", "INI"),
    *("Java Properties", "Makefile", "Maven POM"),
)
SMOL = frozenset({*PROGRAMMING, *DOCUMENTATION, *CONFIGURATION})


def excluded_extension(language: str, extension: str) -> bool:
    """Whether files of this language with this extension are left out as data or as mislabelled.

    extension: as extension_of gives it. Of 53 languages no extension is taken, of 13 others
    some are not. The report's list of 130 was found by looking at files; only what is
    public of it ships (excluded.json).
    """
    whole, partial = _excluded()
    return language in whole or extension in partial.get(language, ())


@cache
def _excluded() -> tuple[frozenset[str], dict[str, frozenset[str]]]:
    text = files("cairn.curate.languages").joinpath("excluded.json").read_text(encoding="utf-8")
    shown = json.loads(text)
    partial = {name: frozenset(extensions) for name, extensions in shown["extensions"].items()}
    return frozenset(shown["languages"]), partial
