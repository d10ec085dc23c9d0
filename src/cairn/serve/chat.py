"""/v1/chat/completions: a conversation in, an assistant's turn out."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from cairn.engine import Completion, Delta
from cairn.serve.conversations import ChatRequest
from cairn.serve.delivery import EventStream, collect, note_completions
from cairn.serve.dialogues import prompt_of
from cairn.serve.models import Models, Service
from cairn.serve.turns import Piece, TurnParser
from cairn.serve.wording import chat_logprobs, reason_of, refuse_failed, usage_of
from cairn.serve.worker import Ticket


def chat_routes(models: Models) -> APIRouter:
    """The endpoint, over all models."""
    router = APIRouter()

    @router.post("/v1/chat/completions")
    async def chat(body: ChatRequest, request: Request) -> Response:
        service = models.named(body.model)
        said, tools = body.conversation(service.limits), body.offered()
        switch = body.enable_thinking
        prompt, reasons = await asyncio.to_thread(
            prompt_of, said, service.tokenizer, thinking=switch, tools=tools
        )
        ticket = await service.worker.open(body.jobs(prompt, service.limits, thinks=reasons))
        answer = _Answer(service, body, reasons)
        if body.stream:
            return EventStream(request, ticket, service.name, answer.chunks(ticket))
        completions = await collect(request, ticket)
        note_completions(request, service.name, completions)
        return JSONResponse(answer.whole(completions))

    return router


class _Answer:
    """The answer to one request, whole or in chunks."""

    def __init__(self, service: Service, body: ChatRequest, thinks: bool) -> None:
        self._tokenizer, self._body, self._thinks = service.tokenizer, body, thinks
        self._tools = bool(body.offered())
        self._most = 1 if body.parallel_tool_calls is False else None  # calls of a turn
        self._frame = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": service.name,
        }

    def _parser(self) -> TurnParser:
        held = self._body.response_format
        instead = held is not None and held.type != "text"
        return TurnParser(thinking=self._thinks, tools=self._tools, instead=instead)

    def whole(self, completions: list[Completion]) -> dict[str, Any]:
        """The answer in one piece."""
        choices = [self._choice(index, one) for index, one in enumerate(completions)]
        answer = {**self._frame, "object": "chat.completion", "choices": choices}
        return {**answer, "usage": usage_of(completions, len(completions))}

    def _choice(self, index: int, completion: Completion) -> dict[str, Any]:
        refuse_failed(completion)
        logprobs = None
        if completion.logprobs is not None:
            tops = completion.top_logprobs or []
            given = (completion.tokens, completion.logprobs, tops)
            logprobs = chat_logprobs(self._tokenizer, *given, self._flags(completion.forced))
        parser = self._parser()
        pieces = parser.push(completion.text, final=True)
        reason = reason_of(completion, parser.called)
        message = _message(pieces, self._most)
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason}

    async def chunks(self, ticket: Ticket) -> AsyncIterator[dict[str, Any]]:
        """The answer in pieces, as its choices come."""
        completions: dict[int, Completion] = {}
        turns = [_Turn(self._parser(), self._most) for _ in range(ticket.count)]
        for index in range(ticket.count):
            yield self._chunk(index, {"role": "assistant", "content": ""})
        async for index, delta in ticket.deltas():
            done = delta.completion
            if done is not None:
                refuse_failed(done)
                completions[index] = done
            said = turns[index].push(delta.text, final=done is not None)
            logprobs = self._logprobs(delta)
            if logprobs and not said:
                said = [{"content": ""}]
            for part in said:
                yield self._chunk(index, part, logprobs)
                logprobs = None
            if done is not None:
                yield self._chunk(index, {}, None, reason_of(done, turns[index].called))
        if self._body.tells_usage:
            ordered = [completions[index] for index in range(ticket.count)]
            last = {"choices": [], "usage": usage_of(ordered, ticket.count)}
            yield {**self._frame, "object": "chat.completion.chunk", **last}

    def _logprobs(self, delta: Delta) -> dict[str, Any] | None:
        if not self._body.logprobs or not delta.logprobs:
            return None
        return chat_logprobs(
            self._tokenizer,
            delta.tokens,
            [item.logprob for item in delta.logprobs],
            [item.top for item in delta.logprobs],
            self._flags(delta.forced),
        )

    def _flags(self, forced: Any) -> list[bool] | None:
        """Which tokens a budget wrote; said only where there is a budget."""
        return list(forced) if self._body.thinking_token_budget is not None else None

    def _chunk(
        self, index: int, delta: dict[str, Any], logprobs: Any = None, reason: str | None = None
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        frame = {**self._frame, "object": "chat.completion.chunk", "choices": [choice]}
        return {**frame, "usage": None} if self._body.tells_usage else frame


class _Turn:
    """One choice of a stream: its text as deltas of the API."""

    def __init__(self, parser: TurnParser, most: int | None) -> None:
        self._parser, self._most, self._calls = parser, most, 0

    @property
    def called(self) -> bool:
        return self._parser.called

    def push(self, text: str, *, final: bool) -> list[dict[str, Any]]:
        """The deltas for the next text."""
        found: list[dict[str, Any]] = []
        for piece in self._parser.push(text, final=final):
            if piece.kind == "call":
                if self._calls == self._most:
                    continue
                found.append({"tool_calls": [{"index": self._calls, **_call(piece)}]})
                self._calls += 1
            else:
                found.append({_FIELDS[piece.kind]: piece.text})
        return found


_FIELDS = {"reasoning": "reasoning_content", "content": "content"}


def _message(pieces: list[Piece], most: int | None) -> dict[str, Any]:
    """A whole turn, with `most` calls; `content` is null where there are calls and no words."""
    said = {kind: "".join(p.text for p in pieces if p.kind == kind) for kind in _FIELDS}
    calls = [_call(piece) for piece in pieces if piece.kind == "call"][:most]
    content = said["content"] or (None if calls else "")
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if said["reasoning"]:
        message["reasoning_content"] = said["reasoning"]
    return message | ({"tool_calls": calls} if calls else {})


def _call(piece: Piece) -> dict[str, Any]:
    function = {"name": piece.name, "arguments": piece.text}
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}
