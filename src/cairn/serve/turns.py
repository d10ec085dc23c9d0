"""An assistant's turn, taken apart while it comes: reasoning, tool calls, and what is said.

Text may come in any pieces: what is given out depends on the text alone. Nothing is lost: what
looks like a call and is none comes out as content, tags and all.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

OPENING, CLOSING = "<think>", "</think>"
BETWEEN = "[], \t\r\n"  # what stands around the objects of a list of calls
CALLS, END_OF_CALLS = "<TOOLCALL>", "</TOOLCALL>"


@dataclass(frozen=True)
class Piece:
    """What a turn went on with: text of a kind, or one whole call."""

    kind: Literal["reasoning", "content", "call"]
    text: str
    """The text; of a call, its arguments as JSON."""
    name: str = ""
    """The function that is called."""


class TurnParser:
    """One turn. `thinking`: it begins inside reasoning; `tools`: calls are looked for, and with
    `instead` only in place of words: an answer that has begun may spell the tags.

    Reasoning ends with `</think>`, or where a call begins without it; blank space around the tag
    belongs to nobody. A block of calls is `<TOOLCALL>[{"name": ..., "arguments": {...}}, ...]
    </TOOLCALL>`; each call comes out when its object is complete. Blank space before and after
    blocks is dropped.
    """

    def __init__(self, *, thinking: bool, tools: bool, instead: bool = False) -> None:
        self._tools, self._instead = tools, instead
        self._mode: Literal["opening", "reasoning", "content", "calls"]
        self._mode = "opening" if thinking else "content"
        self._text = ""  # not given out yet
        self._fresh = False  # a tag stands just before: blank space after it is dropped
        self._calls = _Calls()
        self.called = False
        """Whether a call came."""

    def push(self, text: str, *, final: bool = False) -> list[Piece]:
        """Take text; what can be said of the turn now. `final` ends it."""
        self._text += text
        found: list[Piece] = []
        while (piece := self._next(final)) is not None:
            found += piece
        return _joined(found)

    def _next(self, final: bool) -> list[Piece] | None:
        """The pieces of one stretch, perhaps none; None where more text is needed."""
        if self._mode == "opening":
            return self._open(final)
        if self._mode == "calls":
            return self._call(final)
        if self._fresh:
            self._text = self._text.lstrip()
        if self._instead and self._mode == "content":
            begun = self._text.lstrip()[: len(CALLS)]
            self._tools &= CALLS.startswith(begun)
        tags = [CLOSING] if self._mode == "reasoning" else []
        if self._tools:
            tags.append(CALLS)
        found = [(self._text.index(tag), tag) for tag in tags if tag in self._text]
        if found:
            place, tag = min(found)
            before, self._text = self._text[:place], self._text[place + len(tag) :]
            pieces = self._say(before.rstrip())
            self._mode = "content" if tag == CLOSING else "calls"
            self._fresh = True
            return pieces
        said = self._text if final else self._decided(tags)
        if not said:
            return None
        self._text = self._text[len(said) :]
        return self._say(said)

    def _open(self, final: bool) -> list[Piece] | None:
        """Blank space and a second `<think>` at the beginning of reasoning are dropped."""
        text = self._text.lstrip()
        if OPENING.startswith(text) and text != OPENING and not final:
            return None
        self._text = text.removeprefix(OPENING)
        self._mode, self._fresh = "reasoning", True
        return []

    def _say(self, text: str) -> list[Piece]:
        kind = "reasoning" if self._mode == "reasoning" else "content"
        if not text:
            return []
        self._fresh = False
        return [Piece(kind, text)]

    def _decided(self, tags: list[str]) -> str:
        """The text that neither begins a tag nor is blank space that a tag would take."""
        text = self._text
        if not tags:
            return text
        keep = max(_begun(text, tag) for tag in tags)
        return text[: len(text) - keep].rstrip()

    def _call(self, final: bool) -> list[Piece] | None:
        pieces, rest = self._calls.push(self._text)
        self._text = ""
        self.called |= any(piece.kind == "call" for piece in pieces)
        if rest is None and final:
            pieces, rest = [*pieces, *self._calls.leave()], ""
        if rest is None:
            return pieces or None
        self._text, self._calls = rest, _Calls()
        self._mode, self._fresh = "content", True
        return pieces


class _Calls:
    """A block of calls after `<TOOLCALL>`, character by character."""

    def __init__(self) -> None:
        self._raw = [CALLS]  # since the last whole call: content, if it turns out to be none
        self._end = ""  # of it, as long as the closing tag
        self._begin = 1  # where in it the object begins that is being read
        self._depth = 0
        self._quoted = self._escaped = self._spoilt = False

    def push(self, text: str) -> tuple[list[Piece], str | None]:
        """Calls that are complete; and the text after the block, None while it goes on."""
        pieces: list[Piece] = []
        for place, char in enumerate(text):
            self._raw.append(char)
            self._end = (self._end + char)[-len(END_OF_CALLS) :]
            if self._end == END_OF_CALLS and not self._quoted:  # inside an object too
                return [*pieces, *self.leave()], text[place + 1 :]
            if not self._spoilt:
                pieces += self._read(char)
        return pieces, None

    def leave(self) -> list[Piece]:
        """What did not become a call, as content."""
        whole = "".join(self._raw)
        raw = whole.removesuffix(END_OF_CALLS)
        if not self._depth:
            raw = raw[: len(raw) - _begun(raw, END_OF_CALLS)]  # cut off in the closing tag
        left = raw.removeprefix(CALLS).strip(BETWEEN)
        return [Piece("content", whole)] if left else []

    def _read(self, char: str) -> Iterator[Piece]:
        if not self._depth:
            if char == "{":
                self._begin, self._depth = len(self._raw) - 1, 1
            elif char not in BETWEEN and not END_OF_CALLS.startswith(self._tag()):
                self._spoilt = True
            return
        if self._quoted:
            if self._escaped:
                self._escaped = False
            elif char == "\\":
                self._escaped = True
            elif char == '"':
                self._quoted = False
        elif char == '"':
            self._quoted = True
        elif char in "{[":
            self._depth += 1
        elif char in "}]":
            self._depth -= 1
            if not self._depth:
                yield from self._finish()

    def _tag(self) -> str:
        """The end of what came, from the last `<` on."""
        return self._end[max(self._end.rfind("<"), 0) :]

    def _finish(self) -> Iterator[Piece]:
        call = _call_of("".join(self._raw[self._begin :]))
        if call is None:
            self._spoilt = True
            return
        self._raw = [CALLS]
        yield call


def _call_of(text: str) -> Piece | None:
    try:
        found: Any = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None
    name, arguments = found.get("name"), found.get("arguments", {})
    if isinstance(arguments, str):  # some models quote them once more
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return None
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return None
    return Piece("call", json.dumps(arguments, ensure_ascii=False), name)


def _begun(text: str, tag: str) -> int:
    """How many characters of the tag stand at the end of the text."""
    for length in range(min(len(tag) - 1, len(text)), 0, -1):
        if text.endswith(tag[:length]):
            return length
    return 0


def _joined(pieces: list[Piece]) -> list[Piece]:
    """Neighbours of one kind as one piece; calls stay as they are."""
    found: list[Piece] = []
    for piece in pieces:
        if found and piece.kind != "call" and found[-1].kind == piece.kind:
            found[-1] = Piece(piece.kind, found[-1].text + piece.text)
        else:
            found.append(piece)
    return found
