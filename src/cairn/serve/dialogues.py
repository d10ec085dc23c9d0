"""Conversations as prompts: in cairn's layout where the tokenizer has its sentinels, else by the
chat template of the checkpoint."""

from collections.abc import Mapping, Sequence
from typing import Any

from cairn.serve.errors import ApiError
from cairn.tokens.chat import prompt_ids, thinks
from cairn.tokens.sentinels import END_OF_TURN
from cairn.tokens.templates import template_of
from cairn.tokens.tokenizer import Tokenizer


def prompt_of(
    messages: Sequence[Mapping[str, Any]],
    tokenizer: Tokenizer,
    *,
    thinking: bool | None = None,
    tools: Sequence[Mapping[str, Any]] = (),
) -> tuple[list[int], bool]:
    """Token ids after which the assistant's turn begins, and whether it begins inside reasoning.

    ApiError 400 where the tokenizer has no layout of conversations, for tools that a template's
    own way of calling would answer, and for a switch that a template does not have.
    """
    if tokenizer.has(END_OF_TURN):
        ids = prompt_ids(messages, tokenizer, thinking=thinking, tools=tools)
        return ids, thinks(messages, tokenizer, thinking=thinking)
    template = template_of(tokenizer)
    if template is None:
        problem = "has neither chat sentinels nor a chat_template: use /v1/completions"
        raise ApiError(400, f"messages: the tokenizer of this model {problem}", "messages")
    if tools:
        problem = "this model calls tools in a way that is not read here"
        raise ApiError(400, f"tools: {problem}; describe them in a message", "tools")
    if thinking is not None and not template.switches:
        field = "chat_template_kwargs.enable_thinking"
        problem = "the chat template of this model has no such switch"
        raise ApiError(400, f"{field}: {problem} (nor a budget or reasoning_effort)", field)
    return template.prompt(messages, thinking)
