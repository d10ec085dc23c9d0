"""Completions of the engine in the words of the OpenAI API: tokens, log-probabilities, usage."""

import codecs
from collections.abc import Sequence
from typing import Any

from cairn.engine import Completion
from cairn.serve.errors import ApiError
from cairn.tokens.tokenizer import Tokenizer


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """A token as a string: its text, a special token's name, or `bytes:\\x..` for part of one."""
    if token >= tokenizer.vocab_size:
        return f"<unused_{token}>"
    data = tokenizer.decode_bytes([token])
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


class LogprobWriter:
    """The `logprobs` object of /v1/completions, piece by piece (a stream has several)."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._offset = 0

    def write(
        self,
        tokens: Sequence[int],
        logprobs: Sequence[float | None],
        tops: Sequence[dict[int, float] | None],
    ) -> dict[str, Any]:
        """The object for the next tokens; `text_offset` counts characters from the beginning.

        As in the OpenAI API `top_logprobs` has the token itself too, where it is not among them.
        """
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            special = token >= self._tokenizer.vocab_size or self._tokenizer.is_special(token)
            data = b"" if special else self._tokenizer.decode_bytes([token])
            self._offset += len(self._decoder.decode(data))
        names = [token_text(self._tokenizer, token) for token in tokens]
        return {
            "tokens": names,
            "token_logprobs": list(logprobs),
            "top_logprobs": [
                top if top is None or own is None else self._named({**top, token: own})
                for token, own, top in zip(tokens, logprobs, tops, strict=True)
            ],
            "text_offset": offsets,
        }

    def _named(self, top: dict[int, float]) -> dict[str, float]:
        named: dict[str, float] = {}
        for token, logprob in top.items():  # likeliest first: two ids may have one spelling
            named.setdefault(token_text(self._tokenizer, token), logprob)
        return named


def chat_logprobs(
    tokenizer: Tokenizer,
    tokens: Sequence[int],
    logprobs: Sequence[float],
    tops: Sequence[Any],
    forced: Sequence[bool] | None = None,
) -> dict[str, Any]:
    """The `logprobs` object of /v1/chat/completions; `forced` flags tokens that were written by a
    thinking budget."""

    def entry(token: int, logprob: float) -> dict[str, Any]:
        data = tokenizer.decode_bytes([token]) if token < tokenizer.vocab_size else b""
        return {"token": token_text(tokenizer, token), "logprob": logprob, "bytes": list(data)}

    content = []
    for token, logprob, top in zip(tokens, logprobs, tops, strict=True):
        others = [entry(*pair) for pair in dict(top).items()]
        content.append({**entry(token, logprob), "top_logprobs": others})
    for found, flag in zip(content, forced or (), strict=False):
        found["forced"] = flag
    return {"content": content, "refusal": None}


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """The `usage` object."""
    total = prompt_tokens + completion_tokens
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": total,
    }


def usage_of(completions: Sequence[Completion], n: int) -> dict[str, Any]:
    """Usage of whole completions, n to a prompt: a prompt counts once."""
    prompts = sum(len(one.prompt_tokens) for one in completions[::n])
    found: dict[str, Any] = usage(prompts, sum(len(one.tokens) for one in completions))
    cached = sum(one.cached_tokens for one in completions[::n])
    if cached:
        found["prompt_tokens_details"] = {"cached_tokens": cached}
    reasoning = sum(one.reasoning_tokens for one in completions)
    if reasoning:
        found["completion_tokens_details"] = {"reasoning_tokens": reasoning}
    return found


def reason_of(completion: Completion, called: bool = False) -> str:
    """`finish_reason` in the API's words: truncated reasoning is a length, a call a call."""
    if completion.finish_reason == "budget":
        return "length"
    if called and completion.finish_reason == "stop":
        return "tool_calls"
    return completion.finish_reason


def refuse_failed(completion: Completion) -> None:
    """ApiError for a completion that could not be gone on with: 400 where its grammar broke, 500
    where the model did."""
    if completion.finish_reason != "error":
        return
    if completion.problem:
        said = "the grammar of this request cannot be followed to its end"
        raise ApiError(400, f"{said}: {completion.problem}")
    raise ApiError(500, "the model's logits are not numbers here")
