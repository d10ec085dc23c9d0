"""The visible text of HTML, in time linear in its length whatever it holds.

The standard library's parser is quadratic on unclosed markup, and stops at some; a corpus has both.
"""

import html
import re
from collections.abc import Iterator

_MARKUP = re.compile(r"<(?=[a-zA-Z!?/])")  # `a < b` is none
# After a tag's name: a quoted value may hold `>`; a quote that is never closed is a character.
# Possessive throughout: a quote without a partner is looked for once for each kind of quote.
_REST_OF_TAG = re.compile(r"(?:[^>=]++|=\s*+(?:\"[^\"]*+\"|'[^']*+')?+)*+>")
_HIDDEN = {
    "script": re.compile(r"</script(?=[\s/>])", re.IGNORECASE),
    "style": re.compile(r"</style(?=[\s/>])", re.IGNORECASE),
}
_HIDES = re.compile(r"(script|style)(?=[\s/>])", re.IGNORECASE)
_LONG_NUMBER = re.compile(r"&#[xX]?[0-9a-fA-F]{9,}+;?")  # beyond Unicode, and slow to parse


def visible_text(text: str) -> str:
    """What a reader sees: no tags, comments, scripts or styles; white space runs as one blank."""
    shown = " ".join(_LONG_NUMBER.sub("\ufffd", piece) for piece in _pieces(text))
    return " ".join(html.unescape(shown).split())


def _pieces(text: str) -> Iterator[str]:
    """The texts between markup. Markup that never ends hides the rest, as in a browser."""
    place = 0
    while start := _MARKUP.search(text, place):
        yield text[place : start.start()]
        place = _end_of_markup(text, start.start())
    yield text[place:]


def _end_of_markup(text: str, start: int) -> int:
    """Where the markup that begins with `<` ends, with what a script or a style holds."""
    if text.startswith("<!--", start):
        return _after(text, "-->", start + 4)
    if text[start + 1] in "!?/":
        return _after(text, ">", start + 2)
    rest = _REST_OF_TAG.match(text, start + 1)
    if rest is None:
        return len(text)
    hides = _HIDES.match(text, start + 1)
    if hides is None:
        return rest.end()
    closing = _HIDDEN[hides[1].lower()].search(text, rest.end())
    return closing.start() if closing else len(text)


def _after(text: str, mark: str, start: int) -> int:
    found = text.find(mark, start)
    return found + len(mark) if found >= 0 else len(text)
