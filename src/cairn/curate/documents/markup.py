"""HTML as a row of tokens, in time linear in its length whatever it holds.

Parsers that build a tree as browsers do walk up its open elements at each tag: 100,000 nested
`<div>`, half a megabyte, take lexbor 16 seconds. Here no tree is built.
"""

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass

_MARKUP = re.compile(r"<(?=[a-zA-Z!?/])")  # `a < b` is none
_NAME = re.compile(r"/?([a-zA-Z][^\s/>]{0,40})")
# After a tag's name: a quoted value may hold `>`; a quote that is never closed is a character.
_REST = re.compile(r"(?:[^>=]++|=\s*+(?:\"[^\"]*+\"|'[^']*+')?+)*+>")
_ATTRIBUTE = re.compile(r"([^\s=\"'/>]++)(?:\s*+=\s*+(?:\"([^\"]*+)\"|'([^']*+)'|([^\s\"'>]++)))?+")
_LONG_NUMBER = re.compile(r"&#[xX]?[0-9a-fA-F]{9,}+;?")  # beyond Unicode, and slow to parse
_CLOSING = {
    name: re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE)
    for name in ("script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes")
}
_MOST_ATTRIBUTES = 64  # of one tag that are looked at


@dataclass(frozen=True, slots=True)
class Text:
    """Characters between tags, entities resolved."""

    text: str


@dataclass(frozen=True, slots=True)
class Tag:
    """A tag with its lower-case name; rest: what stands after the name, attributes and all."""

    name: str
    closing: bool
    rest: str = ""

    def attributes(self) -> dict[str, str]:
        """Values by lower-case name; the first of several counts, one without a value is empty."""
        found: dict[str, str] = {}
        for number, one in enumerate(_ATTRIBUTE.finditer(self.rest)):
            if number == _MOST_ATTRIBUTES:
                break
            value = one[2] or one[3] or one[4] or ""
            found.setdefault(one[1].lower(), unescape(value))
        return found


Token = Text | Tag


def unescape(text: str) -> str:
    """Entities as characters."""
    return html.unescape(_LONG_NUMBER.sub("\ufffd", text)) if "&" in text else text


def tokens(text: str) -> Iterator[Token]:
    """Texts and tags in order, without comments; markup that never ends hides the rest.

    What a script, a style or a text area holds is passed over, with its tags; of a title and of
    `<xmp>` it is text.
    """
    place = 0
    while start := _MARKUP.search(text, place):
        if start.start() > place:
            yield Text(unescape(text[place : start.start()]))
        place = start.end()
        if text.startswith("!--", place):
            place = _after(text, "-->", place + 1)  # `<!-->` is a whole comment
            continue
        name = _NAME.match(text, place)
        if name is None:  # a declaration, an instruction, `</>`
            place = _after(text, ">", place)
            continue
        rest = _REST.match(text, name.end())
        if rest is None:
            return
        place = rest.end()
        tag = Tag(name[1].lower(), text[start.end()] == "/", text[name.end() : place - 1])
        if tag.closing or tag.name not in _CLOSING:
            yield tag
            continue
        closing = _CLOSING[tag.name].search(text, place)
        inside = text[place : closing.start()] if closing else text[place:]
        if tag.name in ("title", "xmp"):
            yield tag
            yield Text(unescape(inside) if tag.name == "title" else inside)
            yield Tag(tag.name, True)
        place = _after(text, ">", closing.end()) if closing else len(text)
    yield Text(unescape(text[place:]))


def _after(text: str, mark: str, start: int) -> int:
    found = text.find(mark, start)
    return found + len(mark) if found >= 0 else len(text)
