"""Completions that follow a grammar: JSON schemas, regular expressions, context-free grammars.

llguidance (extra `grammar`) compiles them and says which tokens may come next.
"""

import importlib
import json
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from cairn.base import UserError
from cairn.engine.budget import CLOSING
from cairn.tokens.tokenizer import Tokenizer

# One spelling of each value, that of Python's json.dumps: it is what models see in tool calls, and
# leaves no room for whitespace without end.
JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
MOST_CHARACTERS = 100_000

Kind = Literal["json_schema", "regex", "lark", "tool_calls"]


@dataclass(frozen=True)
class Grammar:
    """What a text must be.

    `kind` json_schema: `text` is the schema ("{}" is any JSON). regex: a regular expression (RE2's
    constructs). lark: a grammar in llguidance's dialect of Lark, beginning at `start`. tool_calls:
    `text` is a JSON schema of one call, and the text is `<TOOLCALL>[...]</TOOLCALL>` of one
    (`single`) or several, or, if there is one, what `otherwise` says.
    """

    kind: Kind
    text: str
    single: bool = False
    otherwise: "Grammar | None" = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise UserError("grammar", self.kind, f"is none of {', '.join(get_args(Kind))}")
        if not isinstance(self.text, str):
            raise UserError("grammar", self.text, "is no text")
        if len(self.text) > MOST_CHARACTERS:
            size = f"{len(self.text)} characters"
            raise UserError("grammar", size, f"is more than {MOST_CHARACTERS}")
        other = self.otherwise
        if other is not None and (self.kind != "tool_calls" or other.kind == "tool_calls"):
            raise UserError("otherwise", other.kind, "is what comes in place of tool calls")

    @classmethod
    def json(cls, schema: Mapping[str, Any] | bool | None = None) -> "Grammar":
        """JSON that fits the schema; any JSON object without one."""
        return cls("json_schema", json.dumps({"type": "object"} if schema is None else schema))

    @classmethod
    def tool_calls(
        cls,
        tools: Sequence[Mapping[str, Any]],
        *,
        single: bool = False,
        otherwise: "Grammar | None" = None,
    ) -> "Grammar":
        """Calls of these functions: each has `name`, and `parameters` as a JSON schema.

        Or an answer without a call, as `otherwise` says.
        """
        calls = [
            {
                "type": "object",
                "properties": {
                    "name": {"const": tool["name"]},
                    "arguments": tool.get("parameters") or {"type": "object"},
                },
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
            for tool in tools
        ]
        schema = calls[0] if len(calls) == 1 else {"anyOf": calls}
        # References inside a function's schema are to its own root.
        definitions = {k: v for tool in tools for k, v in _definitions(tool).items()}
        return cls("tool_calls", json.dumps(schema | definitions), single, otherwise)


def _definitions(tool: Mapping[str, Any]) -> dict[str, Any]:
    schema = tool.get("parameters") or {}
    return {key: schema[key] for key in ("$defs", "definitions") if key in schema}


class Compiler:
    """Grammars for one tokenizer; safe in any thread."""

    def __init__(self, tokenizer: Tokenizer | None, vocab_size: int, ends: frozenset[int]) -> None:
        self._tokenizer, self._vocab_size, self._ends = tokenizer, vocab_size, ends
        self._lock = threading.Lock()
        self._known: Any = None

    def matcher(self, grammar: Grammar, *, thinking: bool, stops: frozenset[int]) -> "Matcher":
        """A matcher at the beginning of a completion, which has reasoning first if `thinking`.

        UserError for a grammar that is none or that no text fits, without a tokenizer and without
        llguidance. The first mask, which may take a second, is computed here: in the caller's
        thread, and not in the step of everybody.
        """
        library = _llguidance()
        tokenizer = self._ready(library)
        source = self._source(grammar, thinking)
        problem = library.LLMatcher.validate_grammar(source, tokenizer)
        if problem and not problem.startswith("WARNING"):
            raise _refusal(grammar, _told(problem))
        matcher = Matcher(library.LLMatcher(tokenizer, source, log_level=0), self._ends | stops)
        if matcher.mask() is None:
            raise _refusal(grammar, matcher.problem)
        return matcher

    def _ready(self, library: Any) -> Any:
        if self._tokenizer is None:
            raise UserError("a grammar needs a tokenizer, and this engine has none")
        with self._lock:  # a second for large vocabularies: once, and only where it is needed
            if self._known is None:
                ends = sorted(self._ends)
                self._known = library.LLTokenizer(
                    self._tokenizer.vocabulary, n_vocab=self._vocab_size, eos_token=ends
                )
        return self._known

    def _source(self, grammar: Grammar, thinking: bool) -> str:
        answers = {"answer": grammar}
        start = "@answer"
        if grammar.kind == "tool_calls":
            more = "" if grammar.single else ' (", " @answer)*'
            opening, closing = self._tag("<TOOLCALL>"), self._tag("</TOOLCALL>")
            start = f'{opening} "[" @answer{more} "]" {closing}'
            if grammar.otherwise is not None:
                answers["otherwise"] = grammar.otherwise
                start = f"({start} | @otherwise)"
        if thinking:
            start = f'thought "\\n\\n" {start}'
        rules = f"start: {start}\n"
        if thinking and self._special(CLOSING):
            rules += f"thought: /(.|\\n)*/ {CLOSING}\n"
        elif thinking:
            rules += f'thought[suffix="{CLOSING}"]: /(.|\\n)*/\n'
        parts = [{"name": name} | _part(one) for name, one in answers.items()]
        return json.dumps({"grammars": [{"lark_grammar": rules}, *parts]})

    def _tag(self, name: str) -> str:
        """A tag in a grammar: one token where the tokenizer has it as such, text elsewhere."""
        return name if self._special(name) else f'"{name}"'

    def _special(self, name: str) -> bool:
        tokenizer = self._tokenizer
        assert tokenizer is not None
        return tokenizer.has(name) and tokenizer.is_special(tokenizer.id(name))


class Matcher:
    """Where one completion stands in its grammar."""

    def __init__(self, state: Any, ends: frozenset[int]) -> None:
        self._state, self._ends = state, ends

    def mask(self) -> bytes | None:
        """A bit for each token id that may come next, lowest first, in whole 32-bit words; None
        where it broke, which is no matter of the others in the batch and so raises nothing."""
        found = self._state.compute_bitmask()
        return None if self.broken else found

    def consume(self, token: int) -> None:
        """The completion's next token; what ends a completion ends the grammar too."""
        if token not in self._ends:
            self._state.consume_token(token)

    @property
    def broken(self) -> bool:
        """Whether a token came that the grammar does not have, or a limit of it was passed."""
        return self._state.is_error()

    @property
    def problem(self) -> str:
        """What it broke at, in a line; empty while it holds."""
        return _told(self._state.get_error()) if self.broken else ""

    @property
    def finished(self) -> bool:
        """Whether nothing can follow."""
        return self._state.is_stopped()


def _llguidance() -> Any:
    try:
        return importlib.import_module("llguidance")
    except ModuleNotFoundError:
        raise UserError(
            "a grammar needs llguidance, which is not installed: pip install 'cairn-lm[grammar]'"
        ) from None


def _part(grammar: Grammar) -> dict[str, Any]:
    """Of a tool call, the schema of one."""
    if grammar.kind in ("json_schema", "tool_calls"):
        return {"json_schema": _schema(grammar.text)}
    if grammar.kind == "regex":
        return {"lark_grammar": f"start: /{_slashed(grammar.text)}/\n"}
    return {"lark_grammar": grammar.text}


def _schema(text: str) -> Any:
    try:
        schema = json.loads(text)
    except ValueError:
        raise UserError("grammar", _shown(text), "is no JSON") from None
    if not isinstance(schema, dict):
        schema = {"allOf": [schema]}
    return {**schema, "x-guidance": JSON_STYLE}


def _slashed(pattern: str) -> str:
    """A regular expression between slashes: those inside are escaped, lines too."""
    pattern = re.sub(r"(\\.)|/", lambda found: found[1] or "\\/", pattern, flags=re.DOTALL)
    return pattern.replace("\n", "\\n").replace("\r", "\\r")


def _refusal(grammar: Grammar, problem: str) -> UserError:
    return UserError("grammar", _shown(grammar.text), f"cannot be followed: {problem}")


def _told(problem: str) -> str:
    """What the library says, without the picture of its state; of a regular expression's error
    what is wrong stands on a line of its own."""
    said = problem.partition("<state>")[0]
    if said.startswith("NoExtensionBias"):
        return "no text fits it"
    first, _, rest = said.partition("\n")
    reasons = [line for line in rest.split("\n") if line.startswith("error: ")]
    return " ".join(" ".join([first, *reasons[:1]]).split())


def _shown(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
