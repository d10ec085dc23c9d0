"""Licences: which files carry them, what they say, and what follows (StarCoder2, section 2.1).

A file has the union of what its own header says and of what the licence files in all directories
above it say. What a text says is found by SPDX tags, and by holding its words against the texts,
notices and short names of licences that ScanCode knows (`table`): word for word first (`exact`),
then what is nearly so (`approximate`). Which of these matches count (`matches`, `findings`) follows
ScanCode's rules (Apache-2.0, nexB Inc. and others), so that both say the same of a licence file.
"""

import re
from functools import lru_cache

from cairn.curate.licences.classes import (
    CLASSES,
    NO_LICENSE,
    NON_PERMISSIVE,
    PERMISSIVE,
    classify,
)
from cairn.curate.licences.expressions import is_known, permissive_ids, tags, told
from cairn.curate.licences.findings import licences_in, licences_of_header

__all__ = [
    "CLASSES",
    "HEADER",
    "LARGEST",
    "NON_PERMISSIVE",
    "NO_LICENSE",
    "PERMISSIVE",
    "base_of",
    "classify",
    "detect",
    "header",
    "is_carrier",
    "is_known",
    "permissive_ids",
    "tags",
    "told",
]

HEADER = 4_000  # characters of a file that may be its licence header
LARGEST = 400_000  # characters of a licence file that are read

_NAMES = (
    r"li[cs]en[cs]es?|legal|copy(?:left|right|ing)|unlicense|[al]?gpl[-_ v]?(?:\d\.?\d?)?|bsdl?|"
    r"mitx?|apache|artistic|copyingv?\d?|disclaimer|eupl|gfdl|[cm]pl|cc0|al[-_ v]?(?:\d\.?\d)?|"
    r"about|notice|readme|guidelines"
)
_CARRIER = re.compile(rf"(?:.*[-_. ])?(?:{_NAMES})(?:[-_. ].*)?", re.IGNORECASE | re.DOTALL)
# No statement of a licence does without one of these.
_SIGNS = (
    *("licen", "spdx", "copying", "copyleft", "permission is", "redistribut", "public domain"),
    *("gpl", "warrant", "proprietary", "confidential", "cc0", "disclaims copyright"),
)
_NAMED = (*_SIGNS, "mit", "bsd", "apache", "mozilla", "eclipse", "artistic", "zlib", "terms")
# The last line of a notice has one of these.
_ENDS = (*_SIGNS, "copyright", "damage", "dealing", "notice", "software", "liab")
_REMEMBERED = 20_000  # characters of a text that is likely to come again


def is_carrier(path: str) -> bool:
    """Whether a file of this name may tell the licence of what lies beside and below it."""
    return _CARRIER.fullmatch(path.rpartition("/")[2]) is not None


def base_of(path: str) -> str:
    """The directory that a licence file speaks for, with its final `/`; empty for the root.

    What lies in a folder LICENSES speaks for the folder that holds it, as REUSE has it.
    """
    base = path[: path.rfind("/") + 1]
    return base.removesuffix("LICENSES/") if f"/{base}".endswith("/LICENSES/") else base


def detect(text: str) -> frozenset[str]:
    """SPDX identifiers of the licences that a text states, quotes, or names by tag.

    Identifiers that SPDX does not have begin with `LicenseRef-scancode-`.
    """
    text = text[:LARGEST]
    plain = text.lower()
    if not any(sign in plain for sign in _NAMED):
        return frozenset()
    return _known(text) if len(text) <= _REMEMBERED else licences_in(text)


def header(text: str) -> frozenset[str]:
    """As `detect`, of what the first lines of a source file say; files that begin alike are quick.

    Looked at are the lines of the first HEADER characters from the first that may tell of a
    licence to the last that may.
    """
    plain = text[:HEADER].lower()
    signs = [place for sign in _SIGNS if (place := plain.find(sign)) >= 0]
    if not signs:
        return frozenset()
    begin = plain.rfind("\n", 0, min(signs)) + 1
    end = plain.find("\n", max(plain.rfind(sign) for sign in _ENDS))
    return _known_header(text[begin : end if end > 0 else HEADER])


_known = lru_cache(maxsize=256)(licences_in)
_known_header = lru_cache(maxsize=4096)(licences_of_header)
