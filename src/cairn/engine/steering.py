"""What holds one completion to a course: its thinking budget and its grammar. No torch."""

from typing import Literal

from cairn.engine.budget import ThinkingControl
from cairn.engine.grammar import Matcher


class Steering:
    """Follows the tokens of one completion; `draw` asks it before each, `append` tells it.

    Its answers depend on the tokens that it was told alone, so a sequence that is computed again
    keeps it as it is. A token that is drawn ahead of time, as a draft, must be told before the
    next one is drawn.
    """

    def __init__(self, thinking: ThinkingControl | None, matcher: Matcher | None) -> None:
        self.thinking, self.matcher = thinking, matcher

    @property
    def forced(self) -> int | None:
        """The token that must come next, whatever the model says; None leaves it to the draw."""
        return None if self.thinking is None else self.thinking.forced

    @property
    def reasoning_tokens(self) -> int:
        """Tokens that were reasoning so far."""
        return 0 if self.thinking is None else self.thinking.count

    @property
    def problem(self) -> str:
        """What the grammar broke at; empty while it holds."""
        return "" if self.matcher is None else self.matcher.problem

    def mask(self) -> bytes | None:
        """A bit for each token id that may come next, in 32-bit words; None allows all."""
        return None if self.matcher is None else self.matcher.mask()

    def bias(self) -> tuple[int, float] | None:
        """A token and what is added to its logit."""
        return None if self.thinking is None else self.thinking.bias()

    def accept(self, token: int) -> Literal["stop", "budget", "error"] | None:
        """Take the next token; why the completion ends with it, if it does."""
        if self.thinking is not None:
            self.thinking.accept(token)
        if self.matcher is not None:
            self.matcher.consume(token)
        if self.thinking is not None and self.thinking.truncated:
            return "budget"
        if self.matcher is not None and self.matcher.broken:
            return "error"
        return "stop" if self.matcher is not None and self.matcher.finished else None
