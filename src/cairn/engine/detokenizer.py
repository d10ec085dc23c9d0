"""Tokens to text while they come: whole characters only, and never a part of a stop string."""

import codecs
from collections.abc import Callable, Sequence


class Detokenizer:
    """The text of one completion, piece by piece.

    `token_bytes(id)` gives the bytes that a token stands for (empty for special tokens). A
    character whose bytes are spread over several tokens appears when its last byte has come;
    bytes that are not UTF-8 become U+FFFD, as in `bytes.decode("utf-8", "replace")`.

    Text that may be the beginning of a stop string is held back until that is decided. The
    first stop string to be complete ends the text (of those that end at the same character,
    the longest), so the outcome does not depend on where the token boundaries lie.
    """

    def __init__(self, token_bytes: Callable[[int], bytes], stop: Sequence[str] = ()) -> None:
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stop = tuple(stop)
        self._held = ""
        self._shown: list[str] = []
        self.stopped = False

    @property
    def text(self) -> str:
        """All text that was let out so far."""
        return "".join(self._shown)

    def push(self, token: int) -> str:
        """Take one token; return the text that can be shown now."""
        return self._take(self._decoder.decode(self._token_bytes(token)), final=False)

    def finish(self) -> str:
        """The completion is over: return what was held back, unless a stop string ended it."""
        return self._take(self._decoder.decode(b"", final=True), final=True)

    def _take(self, new: str, final: bool) -> str:
        if self.stopped:
            return ""
        text = self._held + new
        cut = self._first_stop(text)
        if cut is not None:
            self.stopped = True
            out, self._held = text[:cut], ""
        else:
            keep = 0 if final else self._undecided(text)
            out, self._held = text[: len(text) - keep], text[len(text) - keep :]
        if out:
            self._shown.append(out)
        return out

    def _first_stop(self, text: str) -> int | None:
        """Where the text ends if a stop string is in it: the start of the first to be complete."""
        found = ((text.find(stop), len(stop)) for stop in self._stop)
        ends = [(start + length, start) for start, length in found if start >= 0]
        return min(ends)[1] if ends else None

    def _undecided(self, text: str) -> int:
        """How many characters at the end may be the beginning of a stop string."""
        longest = max((len(stop) for stop in self._stop), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            tail = text[len(text) - length :]
            if any(len(stop) > length and stop.startswith(tail) for stop in self._stop):
                return length
        return 0
