"""/v1/chat/completions: a conversation in, an assistant's turn out."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from cairn.engine import Completion, Delta
from cairn.serve.completions import Service
from cairn.serve.delivery import EventStream, collect
from cairn.serve.errors import ApiError
from cairn.serve.requests import ChatRequest
from cairn.serve.wording import chat_logprobs, refuse_failed, usage_of
from cairn.serve.worker import Ticket
from cairn.tokens.chat import prompt_ids
from cairn.tokens.sentinels import END_OF_TURN


def chat_routes(service: Service) -> APIRouter:
    """The endpoint, over one engine."""
    router = APIRouter()

    @router.post("/v1/chat/completions")
    async def chat(body: ChatRequest, request: Request) -> Response:
        body.refuse_unbuilt(service.name)
        if not service.tokenizer.has(END_OF_TURN):
            raise ApiError(400, f"messages: the tokenizer of {service.name} has no chat sentinels")
        said = body.conversation(service.limits)
        prompt = await asyncio.to_thread(prompt_ids, said, service.tokenizer)
        ticket = await service.worker.open(body.jobs(prompt, service.limits))
        answer = _Answer(service, body)
        if body.stream:
            return EventStream(ticket, answer.chunks(ticket))
        return JSONResponse(answer.whole(await collect(request, ticket)))

    return router


class _Answer:
    """The answer to one request, whole or in chunks."""

    def __init__(self, service: Service, body: ChatRequest) -> None:
        self._tokenizer, self._body = service.tokenizer, body
        self._frame = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": service.name,
        }

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
            logprobs = chat_logprobs(self._tokenizer, completion.tokens, completion.logprobs, tops)
        message = {"role": "assistant", "content": completion.text}
        reason = completion.finish_reason
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason}

    async def chunks(self, ticket: Ticket) -> AsyncIterator[dict[str, Any]]:
        """The answer in pieces, as its choices come."""
        completions: dict[int, Completion] = {}
        for index in range(ticket.count):
            yield self._chunk(index, {"role": "assistant", "content": ""})
        async for index, delta in ticket.deltas():
            if delta.completion is not None:
                refuse_failed(delta.completion)
                completions[index] = delta.completion
            logprobs = self._logprobs(delta)
            if delta.text or logprobs:
                yield self._chunk(index, {"content": delta.text}, logprobs)
            if delta.completion is not None:
                yield self._chunk(index, {}, None, delta.completion.finish_reason)
        if self._body.stream_options is not None and self._body.stream_options.include_usage:
            ordered = [completions[index] for index in range(ticket.count)]
            usage = usage_of(ordered, ticket.count)
            yield {
                **self._frame,
                "object": "chat.completion.chunk",
                "choices": [],
                "usage": usage,
            }

    def _logprobs(self, delta: Delta) -> dict[str, Any] | None:
        if not self._body.logprobs or not delta.logprobs:
            return None
        return chat_logprobs(
            self._tokenizer,
            delta.tokens,
            [item.logprob for item in delta.logprobs],
            [item.top for item in delta.logprobs],
        )

    def _chunk(
        self, index: int, delta: dict[str, str], logprobs: Any = None, reason: str | None = None
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return {**self._frame, "object": "chat.completion.chunk", "choices": [choice]}
