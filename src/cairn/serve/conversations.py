"""Bodies of /v1/chat/completions: messages, tools, and how the assistant is to answer."""

import json
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from cairn.base import UserError
from cairn.engine import Grammar, Thinking
from cairn.serve.errors import ApiError
from cairn.serve.limits import Limits
from cairn.serve.requests import DEEPEST, GenerationRequest, Schema, Strict, too_deep
from cairn.serve.worker import Job

NAME = r"^[a-zA-Z0-9_.-]{1,64}$"


class ContentPart(Strict):
    """A piece of a message's content; other kinds of content are not text."""

    type: Literal["text", "refusal"]
    text: str | None = None
    refusal: str | None = None

    def plain(self, field: str) -> str:
        """Its text; ApiError 400 where what its type names is missing, or another is there."""
        said, other = self.text, self.refusal
        if self.type == "refusal":
            said, other = other, said
        if said is None or other is not None:
            raise ApiError(400, f"{field}: gives {self.type!r} and no other text", field)
        return said


class CalledFunction(Strict):
    """A function's name and its arguments as JSON."""

    name: str
    arguments: str


class ToolCall(Strict):
    """A call that an assistant made."""

    id: str | None = None
    index: int | None = None
    type: Literal["function"] = "function"
    function: CalledFunction

    def plain(self) -> dict[str, Any]:
        """As the chat template takes it; nothing at all is a call without arguments."""
        field = "messages.tool_calls.function.arguments"
        given = self.function.arguments.strip() or "{}"
        try:
            found = json.loads(given)
        except ValueError:
            raise ApiError(400, f"{field}: is no JSON", field) from None
        except RecursionError:
            found = None
        if (found is None and given != "null") or too_deep(found):
            problem = f"is nested deeper than {DEEPEST} levels"
            raise ApiError(400, f"{field}: {problem}", field) from None
        return {"name": self.function.name, "arguments": given}


class Message(Strict):
    """One message of a conversation. `developer` is another name of system."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    tool_calls: list[ToolCall] | None = Field(None, max_length=128)
    tool_call_id: str | None = None

    def plain(self, place: int) -> dict[str, Any]:
        """Role, text and calls; the reasoning of earlier turns is not told again."""
        for name, owner in (("tool_call_id", "tool"), ("refusal", "assistant")):
            if getattr(self, name) is not None and self.role != owner:
                field = f"messages[{place}].{name}"
                raise ApiError(400, f"{field}: belongs to a message of role {owner}", field)
        content = self.content or self.refusal
        if self.content and self.refusal:
            field = f"messages[{place}].refusal"
            raise ApiError(400, f"{field}: stands beside content; give one", field)
        if content is None and self.content is None and not self.tool_calls:
            field = f"messages[{place}].content"
            raise ApiError(400, f"{field}: is missing", field)
        if self.tool_calls and self.role != "assistant":
            field = f"messages[{place}].tool_calls"
            raise ApiError(400, f"{field}: belongs to an assistant", field)
        if isinstance(content, list):
            field = f"messages[{place}].content"
            parts = [part.plain(f"{field}[{n}]") for n, part in enumerate(content)]
            content = "".join(parts)
        role = "system" if self.role == "developer" else self.role
        calls = [call.plain() for call in self.tool_calls or ()]
        return {"role": role, "content": content or ""} | ({"tool_calls": calls} if calls else {})


def plain_messages(messages: list[Message]) -> list[dict[str, Any]]:
    """Messages as the chat template takes them. It tells results of tools by their order alone,
    so they are put into that of the calls whose ids they name; ApiError 400 for an unknown id."""
    found: list[dict[str, Any]] = []
    results: list[tuple[int | None, dict[str, Any]]] = []
    calls: dict[str, int] = {}  # of the latest turn that made any: its ids, in order
    for place, message in enumerate(messages):
        plain = message.plain(place)
        if message.role == "tool":
            results.append((_call_of(message, place, calls), plain))
            continue
        found += [*_ordered(results), plain]
        results = []
        if message.tool_calls:
            calls = {call.id: n for n, call in enumerate(message.tool_calls) if call.id is not None}
    return found + _ordered(results)


def _call_of(message: Message, place: int, calls: dict[str, int]) -> int | None:
    """Which call a result is of; None where it does not say."""
    name = message.tool_call_id
    if name is not None and name not in calls:
        field = f"messages[{place}].tool_call_id"
        raise ApiError(400, f"{field}: {name[:100]!r} is no call of the assistant before it", field)
    return None if name is None else calls[name]


def _ordered(results: list[tuple[int | None, dict[str, Any]]]) -> list[dict[str, Any]]:
    known = [(number, plain) for number, plain in results if number is not None]
    if len(known) == len(results):
        results = list(sorted(known, key=lambda one: one[0]))
    return [plain for _, plain in results]


class Function(Strict):
    """A function that may be called."""

    name: str = Field(pattern=NAME)
    description: str | None = None
    parameters: Schema | None = None
    strict: bool | None = None

    def plain(self) -> dict[str, Any]:
        """As the chat template lists it."""
        return self.model_dump(exclude_none=True, exclude={"strict"})


class Tool(Strict):
    """A tool: a function."""

    type: Literal["function"]
    function: Function


class Named(Strict):
    """The name of a function."""

    name: str


class NamedTool(Strict):
    """The one tool to call."""

    type: Literal["function"]
    function: Named


class TemplateOptions(Strict):
    """What the chat template is told."""

    enable_thinking: bool | None = None


class ChatRequest(GenerationRequest):
    """Body of /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=0, lt=2**31)
    max_completion_tokens: int | None = Field(None, ge=0, lt=2**31)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: list[Tool] | None = Field(None, min_length=1, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: TemplateOptions | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    modalities: list[Literal["text"]] | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: Literal["auto", "default"] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @property
    def enable_thinking(self) -> bool | None:
        """Whether reasoning was switched; a budget switches it on where nothing else is said."""
        options = self.chat_template_kwargs
        if options is not None and options.enable_thinking is not None:
            return options.enable_thinking
        if self.reasoning_effort is not None:
            return self.reasoning_effort != "none"
        return True if self.thinking_token_budget is not None else None

    def offered(self) -> list[dict[str, Any]]:
        """The functions that the model is told of: none where none may be called."""
        if self.tool_choice == "none":
            return []
        return [tool.function.plain() for tool in self.tools or ()]

    def conversation(self, limits: Limits) -> list[dict[str, Any]]:
        """The messages as the chat template takes them."""
        if len(self.messages) > limits.messages:
            message = f"messages: {len(self.messages)} of them, at most {limits.messages}"
            raise ApiError(400, message, "messages")
        return plain_messages(self.messages)

    def check(self) -> None:
        """See `GenerationRequest.check`."""
        super().check()
        if self.store:
            raise ApiError(400, "store: nothing is stored here; leave it out", "store")
        effort = self.reasoning_effort
        if effort is not None and self.enable_thinking != (effort != "none"):
            problem = "goes against chat_template_kwargs.enable_thinking; give one of them"
            raise ApiError(400, f"reasoning_effort: {problem}", "reasoning_effort")
        both = self.max_tokens, self.max_completion_tokens
        if None not in both and both[0] != both[1]:
            field = "max_tokens"
            raise ApiError(400, f"{field}: is not max_completion_tokens; give one of them", field)
        if self.parallel_tool_calls is not None and not self.tools:
            field = "parallel_tool_calls"
            raise ApiError(400, f"{field}: there are no tools", field)

    def jobs(self, prompt: list[int], limits: Limits, *, thinks: bool) -> list[Job]:
        """One job for each choice, all on the rendered conversation; `thinks` where it ends
        inside reasoning."""
        n = self.n or 1
        self.check()
        if self.thinking_token_budget is not None and not thinks:
            problem = "this conversation does not think (/no_think, or enable_thinking)"
            field = "thinking_token_budget"
            raise ApiError(400, f"{field}: {problem}; leave one out", field)
        if n > limits.completions:
            raise ApiError(400, f"n: is over {limits.completions}", "n")
        if self.top_logprobs and not self.logprobs:
            raise ApiError(400, "top_logprobs: needs logprobs to be true", "top_logprobs")
        most = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        logprobs = (self.top_logprobs or 0) if self.logprobs else None
        thinking: Thinking | None = self.thinking() if thinks else None
        params = self.sampling(
            limits,
            max_tokens=most,
            logprobs=logprobs,
            thinking=thinking,
            grammar=self._grammar(),
        )
        # A grammar that cannot be followed is mostly that of a function, where there are any.
        held = "tools" if self.offered() else "response_format"
        named = {"prompt": "messages", "grammar": held}
        every = [replace(params, seed=self.seed_of(choice)) for choice in range(n)]
        return [Job(prompt, own, named=named) for own in every]

    def _grammar(self) -> Grammar | None:
        """Of the response format, of the call that is asked for, or of either."""
        held = None
        try:
            held = None if self.response_format is None else self.response_format.grammar()
        except UserError as error:
            raise ApiError(400, str(error), "response_format") from None
        offered, choice = self.offered(), self.tool_choice
        if choice not in (None, "none") and not self.tools:
            raise ApiError(400, "tool_choice: there are no tools", "tool_choice")
        if isinstance(choice, NamedTool):
            offered = [tool for tool in offered if tool["name"] == choice.function.name]
            held = None
            if not offered:
                message = f"tool_choice: there is no tool {choice.function.name!r}"
                raise ApiError(400, message, "tool_choice")
        elif choice == "required":
            held = None
        elif held is None or not offered:
            return held
        single = isinstance(choice, NamedTool) or self.parallel_tool_calls is False
        return Grammar.tool_calls(offered, single=single, otherwise=held)
