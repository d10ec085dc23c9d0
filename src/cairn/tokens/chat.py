"""Conversations: one layout for training, serving and `transformers`.

The layout is that of Nemotron Nano 2 (arXiv 2508.14444): a system head, user and assistant turns,
tool lists, calls and responses, and a switch between reasoning first and answering at once.
`chat_template.jinja` beside this file says the same for `transformers`; a test holds them equal.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cairn.base import UserError
from cairn.tokens.sentinels import END_OF_TURN, SYSTEM_TURN, TURN
from cairn.tokens.tokenizer import Tokenizer

Message = Mapping[str, Any]
ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class _Segment:
    """A sentinel, the text that is given after it, and the text that an assistant learns."""

    sentinel: str
    given: str
    learned: str = ""
    closes: bool = False  # the sentinel itself is learned: it ends an assistant's turn


def render(
    messages: Sequence[Message],
    generation_prompt: bool = False,
    *,
    thinking: bool = False,
    tools: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The conversation as text, with sentinels spelled out.

    A message has `role` (system, user, assistant, tool), `content` and, for an assistant,
    `tool_calls`. `thinking` holds where no system or user message says `/think` or `/no_think`;
    the last one that does wins, and the words are taken out. Assistant turns other than the last
    message lose their reasoning, all that stands before `</think>`. With `generation_prompt`
    the text ends where an assistant's next words begin; it is a prefix of the text with those
    words. UserError for another role or content that is no text.
    """
    segments = _segments(messages, generation_prompt, thinking, tools)
    return "".join(part.sentinel + part.given + part.learned for part in segments)


def conversation(
    messages: Sequence[Message],
    tokenizer: Tokenizer,
    *,
    thinking: bool | None = None,
    tools: Sequence[Mapping[str, Any]] = (),
) -> tuple[list[int], list[int]]:
    """The conversation as token ids, and for each id 1 where an assistant said it, else 0.

    Weight 1 covers an assistant's text and the sentinel that closes its turn. The ids decode to
    `render(messages)`; they begin with `prompt_ids` of all but a last assistant message, so what
    is trained is what is served. Sentinels spelled in a message are plain text. `thinking` is the
    tokenizer's own default where it is None.
    """
    ids: list[int] = []
    weights: list[int] = []

    def add(new: list[int], weight: int) -> None:
        ids.extend(new)
        weights.extend([weight] * len(new))

    for part in _segments(messages, False, _mode(thinking, tokenizer), tools):
        add([tokenizer.id(part.sentinel)], int(part.closes))
        add(tokenizer.encode(part.given), 0)
        add(tokenizer.encode(part.learned), 1)
    return ids, weights


def prompt_ids(
    messages: Sequence[Message],
    tokenizer: Tokenizer,
    *,
    thinking: bool | None = None,
    tools: Sequence[Mapping[str, Any]] = (),
) -> list[int]:
    """Token ids after which an assistant's next words begin.

    Sentinels spelled in a message are plain text, so no message can pose as another's turn.
    """
    ids: list[int] = []
    for part in _segments(messages, True, _mode(thinking, tokenizer), tools):
        ids.append(tokenizer.id(part.sentinel))
        ids += tokenizer.encode(part.given) + tokenizer.encode(part.learned)
    return ids


def template(thinking: bool) -> str:
    """chat_template.jinja for `transformers`, with its default for thinking."""
    text = Path(__file__).with_name("chat_template.jinja").read_text(encoding="utf-8")
    return text.replace("THINKING_DEFAULT", "true" if thinking else "false")


def _mode(thinking: bool | None, tokenizer: Tokenizer) -> bool:
    return tokenizer.thinking if thinking is None else thinking


def thinks(
    messages: Sequence[Message], tokenizer: Tokenizer, *, thinking: bool | None = None
) -> bool:
    """Whether the words after `prompt_ids` begin inside reasoning; arguments as there."""
    found = _mode(thinking, tokenizer)
    for place, message in enumerate(messages):
        if message.get("role") in ("system", "user"):
            found = _switched(_text(message, place), found)
    return found


def _segments(
    messages: Sequence[Message],
    generation_prompt: bool,
    thinking: bool,
    tools: Sequence[Mapping[str, Any]],
) -> Iterator[_Segment]:
    said = [_text(message, place) for place, message in enumerate(messages)]
    roles = [message["role"] for message in messages]
    for role, text in zip(roles, said, strict=True):
        if role in ("system", "user"):
            thinking = _switched(text, thinking)
    yield _Segment(SYSTEM_TURN, _head(roles, said, tools))
    results: list[str] = []
    for place, (role, text) in enumerate(zip(roles, said, strict=True)):
        last = place == len(messages) - 1
        if role == "user":
            yield _Segment(TURN, f"User\n{_without_switches(text)}\n")
        elif role == "tool":
            results.append(text.strip())
            if last or roles[place + 1] != "tool":
                joined = ", ".join(results)
                yield _Segment(TURN, f"User\n<TOOL_RESPONSE>[{joined}]</TOOL_RESPONSE>\n")
                results = []
        elif role == "assistant":
            calls = messages[place].get("tool_calls") or ()
            mode = thinking if last and not generation_prompt else None
            yield from _assistant(text, calls, mode)
    if generation_prompt:
        yield _Segment(TURN, "Assistant\n" + ("<think>\n" if thinking else "<think></think>"))


def _text(message: Message, place: int) -> str:
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise UserError(f"messages[{place}].role", role, f"is none of {', '.join(ROLES)}")
    if role == "system" and place:
        raise UserError(f"messages[{place}].role", role, "a system message stands first or nowhere")
    if content is not None and not isinstance(content, str):
        raise UserError(f"messages[{place}].content", content, "is no text", "give a string")
    return content or ""


def _switched(text: str, thinking: bool) -> bool:
    if "/think" in text:
        return True
    return False if "/no_think" in text else thinking


def _without_switches(text: str) -> str:
    return text.replace("/think", "").replace("/no_think", "").strip()


def _head(roles: list[str], said: list[str], tools: Sequence[Mapping[str, Any]]) -> str:
    text = _without_switches(said[0]) if roles[:1] == ["system"] else ""
    if tools:
        listed = ", ".join(_json(tool.get("function", tool)) for tool in tools)
        text += ("\n\n" if text else "") + f"<AVAILABLE_TOOLS>[{listed}]</AVAILABLE_TOOLS>"
    return f"System\n{text}\n"


def _assistant(
    text: str, calls: Sequence[Mapping[str, Any]], thinking: bool | None
) -> Iterator[_Segment]:
    """An assistant's turn; `thinking` None is an earlier turn, whose reasoning is dropped."""
    reasoning, _, answer = text.rpartition("</think>")
    answer = answer.strip()
    if calls:
        asked = ", ".join(_call(call.get("function", call)) for call in calls)
        answer += ("\n" if answer else "") + f"<TOOLCALL>[{asked}]</TOOLCALL>"
    given = "Assistant\n"
    if thinking:
        reasoning = reasoning.strip().removeprefix("<think>").strip()
        answer = reasoning + ("\n" if reasoning else "") + "</think>\n\n" + answer
        given += "<think>\n"
    elif thinking is False:
        given += "<think></think>"
    yield _Segment(TURN, given, learned=f"{answer}\n")
    yield _Segment(END_OF_TURN, "\n", closes=True)


def _call(asked: Mapping[str, Any]) -> str:
    arguments = asked["arguments"]
    arguments = arguments if isinstance(arguments, str) else _json(arguments)
    return f'{{"name": {_json(asked["name"])}, "arguments": {arguments}}}'


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
