"""Bodies of requests: the fields of the OpenAI API, checked, and what they mean to the engine."""

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from cairn.base import UserError
from cairn.engine import SamplingParams
from cairn.serve.errors import ApiError
from cairn.serve.limits import Limits
from cairn.serve.worker import Job

DEFAULT_MAX_TOKENS = 16  # of /v1/completions, as in the OpenAI API
Text = Annotated[str, Field(strict=True)]
TokenIds = Annotated[list[int], Field(min_length=1)]


class StreamOptions(BaseModel):
    """Extras of a stream."""

    model_config = ConfigDict(strict=True, extra="forbid")
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class _Request(BaseModel):
    """Fields that completions and chat share; null stands for the default everywhere."""

    model_config = ConfigDict(strict=True, extra="forbid")

    model: str | None = None
    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, lt=2**31)
    n: int | None = Field(None, ge=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    ignore_eos: bool | None = None
    user: str | None = None
    # Fields that would change the answer and are not built: their neutral value is accepted.
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None

    def refuse_unbuilt(self, name: str) -> None:
        """ApiError for another model, and for fields that this server would have to ignore."""
        if self.model is not None and self.model != name:
            message = f"model: {self.model!r} is not served here, {name!r} is"
            raise ApiError(404, message, "model", "model_not_found")
        for field in ("presence_penalty", "frequency_penalty", "logit_bias"):
            if getattr(self, field):
                raise ApiError(400, f"{field}: is not supported, leave it out", field)
        if self.stream_options is not None and not self.stream:
            raise ApiError(400, "stream_options: needs stream to be true", "stream_options")

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

    def sampling(self, limits: Limits, **more: Any) -> SamplingParams:
        """The sampling parameters of the first choice."""
        try:
            return SamplingParams(
                temperature=1.0 if self.temperature is None else self.temperature,
                top_p=1.0 if self.top_p is None else self.top_p,
                top_k=self.top_k or 0,
                seed=self.seed,
                stop=self.stops(limits),
                ignore_eos=bool(self.ignore_eos),
                **more,
            )
        except UserError as error:
            raise ApiError(400, str(error)) from None

    def seed_of(self, choice: int) -> int | None:
        """Choice i draws with seed + i, so that choices differ and each is reproducible."""
        return None if self.seed is None else self.seed + choice


class CompletionRequest(_Request):
    """Body of /v1/completions."""

    prompt: Text | TokenIds | list[Text] | list[TokenIds]
    suffix: str | None = None
    max_tokens: int | None = Field(None, ge=0)
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=20)
    best_of: int | None = None

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
        if not prompts:
            raise ApiError(400, "prompt: the list is empty", "prompt")
        if len(prompts) * n > limits.completions:
            message = f"prompt: {len(prompts)} prompts times n={n} is over {limits.completions}"
            raise ApiError(400, message, "prompt")
        if self.best_of not in (None, n):
            raise ApiError(400, "best_of: is only supported equal to n", "best_of")
        if self.suffix is not None and self.echo:
            raise ApiError(400, "echo: has no meaning with suffix", "echo")
        params = self.sampling(
            limits,
            max_tokens=DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens,
            logprobs=self.logprobs,
            prompt_logprobs=self.logprobs if self.echo else None,
        )
        return [
            Job(prompt, replace(params, seed=self.seed_of(choice)), self.suffix)
            for prompt in prompts
            for choice in range(n)
        ]


class TextPart(BaseModel):
    """A piece of a message's content; other kinds of content are not text."""

    model_config = ConfigDict(strict=True, extra="forbid")
    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(strict=True, extra="forbid")
    role: Literal["system", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    def plain(self) -> dict[str, str]:
        """Role and text."""
        content = self.content
        if not isinstance(content, str):
            content = "".join(part.text for part in content)
        return {"role": self.role, "content": content}


class ChatRequest(_Request):
    """Body of /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=0)
    max_completion_tokens: int | None = Field(None, ge=0)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)

    def jobs(self, prompt: list[int], limits: Limits) -> list[Job]:
        """One job for each choice, all on the rendered conversation."""
        n = self.n or 1
        if n > limits.completions:
            raise ApiError(400, f"n: is over {limits.completions}", "n")
        if self.top_logprobs and not self.logprobs:
            raise ApiError(400, "top_logprobs: needs logprobs to be true", "top_logprobs")
        most = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        logprobs = (self.top_logprobs or 0) if self.logprobs else None
        params = self.sampling(limits, max_tokens=most, logprobs=logprobs)
        return [Job(prompt, replace(params, seed=self.seed_of(choice))) for choice in range(n)]

    def conversation(self, limits: Limits) -> list[dict[str, str]]:
        """The messages as the chat template takes them."""
        if len(self.messages) > limits.messages:
            message = f"messages: {len(self.messages)} of them, at most {limits.messages}"
            raise ApiError(400, message, "messages")
        return [message.plain() for message in self.messages]
