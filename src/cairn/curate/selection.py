"""What of a curated set is taken: languages, and how much of each (StarCoder2, section 4)."""

import json
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from cairn.base import UserError

# The caps of the report that are known to us; a few data languages have 1 GB there.
CAPS = (
    "Java=200GB",
    "JavaScript=200GB",
    "HTML=100GB",
    "CSS=8GB",
    "JSON=8GB",
    "XML=8GB",
    "YAML=8GB",
)
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_CAP = re.compile(r"(.+)=(\d+(?:\.\d+)?) ?([KMGT]?B?)", re.IGNORECASE)


def parse_caps(caps: Sequence[str]) -> dict[str, int]:
    """Bytes by language from texts such as `Java=200GB`. UserError for a text that is none."""
    found: dict[str, int] = {}
    for text in caps:
        match = _CAP.fullmatch(text)
        if match is None or match[3].upper() not in _UNITS:
            raise UserError("caps", text, "is no cap", "write LANGUAGE=SIZE, Java=200GB say")
        found[match[1]] = int(float(match[2]) * _UNITS[match[3].upper()])
    return found


# What the smaller models learn from: 17 languages, languages of documentation, configuration.
_SMOL = (
    "C, C#, C++, Go, Java, JavaScript, Kotlin, Lua, PHP, Python, R, Ruby, Rust, SQL, Shell, Swift, "
    "TypeScript, AsciiDoc, HTML, Markdown, RDoc, RMarkdown, Text, reStructuredText, "
    "Ant Build System, CMake, Dockerfile, Go Module, Gradle, INI, Java Properties, Makefile, "
    "Maven POM"
)
SMOL = frozenset(_SMOL.split(", "))
SMOL_NAMES = frozenset({"package.json", "composer.json", "tsconfig.json", "Cargo.toml"})


@cache
def _excluded() -> tuple[frozenset[str], dict[str, frozenset[str]]]:
    text = files("cairn.curate").joinpath("selection.json").read_text(encoding="utf-8")
    found = json.loads(text)
    extensions = {name: frozenset(some) for name, some in found["extensions"].items()}
    return frozenset(found["languages"]), extensions


def excluded_extension(language: str, extension: str) -> bool:
    """Whether people who looked at such files found no code of the language in them.

    The authors of The Stack v2 labelled extensions language by language; selection.json holds
    those of their labels that are known to us. Some languages have no extension left.
    """
    languages, extensions = _excluded()
    return language in languages or extension in extensions.get(language, ())
