"""What of a curated set is taken: languages, and how much of each (StarCoder2, section 4)."""

import re
from collections.abc import Sequence

from cairn.base import UserError
from cairn.base.config import nearest
from cairn.base.sizes import bytes_of
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
_CAP = re.compile(r"(.+)=([^=]+)")


def parse_caps(caps: Sequence[str]) -> dict[str, int]:
    """Bytes by language from texts such as `Java=200GB`.

    UserError for a text that is none, or that names no language.
    """
    found: dict[str, int] = {}
    for text in caps:
        match = _CAP.fullmatch(text)
        try:
            size = bytes_of(match[2] if match else "")
        except UserError:
            mend = "write LANGUAGE=SIZE, Java=200GB say"
            raise UserError("caps", text, "is no cap", mend) from None
        assert match is not None
        if not type_of(match[1]):
            mend = nearest(match[1], table().types)
            raise UserError("caps", text, "names no language of linguist's", mend)
        found[match[1]] = size
    return found


SMOL_NAMES = frozenset({"package.json", "composer.json", "tsconfig.json", "Cargo.toml"})
"""Configuration of the small selection whose language is not in it (languages.SMOL)."""
