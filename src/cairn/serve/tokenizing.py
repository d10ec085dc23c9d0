"""/tokenize, /detokenize and /tokenizer_info: the tokenizer of a model, over HTTP."""

from typing import Any

from fastapi import APIRouter
from pydantic import Field

from cairn.serve.conversations import Message, Tool, plain_messages
from cairn.serve.dialogues import prompt_of
from cairn.serve.errors import ApiError
from cairn.serve.models import Models
from cairn.serve.requests import Strict
from cairn.serve.wording import token_text
from cairn.tokens.chat import template
from cairn.tokens.sentinels import END_OF_TEXT, END_OF_TURN
from cairn.tokens.tokenizer import Tokenizer

MOST_TOKENS = 1_000_000


class TokenizeRequest(Strict):
    """Body of /tokenize: a text, or messages as /v1/chat/completions takes them."""

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = Field(None, min_length=1)
    tools: list[Tool] | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None


class DetokenizeRequest(Strict):
    """Body of /detokenize."""

    model: str | None = None
    tokens: list[int] = Field(max_length=MOST_TOKENS)


def _prompt(body: TokenizeRequest, tokenizer: Tokenizer) -> list[int]:
    assert body.prompt is not None
    if body.tools is not None:
        raise ApiError(400, "tools: go with messages", "tools")
    alone = tokenizer.sentinels.get(body.prompt)
    if alone is not None:
        return tokenizer.surrounded([alone]) if body.add_special_tokens else [alone]
    add = body.add_special_tokens is not False
    return tokenizer.encode_prompt(body.prompt) if add else tokenizer.encode(body.prompt)


def tokenizing_routes(models: Models) -> APIRouter:
    """The endpoints, over all models."""
    router = APIRouter()

    @router.post("/tokenize")
    def tokenize(body: TokenizeRequest) -> dict[str, Any]:
        """Token ids; sentinels that are spelled in a text are text.

        A prompt has what the tokenizer puts around one (a BOS, say), messages have not; and who
        asks for the id of a sentinel writes it alone. `add_special_tokens` says otherwise.
        """
        service = models.named(body.model)
        if (body.prompt is None) == (body.messages is None):
            raise ApiError(400, "prompt: give either prompt or messages", "prompt")
        if body.prompt is not None:
            ids = _prompt(body, service.tokenizer)
        else:
            said = plain_messages(body.messages or [])
            tools = [tool.function.plain() for tool in body.tools or ()]
            ids, _ = prompt_of(said, service.tokenizer, tools=tools)
            if body.add_special_tokens:
                ids = service.tokenizer.surrounded(ids)
        most = service.worker.engine.capacity
        found: dict[str, Any] = {"count": len(ids), "max_model_len": most, "tokens": ids}
        if body.return_token_strs:
            found["token_strs"] = [token_text(service.tokenizer, token) for token in ids]
        return found

    @router.post("/detokenize")
    def detokenize(body: DetokenizeRequest) -> dict[str, Any]:
        """The text of token ids; bytes that are no UTF-8 become U+FFFD."""
        service = models.named(body.model)
        size = service.tokenizer.vocab_size
        for token in body.tokens:
            if not 0 <= token < size:
                raise ApiError(400, f"tokens: {token} is no token id, 0 to {size - 1} are")
        return {"prompt": service.tokenizer.decode(body.tokens)}

    @router.get("/tokenizer_info")
    def tokenizer_info(model: str | None = None) -> dict[str, Any]:
        """Special tokens and chat template, for clients that render prompts themselves."""
        tokenizer = models.named(model).tokenizer
        own = tokenizer.has(END_OF_TURN)
        end = None if own else tokenizer.named("eos_token")
        end = END_OF_TEXT if end is None and tokenizer.has(END_OF_TEXT) else end
        chat = template(tokenizer.thinking) if own else tokenizer.chat_template
        begin = None if own else tokenizer.named("bos_token")
        return {"eos_token": end, "bos_token": begin, "pad_token": end, "chat_template": chat}

    return router
