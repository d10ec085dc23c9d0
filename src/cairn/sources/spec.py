"""What a user writes for a source: `SCHEME:PATH?key=value&key=value`, or a bare path."""

from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import parse_qsl

from cairn.base import UserError


@dataclass(frozen=True)
class Spec:
    """A source's scheme, its path or URL, and its options; `text` is what was written."""

    text: str
    scheme: str
    path: str
    options: dict[str, str]


def parse(text: str, schemes: dict[str, Collection[str]]) -> Spec:
    """The parts of a source's text; `schemes` gives the options that each scheme knows.

    A text that begins with none of the schemes is a path: scheme and options are empty. UserError
    for an option that the scheme does not know, or one without a value.
    """
    scheme, colon, rest = text.partition(":")
    if not colon or scheme not in schemes:
        return Spec(text, "", text, {})
    path, _, query = rest.partition("?")
    options: dict[str, str] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in schemes[scheme]:
            known = ", ".join(sorted(schemes[scheme])) or "none"
            raise UserError("source", text, f"has an unknown option {key!r}", f"known: {known}")
        if not value:
            raise UserError("source", text, f"has no value for {key}", f"write {key}=VALUE")
        options[key] = value
    return Spec(text, scheme, path, options)
