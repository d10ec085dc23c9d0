"""What a request says, in tokens: prompts, fill-in-the-middle, and where a completion ends."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from cairn.base import UserError
from cairn.base.files import read_object
from cairn.engine.budget import ThinkingControl
from cairn.engine.code import CodePrompt
from cairn.engine.grammar import Compiler
from cairn.engine.sampling import SamplingParams
from cairn.engine.steering import Steering
from cairn.model import ModelConfig
from cairn.tokens.tokenizer import Tokenizer

END_TOKENS = ("<|endoftext|>", "<SPECIAL_12>")  # a document's end, and an assistant turn's
# Structure inside a turn: shown as text even where a tokenizer has them as special tokens.
SHOWN = ("<think>", "</think>", "<TOOLCALL>", "</TOOLCALL>")


class Prompts:
    """The engine's side of the tokenizer; without one, prompts are token ids and texts empty."""

    def __init__(
        self, tokenizer: Tokenizer | None, config: ModelConfig, ends: frozenset[int]
    ) -> None:
        self.tokenizer = tokenizer
        self.vocab_size = config.vocab_size
        named = {self._id(name) for name in END_TOKENS if self._has(name)}
        self.ends = ends | named | set(config.eos_token_ids)
        # An empty prompt begins where a document begins: after the end of another.
        self._first = self._id(END_TOKENS[0]) if self._has(END_TOKENS[0]) else config.start_token_id
        self.token_bytes = lru_cache(maxsize=65_536)(self._token_bytes)
        self._shown = frozenset(self._id(name) for name in SHOWN if self._has(name))
        self._compiler = Compiler(tokenizer, config.vocab_size, frozenset(self.ends))

    def read(
        self, prompt: str | list[int] | CodePrompt, suffix: str | None
    ) -> tuple[list[int], frozenset[int]]:
        """Token ids of a prompt and the tokens that end its completion.

        With a suffix, the prompt is `<fim_prefix>` prompt `<fim_suffix>` suffix `<fim_middle>`,
        and the middle ends where training data ended it: at the next file, at the end of the
        document, or at another sentinel. Sentinels that are spelled in a text are text. Without a
        suffix a text has around it what the tokenizer puts there, a BOS say; token ids and code
        prompts are taken as they are.
        """
        if suffix is not None:
            if not isinstance(prompt, str) or not isinstance(suffix, str):
                problem = "goes with a prompt that is text, and is text itself"
                raise UserError("suffix", suffix, problem)
            prompt = CodePrompt(prefix=prompt, suffix=suffix)
        if not isinstance(prompt, CodePrompt):
            return self._ids(prompt) or [self._first], self.ends
        if self.tokenizer is None:
            raise UserError("suffix", suffix, "this engine has no tokenizer", "give token ids")
        ids = prompt.encode(self.tokenizer) or [self._first]
        return ids, self.ends | prompt.stops(self.tokenizer)

    def steering(self, params: SamplingParams) -> Steering | None:
        """What holds a completion to its budget and grammar; None where it has neither.

        UserError for a biased token that the vocabulary lacks, a grammar that cannot be followed,
        and for either of these two where there is no tokenizer.
        """
        for token, _ in params.logit_bias:
            if token >= self.vocab_size:
                problem = f"is no token id: they go from 0 to {self.vocab_size - 1}"
                raise UserError("logit_bias", token, problem)
        if params.thinking is None and params.grammar is None:
            return None
        if self.tokenizer is None:
            raise UserError(
                "a thinking budget or a grammar needs a tokenizer: this engine has none"
            )
        thinking = matcher = None
        if params.thinking is not None:
            encode = self.tokenizer.encode_with_sentinels  # a closing tag may be one token
            thinking = ThinkingControl(params.thinking, self.token_bytes, encode)
        if params.grammar is not None:
            stops = frozenset(params.stop_tokens)
            reasons = thinking is not None
            matcher = self._compiler.matcher(params.grammar, thinking=reasons, stops=stops)
        return Steering(thinking, matcher)

    def _ids(self, prompt: Any) -> list[int]:
        if isinstance(prompt, str):
            if self.tokenizer is None:
                raise UserError("prompt", prompt, "this engine has no tokenizer", "give token ids")
            return self.tokenizer.encode_prompt(prompt)
        if not isinstance(prompt, list | tuple) or not all(type(item) is int for item in prompt):
            raise UserError("prompt", prompt, "is neither a string nor a list of token ids")
        last = self.vocab_size - 1
        for token in prompt:
            if not 0 <= token <= last:
                raise UserError("prompt", token, f"is no token id: they go from 0 to {last}")
        return list(prompt)

    def _has(self, name: str) -> bool:
        return self.tokenizer is not None and self.tokenizer.has(name)

    def _id(self, name: str) -> int:
        assert self.tokenizer is not None
        return self.tokenizer.id(name)

    def _token_bytes(self, token: int) -> bytes:
        """Bytes of a token's text; none for special tokens and for ids that stand for nothing."""
        tokenizer = self.tokenizer
        if tokenizer is None or token >= tokenizer.vocab_size:
            return b""
        if tokenizer.is_special(token) and token not in self._shown:
            return b""
        return tokenizer.decode_bytes([token])


def end_tokens(folder: Path) -> frozenset[int]:
    """`eos_token_id` of a folder's generation_config.json, one id or a list; none without it."""
    path = folder / "generation_config.json"
    if not path.exists():
        return frozenset()
    said = read_object(path).get("eos_token_id")
    found = said if isinstance(said, list) else [] if said is None else [said]
    for end in found:
        if not isinstance(end, int) or isinstance(end, bool):
            raise UserError(f"{path}: eos_token_id={said}: is no id and no list of ids; write one")
    return frozenset(found)


def one_each(field: str, value: Any, count: int) -> list[Any]:
    """`value` for each of `count` prompts: itself repeated, or a list of that length."""
    if not isinstance(value, list):
        return [value] * count
    if len(value) != count:
        raise UserError(f"{field} has {len(value)} entries for {count} prompts: give one for each")
    return value
