"""What to draw and when to stop: SamplingParams, and the random number of each draw. No torch."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cairn.base import UserError
from cairn.engine.budget import Thinking
from cairn.engine.grammar import Grammar

MOST_SHIFT = 1e6  # of a logit, by one penalty or bias: sums of such stay numbers
LEAST_REPETITION, MOST_REPETITION = 0.01, 100.0
MOST_LOGPROBS = 100  # alternatives per token that a request may ask for


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How one completion is drawn. Raises UserError for a value that cannot be meant."""

    max_tokens: int | None = 256
    """Most tokens to draw; None draws until a stop or until the sequence fills its slot."""
    temperature: float = 1.0
    """Logits are divided by it; 0 takes the likeliest token each time (greedy)."""
    top_k: int = 0
    """Draw among the k likeliest tokens only; 0 is off."""
    top_p: float = 1.0
    """Draw among the fewest likeliest tokens whose probability reaches p; 1 is off."""
    min_p: float = 0.0
    """Draw among tokens at least this share as likely as the likeliest; 0 is off."""
    repetition_penalty: float = 1.0
    """Logits of tokens in prompt or completion are divided by it, multiplied where negative
    (CTRL, arXiv 1909.05858); 1 is off."""
    presence_penalty: float = 0.0
    """Taken once from the logit of each token that the completion has."""
    frequency_penalty: float = 0.0
    """Taken from a token's logit as often as the completion has it."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token id, what is added to its logit); a mapping is taken too."""
    grammar: Grammar | None = None
    """What the completion must be: JSON of a schema, a regular expression, or a grammar."""
    thinking: Thinking | None = None
    """The completion begins inside reasoning: its budget, and what happens when it is spent."""
    seed: int | None = None
    """Equal seeds give equal draws, whatever else is in the batch; None takes a fresh one."""
    stop: tuple[str, ...] = ()
    """Strings that end the completion; the text ends before the first one."""
    stop_tokens: tuple[int, ...] = ()
    """Token ids that end the completion, besides those of the checkpoint."""
    ignore_eos: bool = False
    """Draw on past the checkpoint's own end tokens, as measurements do."""
    logprobs: int | None = None
    """Keep the log-probability of each drawn token, and this many alternatives; None keeps none.

    They are the model's own: nothing of what is said here changes them.
    """
    prompt_logprobs: int | None = None
    """The same for each token of the prompt."""

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        elif isinstance(self.stop, list):
            object.__setattr__(self, "stop", tuple(self.stop))
        if isinstance(self.stop_tokens, list):
            object.__setattr__(self, "stop_tokens", tuple(self.stop_tokens))
        if self.max_tokens is not None:
            _whole("max_tokens", self.max_tokens, 0, None)
        _real("temperature", self.temperature)
        if self.temperature < 0:
            raise UserError("temperature", self.temperature, "is negative", "0 is greedy")
        _whole("top_k", self.top_k, 0, None)
        _real("top_p", self.top_p)
        if not 0 < self.top_p <= 1:
            raise UserError("top_p", self.top_p, "is outside (0, 1]", "1 switches it off")
        _real("min_p", self.min_p)
        if not 0 <= self.min_p <= 1:
            raise UserError("min_p", self.min_p, "is outside [0, 1]", "0 switches it off")
        self._check_penalties()
        if self.seed is not None:
            _whole("seed", self.seed, -(2**63), 2**64 - 1)
        for field in ("logprobs", "prompt_logprobs"):
            if getattr(self, field) is not None:
                _whole(field, getattr(self, field), 0, MOST_LOGPROBS)
        self._check_stops()

    def _check_penalties(self) -> None:
        if self.grammar is not None and self.ignore_eos:
            raise UserError("ignore_eos", True, "leaves a grammar without an end", "leave it out")
        for field in ("repetition_penalty", "presence_penalty", "frequency_penalty"):
            _real(field, getattr(self, field))
            if abs(getattr(self, field)) > MOST_SHIFT:
                raise UserError(field, getattr(self, field), f"is beyond {MOST_SHIFT:.0f}")
        if not LEAST_REPETITION <= self.repetition_penalty <= MOST_REPETITION:
            problem = f"is outside [{LEAST_REPETITION}, {MOST_REPETITION:.0f}]"
            raise UserError("repetition_penalty", self.repetition_penalty, problem, "1 is off")
        pairs = self.logit_bias
        if isinstance(pairs, Mapping):
            pairs = tuple(pairs.items())
            object.__setattr__(self, "logit_bias", pairs)
        if not isinstance(pairs, tuple):
            raise UserError("logit_bias", pairs, "is no mapping of ids", "write {5: -1.0}")
        for token, bias in pairs:
            _whole("logit_bias", token, 0, None)
            _real("logit_bias", bias)
            if abs(bias) > MOST_SHIFT:
                raise UserError("logit_bias", bias, f"is beyond {MOST_SHIFT:.0f}")

    def _check_stops(self) -> None:
        if not isinstance(self.stop, tuple) or not all(isinstance(s, str) for s in self.stop):
            raise UserError("stop", self.stop, "is not a tuple of strings", 'write ("\\n",)')
        if "" in self.stop:
            raise UserError("stop", self.stop, "has an empty string", "leave it out")
        if not isinstance(self.stop_tokens, tuple):
            raise UserError("stop_tokens", self.stop_tokens, "is not a tuple of ids", "write (0,)")
        for token in self.stop_tokens:
            _whole("stop_tokens", token, 0, None)

    @property
    def greedy(self) -> bool:
        """Whether every draw takes the likeliest token."""
        return self.temperature == 0

    @property
    def penalised(self) -> bool:
        """Whether a draw depends on which tokens came before, beyond what the model makes of it."""
        penalties = (self.presence_penalty, self.frequency_penalty)
        return self.repetition_penalty != 1 or any(penalties)


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that depends on the seed and on the place in the completion alone.

    One hash per draw, instead of a generator's state, keeps a completion reproducible
    whatever else is in the batch and after its sequence was thrown out and computed again.
    """
    key = (seed % 2**64).to_bytes(8, "little") + position.to_bytes(8, "little")
    bits = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")
    return (bits >> 11) * 2.0**-53


def _whole(field: str, value: Any, least: int, most: int | None) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(field, value, "is not a whole number", "write it in digits")
    if value < least:
        raise UserError(field, value, f"is less than {least}", f"write at least {least}")
    if most is not None and value > most:
        raise UserError(field, value, f"is more than {most}", f"write at most {most}")


def _real(field: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(field, value, "is not a finite number", "write it in digits")
