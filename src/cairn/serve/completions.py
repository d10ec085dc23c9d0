"""/v1/completions: text in, text out, with fill-in-the-middle through `suffix`."""

import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from cairn.engine import Completion, Delta
from cairn.serve.delivery import EventStream, collect, note_completions
from cairn.serve.models import Models, Service
from cairn.serve.requests import CompletionRequest
from cairn.serve.wording import LogprobWriter, reason_of, refuse_failed, usage_of
from cairn.serve.worker import Ticket


def completion_routes(models: Models) -> APIRouter:
    """The endpoint, over all models."""
    router = APIRouter()

    @router.post("/v1/completions")
    async def completions(body: CompletionRequest, request: Request) -> Response:
        service = models.named(body.model)
        ticket = await service.worker.open(body.jobs(service.limits))
        answer = _Answer(service, body)
        if body.stream:
            return EventStream(request, ticket, service.name, answer.chunks(ticket))
        completions = await collect(request, ticket)
        note_completions(request, service.name, completions)
        return JSONResponse(answer.whole(completions))

    return router


class _Answer:
    """The answer to one request, whole or in chunks."""

    def __init__(self, service: Service, body: CompletionRequest) -> None:
        self._tokenizer, self._body = service.tokenizer, body
        self._n = body.n or 1
        self._unused = {"usage": None} if body.tells_usage else {}
        self._frame = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": service.name,
        }

    def whole(self, completions: list[Completion]) -> dict[str, Any]:
        """The answer in one piece."""
        choices = [self._choice(index, one) for index, one in enumerate(completions)]
        return {**self._frame, "choices": choices, "usage": usage_of(completions, self._n)}

    def _choice(self, index: int, completion: Completion) -> dict[str, Any]:
        refuse_failed(completion)
        written = None
        writer = LogprobWriter(self._tokenizer)
        if completion.logprobs is not None:
            tokens, logprobs = completion.tokens, list[float | None](completion.logprobs)
            tops = list[dict[int, float] | None](completion.top_logprobs or [])
            if self._body.echo:
                tokens = completion.prompt_tokens + tokens
                logprobs = (completion.prompt_logprobs or []) + logprobs
                tops = (completion.prompt_top_logprobs or []) + tops
            written = writer.write(tokens, logprobs, tops)
            if self._body.thinking_token_budget is not None:
                before = len(tokens) - len(completion.forced)
                written["forced"] = [False] * before + completion.forced
        text = self._echoed(index) + completion.text
        return _choice(index, text, written, reason_of(completion))

    def _echoed(self, index: int) -> str:
        if not self._body.echo:
            return ""
        prompt = self._body.prompts()[index // self._n]
        if isinstance(prompt, str):
            return prompt
        known = self._tokenizer.vocab_size  # a model may have more ids than there are tokens
        return self._tokenizer.decode(token for token in prompt if token < known)

    async def chunks(self, ticket: Ticket) -> AsyncIterator[dict[str, Any]]:
        """The answer in pieces, as its choices come."""
        writers = [LogprobWriter(self._tokenizer) for _ in range(ticket.count)]
        begun: set[int] = set()  # choices
        completions: dict[int, Completion] = {}
        async for index, delta in ticket.deltas():
            text, prompt = delta.text, None
            if index not in begun:
                begun.add(index)
                text = self._echoed(index) + text
                prompt = ticket.prompts[index] if self._body.echo else None
            if delta.completion is not None:
                refuse_failed(delta.completion)
                completions[index] = delta.completion
            written = self._written(writers[index], delta, prompt)
            if text or written or delta.completion:
                reason = reason_of(delta.completion) if delta.completion else None
                choices = [_choice(index, text, written, reason)]
                yield {**self._frame, "choices": choices, **self._unused}
        if self._body.tells_usage:
            ordered = [completions[index] for index in range(ticket.count)]
            yield {**self._frame, "choices": [], "usage": usage_of(ordered, self._n)}

    def _written(
        self, writer: LogprobWriter, delta: Delta, prompt: list[int] | None
    ) -> dict[str, Any] | None:
        """Of what is new, after the echoed prompt where there is one."""
        if self._body.logprobs is None or not (prompt or delta.logprobs):
            return None
        given = [*delta.prompt_logprobs, *delta.logprobs] if prompt else delta.logprobs
        tokens = [item.token for item in given]
        logprobs: list[float | None] = [item.logprob for item in given]
        tops: list[dict[int, float] | None] = [dict(item.top) for item in given]
        flags = [item.forced for item in given]
        if prompt:  # nothing predicts its first token
            tokens, logprobs = [prompt[0], *tokens], [None, *logprobs]
            tops, flags = [None, *tops], [False, *flags]
        written = writer.write(tokens, logprobs, tops)
        if self._body.thinking_token_budget is not None:
            written["forced"] = flags
        return written


def _choice(index: int, text: str, logprobs: Any, reason: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
