"""The thinking budget: when reasoning ends that does not end by itself. No torch.

Nemotron Nano 2 (arXiv 2508.14444), section 3.4: once the budget is spent, reasoning is closed at
the next newline, and if none comes within 500 more tokens, there.
"""

import codecs
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from cairn.base import UserError

CLOSING = "</think>"
GRACE = 500  # tokens after the budget in which a newline is waited for
RAMP = 0.7  # share of the budget after which a nudge begins
NUDGE = 10.0  # what a nudge adds to the closing tag's logit when the budget is spent

Action = Literal["force", "truncate", "nudge"]


@dataclass(frozen=True, kw_only=True)
class Thinking:
    """The completion begins inside reasoning, which `</think>` ends.

    `force` writes the tag, token by token, at the first newline at or after `budget` tokens, or
    `grace` tokens after it (a character of several tokens is not cut in two); these tokens are
    flagged as forced. `truncate` ends the completion at
    that place, with finish_reason "budget". `nudge` writes nothing: at newlines after 0.7 of the
    budget it adds to the logit of the tag, 10 when the budget is spent and in proportion before
    and after. A tag that the model has begun is completed, never begun again. Raises UserError
    for a value that cannot be meant.
    """

    budget: int | None = None
    """Reasoning tokens; None has no limit."""
    action: Action = "force"
    grace: int = GRACE

    def __post_init__(self) -> None:
        if self.action not in get_args(Action):
            raise UserError("action", self.action, f"is none of {', '.join(get_args(Action))}")
        least = 1 if self.action == "truncate" else 0
        for field, lowest in (("budget", least), ("grace", 0)):
            value: Any = getattr(self, field)
            if value is None and field == "budget":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
                raise UserError(field, value, f"is no whole number of {lowest} or more")


class ThinkingControl:
    """Follows one completion; says which token is to come next, if any is.

    `token_bytes(id)` gives the bytes of a token, `encode(text)` the tokens of a text.
    """

    def __init__(
        self,
        thinking: Thinking,
        token_bytes: Callable[[int], bytes],
        encode: Callable[[str], list[int]],
    ) -> None:
        self.thinking = thinking
        self._token_bytes, self._encode = token_bytes, encode
        self._closing = CLOSING.encode()
        self._tail = b"\n"  # the end of what was written; a prompt ends with "<think>\n"
        self._queue: list[int] = []
        self.count = 0
        """Reasoning tokens so far, the closing tag's included."""
        self.closed = False
        self.truncated = False
        self._look()

    @property
    def forced(self) -> int | None:
        """The token that must come next, or None."""
        return self._queue[0] if self._queue else None

    def accept(self, token: int) -> None:
        """The completion's next token."""
        if self.closed:
            return
        self.count += 1
        if self._queue and self._queue[0] == token:
            del self._queue[0]
        written = self._tail + self._token_bytes(token)
        if self._closing in written:
            self.closed = True
            self._queue.clear()
            return
        self._tail = written[-len(self._closing) :]
        if not self._queue:
            self._look(b"\n" in self._token_bytes(token))

    def bias(self) -> tuple[int, float] | None:
        """A token and what is added to its logit, where reasoning is nudged to end."""
        budget = self.thinking.budget
        if self.thinking.action != "nudge" or budget is None or self.closed:
            return None
        if not self._tail.endswith(b"\n") and not self._begun():
            return None
        ramp = (1 - RAMP) * budget
        spent = (self.count - RAMP * budget) / ramp if ramp else math.inf
        if spent <= 0:
            return None
        return self._rest()[0], NUDGE * min(spent, 10.0)

    def _look(self, newline: bool = True) -> None:
        """Whether reasoning ends here."""
        budget, action = self.thinking.budget, self.thinking.action
        if budget is None or action == "nudge" or self.count < budget:
            return
        late = self.count - (budget + self.thinking.grace)
        # A character of which bytes are still to come (at most three) is not cut in two.
        if newline or late >= 3 or (late >= 0 and not _inside_character(self._tail)):
            if action == "truncate":
                self.truncated = True
            else:
                self._queue = self._rest()

    def _rest(self) -> list[int]:
        """Tokens of the closing tag, or of what is missing of one that was begun."""
        return self._encode(self._closing[self._begun() :].decode())

    def _begun(self) -> int:
        """How many characters of the closing tag stand at the end of what was written."""
        for length in range(len(self._closing) - 1, 0, -1):
            if self._tail.endswith(self._closing[:length]):
                return length
        return 0


def _inside_character(data: bytes) -> bool:
    """Whether UTF-8 ends within a character."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    decoder.decode(data[-4:])
    return bool(decoder.getstate()[0])
