"""Bodies of requests: the fields of the OpenAI API, checked, and what they mean to the engine."""

import json
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from cairn.base import UserError
from cairn.engine import CodePrompt, Grammar, SamplingParams, SourceText, Thinking
from cairn.serve.errors import ApiError, refusal
from cairn.serve.limits import Limits
from cairn.serve.worker import Job

DEFAULT_MAX_TOKENS = 16  # of /v1/completions, as in the OpenAI API
DEEPEST = 100  # levels of JSON inside JSON: what walks it further in Python meets its stack's end
Text = Annotated[str, Field(strict=True)]
TokenIds = Annotated[list[int], Field(min_length=1)]


def too_deep(value: Any) -> bool:
    """Whether JSON is nested deeper than may be."""
    level: list[Any] = [[value]]
    for _ in range(DEEPEST + 1):
        inner = [one.values() if isinstance(one, dict) else one for one in level]
        level = [item for one in inner for item in one if isinstance(item, dict | list)]
        if not level:
            return False
    return True


def _shallow(value: dict[str, Any]) -> dict[str, Any]:
    if too_deep(value):
        said = "is nested deeper than {most} levels"
        raise PydanticCustomError("too_deep", said, {"most": DEEPEST})
    return value


Schema = Annotated[dict[str, Any], AfterValidator(_shallow)]


class Strict(BaseModel):
    """Types are not converted, and unknown fields refused unless they are null."""

    model_config = ConfigDict(strict=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        """Clients send null for all that they know and leave unset: it asks for nothing."""
        if not isinstance(given, dict):
            return given
        known = {field.alias or name for name, field in cls.model_fields.items()}
        return {name: value for name, value in given.items() if value is not None or name in known}


class StreamOptions(Strict):
    """Extras of a stream."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class JsonSchema(Strict):
    """`json_schema` of a response format."""

    name: str = Field(max_length=64)
    schema_: Schema | None = Field(None, alias="schema")
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(Strict):
    """What the answer must be. `regex` and `lark` (a grammar) are cairn's own."""

    type: Literal["text", "json_object", "json_schema", "regex", "lark"]
    json_schema: JsonSchema | None = None
    regex: str | None = None
    lark: str | None = None

    def grammar(self) -> Grammar | None:
        """As the engine takes it; ApiError where what the type names is missing, or another is
        there."""
        for field in ("json_schema", "regex", "lark"):
            if field != self.type and getattr(self, field) is not None:
                field = f"response_format.{field}"
                raise ApiError(400, f"{field}: does not go with type {self.type!r}", field)
        if self.type == "text":
            return None
        if self.type == "json_object":
            return Grammar.json()
        given = getattr(self, self.type)
        if given is None:
            field = f"response_format.{self.type}"
            raise ApiError(400, f"{field}: is missing", field)
        if isinstance(given, JsonSchema):
            return Grammar("json_schema", json.dumps(given.schema_ or {"type": "object"}))
        return Grammar("regex" if self.type == "regex" else "lark", given)


class GenerationRequest(Strict):
    """Fields that completions and chat share; null stands for the default everywhere."""

    model: str | None = None
    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=-1, lt=2**31)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, ge=0.01, le=100)
    presence_penalty: float | None = Field(None, ge=-100, le=100)
    frequency_penalty: float | None = Field(None, ge=-100, le=100)
    logit_bias: dict[str, float] | None = Field(None, max_length=1024)
    n: int | None = Field(None, ge=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = Field(None, max_length=64)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    ignore_eos: bool | None = None
    thinking_token_budget: int | None = Field(None, ge=0, lt=2**31)
    thinking_budget_action: Literal["force", "truncate", "nudge"] | None = None
    user: str | None = None

    def check(self) -> None:
        """ApiError for fields that contradict each other."""
        if self.stream_options is not None and not self.stream:
            raise ApiError(400, "stream_options: needs stream to be true", "stream_options")
        if self.stream_options is not None and self.stream_options.include_obfuscation:
            field = "stream_options.include_obfuscation"
            raise ApiError(400, f"{field}: is not offered; leave it out or give false", field)
        if self.thinking_budget_action is not None and self.thinking_token_budget is None:
            field = "thinking_budget_action"
            raise ApiError(400, f"{field}: needs thinking_token_budget", field)

    def stops(self, limits: Limits) -> tuple[str, ...]:
        """The stop strings."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(given) > limits.stops:
            raise ApiError(400, f"stop: {len(given)} strings, at most {limits.stops}", "stop")
        for one in given:
            if not 0 < len(one) <= limits.stop_characters:
                message = f"stop: a string has {len(one)} characters, not 1 to "
                raise ApiError(400, message + str(limits.stop_characters), "stop")
        return tuple(given)

    def thinking(self) -> Thinking:
        """The budget that was asked for."""
        action = self.thinking_budget_action or "force"
        return Thinking(budget=self.thinking_token_budget, action=action)

    def sampling(self, limits: Limits, **more: Any) -> SamplingParams:
        """The sampling parameters of the first choice."""
        try:
            if "grammar" not in more and self.response_format is not None:
                more["grammar"] = self.response_format.grammar()
            return SamplingParams(
                temperature=1.0 if self.temperature is None else self.temperature,
                top_p=self.top_p or 1.0,
                top_k=1 if self.top_p == 0 else max(self.top_k or 0, 0),
                min_p=self.min_p or 0.0,
                repetition_penalty=self.repetition_penalty or 1.0,
                presence_penalty=self.presence_penalty or 0.0,
                frequency_penalty=self.frequency_penalty or 0.0,
                logit_bias=self._biases(),
                seed=self.seed,
                stop=self.stops(limits),
                stop_tokens=tuple(self.stop_token_ids or ()),
                ignore_eos=bool(self.ignore_eos),
                **more,
            )
        except UserError as error:
            raise refusal(error) from None

    @property
    def tells_usage(self) -> bool:
        """Whether a stream ends with what it used (and says null of it before)."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def _biases(self) -> tuple[tuple[int, float], ...]:
        found = []
        for token, bias in (self.logit_bias or {}).items():
            if not (token.isascii() and token.isdigit() and len(token) < 10):
                raise ApiError(400, f"logit_bias: {token[:20]!r} is no token id", "logit_bias")
            found.append((int(token), bias))
        return tuple(found)

    def seed_of(self, choice: int) -> int | None:
        """Choice i draws with seed + i, so that choices differ and each is reproducible."""
        if self.seed is None:
            return None
        return (self.seed + choice + 2**63) % 2**64 - 2**63


class File(Strict):
    """A file of a repository."""

    path: str = Field(min_length=1, max_length=4096)
    content: str


class Repository(Strict):
    """What the prompt of /v1/completions stands among: it is a file of this repository."""

    name: str | None = Field(None, max_length=4096)
    path: str = Field(min_length=1, max_length=4096)
    files: list[File] = Field(default_factory=list, max_length=1024)

    def prompt(self, prefix: str, suffix: str | None) -> CodePrompt:
        """The prompt as the engine takes it."""
        files = tuple(SourceText(file.path, file.content) for file in self.files)
        return CodePrompt(
            prefix=prefix, suffix=suffix, path=self.path, repository=self.name, files=files
        )


class CompletionRequest(GenerationRequest):
    """Body of /v1/completions."""

    prompt: Text | TokenIds | list[Text] | list[TokenIds]
    suffix: str | None = None
    repository: Repository | None = None
    max_tokens: int | None = Field(None, ge=0, lt=2**31)
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=20)
    best_of: int | None = None
    add_special_tokens: bool | None = None
    """Whether a prompt that is text gets what the tokenizer puts around one (default true)."""

    def prompts(self) -> list[str | list[int]]:
        """Each prompt, as text or as token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [[token for token in self.prompt if isinstance(token, int)]]
        return [prompt for prompt in self.prompt if not isinstance(prompt, int)]

    def jobs(self, limits: Limits) -> list[Job]:
        """One job for each choice: the n choices of the first prompt, then of the next."""
        prompts, n = self.prompts(), self.n or 1
        self.check()
        if not prompts:
            raise ApiError(400, "prompt: the list is empty", "prompt")
        if len(prompts) * n > limits.completions:
            field = "n" if len(prompts) == 1 else "prompt"
            message = f"{field}: {len(prompts)} prompts times n={n} is over {limits.completions}"
            raise ApiError(400, message, field)
        if self.best_of not in (None, n):
            raise ApiError(400, "best_of: is only supported equal to n", "best_of")
        if self.echo and (self.suffix is not None or self.repository is not None):
            raise ApiError(400, "echo: has no meaning with suffix or repository", "echo")
        self._check_specials(prompts)
        budget = self.thinking_token_budget is not None
        params = self.sampling(
            limits,
            max_tokens=DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens,
            logprobs=self.logprobs,
            prompt_logprobs=self.logprobs if self.echo else None,
            thinking=self.thinking() if budget else None,
        )
        return [
            self._job(prompt, replace(params, seed=self.seed_of(choice)))
            for prompt in prompts
            for choice in range(n)
        ]

    def _check_specials(self, prompts: list[str | list[int]]) -> None:
        if not self.add_special_tokens:
            return
        code = self.suffix is not None or self.repository is not None
        if code or not all(isinstance(prompt, str) for prompt in prompts):
            what = "suffix or repository" if code else "token ids"
            message = f"add_special_tokens: nothing is added to a prompt of {what}"
            raise ApiError(400, message, "add_special_tokens")

    def _job(self, prompt: str | list[int], params: SamplingParams) -> Job:
        if self.repository is None:
            return Job(prompt, params, self.suffix, self.add_special_tokens is False)
        if not isinstance(prompt, str):
            raise ApiError(400, "repository: goes with a prompt that is text", "repository")
        return Job(self.repository.prompt(prompt, self.suffix), params)
