"""What of a curated set is taken: languages, and how much of each (StarCoder2, section 4)."""

import re
from collections.abc import Sequence

from cairn.base import UserError
from cairn.base.config import nearest
from cairn.curate.languages.table import table, type_of

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
    """Bytes by language from texts such as `Java=200GB`.

    UserError for a text that is none, or that names no language.
    """
    found: dict[str, int] = {}
    for text in caps:
        match = _CAP.fullmatch(text)
        if match is None or match[3].upper() not in _UNITS:
            raise UserError("caps", text, "is no cap", "write LANGUAGE=SIZE, Java=200GB say")
        if not type_of(match[1]):
            mend = nearest(match[1], table().types)
            raise UserError("caps", text, "names no language of linguist's", mend)
        found[match[1]] = int(float(match[2]) * _UNITS[match[3].upper()])
    return found


SMOL_NAMES = frozenset({"package.json", "composer.json", "tsconfig.json", "Cargo.toml"})
"""Configuration of the small selection whose language is not in it (languages.SMOL)."""
