"""What the engine is asked, what it is working on, and what comes out. No torch."""

from dataclasses import dataclass, field
from typing import Any, Literal

from cairn.engine.detokenizer import Detokenizer
from cairn.engine.sampling import SamplingParams
from cairn.engine.steering import Steering

FinishReason = Literal["stop", "length", "budget", "abort", "error"]


@dataclass(frozen=True)
class TokenLogprob:
    """One token, its log-probability under the model, and the likeliest tokens in its place."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    forced: bool = False
    """It was written by a thinking budget and not drawn: nothing to learn from."""


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What came out of one request.

    `tokens` are all that were drawn, with the token that ended it; special tokens and stop
    strings are never in `text`. `logprobs` is as long as `tokens`, `prompt_logprobs` as long as
    the prompt (its first is None: nothing comes before it); each is None unless asked for.
    `forced` is as long as `tokens`: True where a thinking budget wrote the token.

    `finish_reason`: "stop" (an end token, a stop string, the end of the grammar), "length"
    (max_tokens, or the slot is full), "budget" (truncated reasoning), "abort" (taken back),
    "error" (the model's logits were not numbers, or the grammar broke: `problem` says at what).
    """

    text: str
    tokens: list[int]
    finish_reason: FinishReason
    logprobs: list[float] | None = None
    top_logprobs: list[dict[int, float]] | None = None
    prompt_tokens: list[int] = field(default_factory=list)
    prompt_logprobs: list[float | None] | None = None
    prompt_top_logprobs: list[dict[int, float] | None] | None = None
    forced: list[bool] = field(default_factory=list)
    reasoning_tokens: int = 0
    """How many of `tokens` are reasoning, its closing tag included; 0 without `thinking`."""
    cached_tokens: int = field(default=0, compare=False)
    """How many of the prompt's tokens were not computed: an earlier request had been."""
    problem: str = ""
    """What its grammar broke at, where that ended it."""


@dataclass(frozen=True, kw_only=True)
class Delta:
    """What one step added to one request; `completion` is set on its last."""

    id: int
    text: str = ""
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    completion: Completion | None = None
    forced: tuple[bool, ...] = ()
    """For each of `tokens`, whether a thinking budget wrote it."""
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    """Of the prompt from its second token on: in a request's first delta, where asked for."""


@dataclass(kw_only=True, eq=False)
class Sequence:
    """One request at work: its tokens, and how many of them its slot remembers.

    Invariant while it runs: `computed < length`, and the tokens from `computed` on are the next
    to go through the model.
    """

    id: int
    prompt: list[int]
    params: SamplingParams
    seed: int
    stop_tokens: frozenset[int]
    limit: int
    """Most tokens to draw: max_tokens, or fewer where the slot is full before."""
    detokenizer: Detokenizer
    output: list[int] = field(default_factory=list)
    ahead: int = 0
    """Tokens that are drawn and not known here yet: they are on the device, and count as length."""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    priority: int = 0
    reuse: bool = True
    """Whether cached prefixes may stand for computed tokens."""
    computed: int = 0
    slot: int | None = None
    steering: Steering | None = None
    """What holds the completion to a thinking budget and a grammar."""
    forced: list[bool] = field(default_factory=list)
    history: Any = None
    """What the sampler remembers of the tokens, on the device; made again where it is missing."""
    drafts: list[int] = field(default_factory=list)
    """Guesses at the next tokens, to be verified in the next step."""
    trust: int = 2
    """How many guesses are worth verifying: more after right ones, fewer after wrong ones."""
    worth: float = 1.0
    """How many of its guesses were right, the last ones counting most."""
    pause: int = 0
    """Tokens without a guess after a wrong one."""
    rests_to: int = 0
    """The length before which nothing is guessed."""
    key: tuple[int, int] = (0, 0)
    """Its place among all requests, first to last; set when it is queued."""
    pages: list[list[int]] = field(default_factory=list)
    """Pages of keys and values, for each group of attention layers, in order of tokens."""
    marks: list[int] = field(default_factory=list)
    """Positions at which the recurrent state is still to be kept, in falling order."""
    saved: list[tuple[int, Any]] = field(default_factory=list)
    """States that are kept once the first token proves them sound: (position, copy)."""
    swapped: Any = None
    """What was moved out of the pools while others need the room."""
    sound: bool = False
    """Whether the logits of a token after the prompt were numbers."""
    coming: tuple[int, Any] | None = None
    """Files of its prefix that are being read, and the epoch of the prefix cache meanwhile."""
    failure: BaseException | None = None
    """What was raised over it, so that it was aborted."""
    epoch: int = 0
    """That of the prefix cache when it began."""
    began: Any = None
    """The kept state that it began with."""
    matched: tuple[int, int] = (0, 0)
    """Tokens found in cached keys, and in a cached state, when it last began."""

    @property
    def length(self) -> int:
        """The prompt and what was drawn, in tokens."""
        return len(self.prompt) + self.drawn

    @property
    def drawn(self) -> int:
        """Tokens that were drawn, whether or not they are known here."""
        return len(self.output) + self.ahead

    @property
    def spent(self) -> bool:
        """Whether the last token that it may draw is drawn, and only not known here yet."""
        return self.ahead > 0 and self.drawn >= self.limit

    @property
    def waits(self) -> bool:
        """Whether each token has to be known before the next can be drawn."""
        return self.steering is not None or self.params.penalised

    @property
    def problem(self) -> str:
        """What its grammar broke at; empty while it holds."""
        return "" if self.steering is None else self.steering.problem

    @property
    def plain(self) -> bool:
        """Whether the likeliest token is taken as the model has it, and that is all one asks."""
        p = self.params
        alone = p.temperature == 0 and p.logprobs is None and p.prompt_logprobs is None
        return alone and not (p.logit_bias or p.penalised) and self.steering is None

    @property
    def pending(self) -> int:
        """Tokens that the slot does not remember yet."""
        return self.length - self.computed

    def tokens(self, start: int, stop: int) -> list[int]:
        """Tokens `start` to `stop` of the prompt followed by the output, as far as known here."""
        split = len(self.prompt)
        if start >= split:
            return self.output[start - split : stop - split]
        return self.prompt[start:stop] + self.output[: max(0, stop - split)]

    def append(self, drawn: TokenLogprob) -> str:
        """Take a drawn token; set `finish_reason` if it is the last. Returns the text to show."""
        self.output.append(drawn.token)
        self.forced.append(drawn.forced)
        if self.params.logprobs is not None:
            self.logprobs.append(drawn)
        text = ""
        if drawn.token in self.stop_tokens:
            self.finish_reason = "stop"
        else:
            text = self.detokenizer.push(drawn.token)
            steered = None if self.steering is None else self.steering.accept(drawn.token)
            if self.detokenizer.stopped:
                self.finish_reason = "stop"
            elif steered is not None:
                self.finish_reason = steered
            elif len(self.output) >= self.limit:
                self.finish_reason = "length"
        if self.finish_reason is None:
            return text
        text += self.detokenizer.finish()
        if self.detokenizer.stopped:
            self.finish_reason = "stop"
        return text

    def completion(self) -> Completion:
        """What came out; the sequence must have finished."""
        assert self.finish_reason is not None
        drawn = self.logprobs if self.params.logprobs is not None else None
        asked = self.params.prompt_logprobs is not None
        given = [None, *self.prompt_logprobs] if asked else None
        return Completion(
            text=self.detokenizer.text,
            tokens=list(self.output),
            finish_reason=self.finish_reason,
            logprobs=None if drawn is None else [item.logprob for item in drawn],
            top_logprobs=None if drawn is None else [dict(item.top) for item in drawn],
            prompt_tokens=list(self.prompt),
            prompt_logprobs=None if given is None else [i and i.logprob for i in given],
            prompt_top_logprobs=None if given is None else [i and dict(i.top) for i in given],
            forced=list(self.forced),
            cached_tokens=self.matched[1],
            reasoning_tokens=0 if self.steering is None else self.steering.reasoning_tokens,
            problem=self.problem if self.finish_reason == "error" else "",
        )
