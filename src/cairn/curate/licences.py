"""Licences: which files carry them, what they say, and what follows (StarCoder2, section 2.1).

A file has the union of what its own header says and of what the licence files in all directories
above it say. Detection is by SPDX tags and by the sentences that make a licence, after everything
but letters and digits is made a blank.
"""

import json
import re
from collections.abc import Iterable
from functools import cache
from importlib.resources import files

PERMISSIVE, NO_LICENSE, NON_PERMISSIVE = "permissive", "no_license", "non_permissive"
CLASSES = (PERMISSIVE, NO_LICENSE, NON_PERMISSIVE)
HEADER = 4_000  # characters of a file that may be its licence header
LARGEST = 400_000  # characters of a licence file that are read

_NAMES = (
    r"li[cs]en[cs]es?|legal|copy(?:left|right|ing)|unlicense|[al]?gpl[-_ v]?(?:\d\.?\d?)?|bsdl?|"
    r"mitx?|apache|artistic|copyingv?\d?|disclaimer|eupl|gfdl|[cm]pl|cc0|al[-_ v]?\d\.?\d|about|"
    r"notice|readme|guidelines"
)
_CARRIER = re.compile(rf"(?:.*[-_. ])?(?:{_NAMES})(?:[-_. ].*)?", re.IGNORECASE)
_TAG = re.compile(r"SPDX-License-Identifier:[ \t]*([^\r\n*#/<>\"']{1,200})")
_OTHER = re.compile(r"[^a-z0-9]+")

_GNU = {
    "gnu general public license": "GPL",
    "gnu lesser general public license": "LGPL",
    "gnu library general public license": "LGPL",
    "gnu affero general public license": "AGPL",
}
_BSD = (
    "redistribution and use in source and binary forms with or without modification are permitted "
    "provided that the following conditions are met"
)
# Each is a sentence that stands in the licence's text, or in the notice that its text prescribes.
_SENTENCES = {
    "MIT": (
        "permission is hereby granted free of charge to any person obtaining a copy of this "
        "software and associated documentation files",
    ),
    "ISC": (
        "permission to use copy modify and or distribute this software for any purpose with or "
        "without fee is hereby granted provided that the above copyright notice",
        "permission to use copy modify and distribute this software for any purpose with or "
        "without fee is hereby granted provided that the above copyright notice",
    ),
    "Apache-2.0": (
        "apache license version 2 0 january 2004",
        "licensed under the apache license version 2 0",
    ),
    "PSF-2.0": (
        "psf license agreement for python",
        "python software foundation license version 2",
    ),
    "BSL-1.0": ("boost software license version 1 0",),
    "Zlib": ("altered source versions must be plainly marked as such",),
    "Unlicense": ("this is free and unencumbered software released into the public domain",),
    "CC0-1.0": ("cc0 1 0 universal",),
    "0BSD": (
        "zero clause bsd",
        "permission to use copy modify and or distribute this software for any purpose with or "
        "without fee is hereby granted the software is provided as is",
    ),
    "BlueOak-1.0.0": ("blue oak model license",),
    "MPL-2.0": ("mozilla public license version 2 0", "mozilla public license v 2 0"),
    "MPL-1.1": ("mozilla public license version 1 1",),
    "EPL-1.0": ("eclipse public license v 1 0", "eclipse public license version 1 0"),
    "EPL-2.0": ("eclipse public license v 2 0", "eclipse public license version 2 0"),
    "CDDL-1.0": ("common development and distribution license cddl version 1 0",),
    "CC-BY-4.0": ("creative commons attribution 4 0 international",),
    "CC-BY-SA-4.0": ("creative commons attribution sharealike 4 0",),
    "CC-BY-NC-4.0": ("creative commons attribution noncommercial 4 0",),
    "EUPL-1.2": ("european union public licence v 1 2",),
    "OFL-1.1": ("sil open font license version 1 1",),
    "LicenseRef-proprietary": ("all rights reserved proprietary", "proprietary and confidential"),
}
_IGNORABLE = frozenset({"LicenseRef-dco", "LicenseRef-cla"})


def is_carrier(path: str) -> bool:
    """Whether a file of this name may tell the licence of what lies beside and below it."""
    return _CARRIER.fullmatch(path.rpartition("/")[2]) is not None


def base_of(path: str) -> str:
    """The directory that a licence file speaks for, with its final `/`; empty for the root."""
    return path[: path.rfind("/") + 1]


def detect(text: str) -> frozenset[str]:
    """SPDX identifiers of the licences that a text names by tag or contains."""
    text = text[:LARGEST]
    plain = f" {_OTHER.sub(' ', text.lower())} "
    found = set(tags(text))
    found.update(name for name, s in _SENTENCES.items() if any(f" {one} " in plain for one in s))
    found.update(_bsd(plain))
    found.update(_gnu(plain))
    return frozenset(found)


def tags(text: str) -> Iterable[str]:
    """Identifiers of SPDX tags; of alternatives (OR) the permissive ones, if there are any."""
    for expression in _TAG.findall(text):
        words = [word for word in re.split(r"[\s()]+", expression) if word]
        named = [
            word
            for before, word in zip(["", *words], words, strict=False)
            if word.upper() not in {"AND", "OR", "WITH"} and before.upper() != "WITH"
        ]
        known = [word for word in named if re.fullmatch(r"[A-Za-z0-9.+-]+", word)]
        joined = {word.upper() for word in words}
        alternatives = "OR" in joined and "AND" not in joined  # what AND adds must be kept too
        open_ones = [word for word in known if word in permissive_ids()]
        yield from (open_ones if alternatives and open_ones else known)


def _bsd(plain: str) -> Iterable[str]:
    place = plain.find(_BSD)
    while place >= 0:
        following = plain[place : place + 2_000]
        if "all advertising materials mentioning features" in following:
            yield "BSD-4-Clause"
        elif re.search(
            r"neither the names? of|the names? of the (?:authors?|contributors?)", following
        ):
            yield "BSD-3-Clause"
        else:
            yield "BSD-2-Clause"
        place = plain.find(_BSD, place + len(_BSD))


def _gnu(plain: str) -> Iterable[str]:
    """GNU licences by the title of their text or by the notice; a passing mention is none."""
    for title, family in _GNU.items():
        for version in re.findall(
            rf" {title} version (\d)(?: (\d))? (?:\d+ )?[a-z]+ (?:19|20)\d\d ", plain
        ):
            yield _gnu_name(family, version[0] + (f".{version[1]}" if version[1] else ".0"))
        if f"under the terms of the {title}" in plain or f"licensed under the {title}" in plain:
            version = re.search(rf"{title}.{{0,120}}?version (\d)(?: (\d))?", plain)
            number = f"{version[1]}.{version[2] or 0}" if version else ""
            yield _gnu_name(family, number)


def _gnu_name(family: str, number: str) -> str:
    return f"{family}-{number}" if number else f"{family}-unversioned"


@cache
def permissive_ids() -> frozenset[str]:
    """SPDX identifiers that count as permissive: Blue Oak's and ScanCode's lists."""
    text = files("cairn.curate").joinpath("licences.json").read_text(encoding="utf-8")
    return frozenset(json.loads(text)["permissive"])


def classify(detected: Iterable[str], declared: str | None) -> str:
    """The class of a file: the table of StarCoder2's figure 1, in its order.

    `detected`: identifiers found in files; `declared`: what the forge says of the repository (SPDX,
    NOASSERTION, or None), which goes before anything that was detected.
    """
    detected = set(detected)
    if declared in permissive_ids():
        return PERMISSIVE
    if declared is not None and declared != "NOASSERTION":
        return NON_PERMISSIVE
    if not detected:
        return NO_LICENSE if declared is None else NON_PERMISSIVE
    telling = detected - _IGNORABLE
    if not telling:
        return NO_LICENSE
    return PERMISSIVE if telling <= permissive_ids() else NON_PERMISSIVE
