"""Chat templates that come with a checkpoint, in Jinja as `transformers` renders them.

Conversations of cairn's own tokenizers are laid out by `chat`; this is for families that have
none of its sentinels. A template is a program from the checkpoint's folder: it runs in Jinja's
sandbox, which gives it no attribute of Python's and lets it change nothing.
"""

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from cairn.base import UserError
from cairn.tokens.tokenizer import Tokenizer

if TYPE_CHECKING:
    import jinja2

Message = Mapping[str, Any]
SWITCH = "enable_thinking"
_OPEN, _CLOSED = re.compile(r"<think>\s*\Z"), re.compile(r"</think>\s*\Z")
_NAMED = ("bos_token", "eos_token", "pad_token", "unk_token")


class ChatTemplate:
    """A template and the tokenizer that it is for. UserError where it cannot be compiled."""

    def __init__(self, source: str, tokenizer: Tokenizer) -> None:
        self.source, self._tokenizer = source, tokenizer
        self._names = {field: tokenizer.named(field) for field in _NAMED}
        self._template = _compiled(source)
        marks = sorted((name for name in tokenizer.sentinels if len(name) > 1), key=len)
        spelled = "|".join(re.escape(name) for name in reversed(marks))  # the longest first
        self._mark = re.compile(f"({spelled})") if spelled else None
        self._begin = re.compile(f"(?=(?:{spelled}))(.)", re.DOTALL) if spelled else None

    @property
    def switches(self) -> bool:
        """Whether it can be told to have the model think or not."""
        return SWITCH in self.source

    def prompt(self, messages: Sequence[Message], thinking: bool | None) -> tuple[list[int], bool]:
        """Token ids after which an assistant's next words begin, and whether these are reasoning.

        `thinking` None is the template's own default. Special tokens stand only where the
        template writes them: spelled in a message they are plain text. UserError for messages
        that the template refuses.
        """
        wedge = f"\ue000{secrets.token_hex(8)}\ue001"  # nobody's text has it
        given: dict[str, Any] = {} if thinking is None else {SWITCH: thinking}
        text = self._render(self._wedged(list(map(_full, messages)), wedge), given)
        ids: list[int] = []
        for place, part in enumerate(self._mark.split(text) if self._mark else [text]):
            whole = part.replace(wedge, "")
            ids += [self._tokenizer.id(part)] if place % 2 else self._tokenizer.encode(whole)
        opened = _OPEN.search(text) is not None
        asks = self.switches and thinking is not False and _CLOSED.search(text) is None
        return ids, opened or asks

    def _render(self, messages: Any, given: dict[str, Any]) -> str:
        import jinja2

        try:
            return self._template.render(
                messages=messages, add_generation_prompt=True, tools=None, documents=None,
                **self._names, **given,
            )  # fmt: skip
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, OverflowError) as error:
            problem = f"the chat template of the checkpoint refuses them: {error}"
            raise UserError(f"messages: {problem}") from None

    def _wedged(self, value: Any, wedge: str) -> Any:
        """The same with a wedge inside each special token's name that is spelled in a text."""
        if isinstance(value, str):
            return value if self._begin is None else self._begin.sub(rf"\1{wedge}", value)
        if isinstance(value, list):
            return [self._wedged(item, wedge) for item in value]
        if isinstance(value, dict):
            return {self._wedged(k, wedge): self._wedged(v, wedge) for k, v in value.items()}
        return value


@lru_cache(maxsize=16)
def _made(tokenizer: Tokenizer) -> ChatTemplate | None:
    source = tokenizer.chat_template
    return None if source is None else ChatTemplate(source, tokenizer)


def template_of(tokenizer: Tokenizer) -> ChatTemplate | None:
    """That of the checkpoint; None where it has none."""
    return _made(tokenizer)


def _full(message: Message) -> dict[str, Any]:
    """A message as templates expect it: calls by their kind, arguments as a dictionary."""
    calls = [
        {"type": "function", "function": {**call, "arguments": json.loads(call["arguments"])}}
        for call in message.get("tool_calls") or ()
    ]
    return {**message} | ({"tool_calls": calls} if calls else {})


def _compiled(source: str) -> "jinja2.Template":
    try:
        import jinja2
        from jinja2.ext import Extension, loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ModuleNotFoundError:
        raise UserError(
            "a chat template needs jinja2, which is not installed: pip install 'cairn-lm[serve]'"
        ) from None

    class Generation(Extension):
        """`{% generation %}` marks what is learned from: here it is only what stands inside."""

        tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    place = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    place.filters["tojson"] = _json
    place.globals |= {"raise_exception": _refuse, "strftime_now": _now}
    try:
        return place.from_string(source)
    except jinja2.TemplateError as error:
        raise UserError(f"the chat template of the checkpoint is damaged: {error}") from None


def _json(value: Any, indent: int | None = None, **more: Any) -> str:
    """As `transformers` has it: no escapes for HTML."""
    return json.dumps(value, ensure_ascii=False, indent=indent, **more)


def _refuse(message: str) -> str:
    import jinja2

    raise jinja2.TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)
