"""Instruction pairs from source files: a signature and what the docstring says, to the function."""

import ast
import hashlib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from cairn.align.limits import PairLimits

ASKS = (
    "Write the Python function `{name}`.\n\nSignature: {signature}\n\n{purpose}",
    "Implement this function in Python.\n\n{signature}\n\n{purpose}",
    "{purpose}\n\nWrite it as a Python function with the signature\n{signature}",
    "I need a Python function `{name}`: {purpose}\n\nUse this signature: {signature}",
)
FENCE = "```"

PAIR_SCHEMA = pa.schema(
    [
        ("prompt", pa.string()),
        ("response", pa.string()),
        ("ledger_row", pa.int64()),
        ("content_id", pa.string()),
        ("repo_name", pa.string()),
        ("path", pa.string()),
        ("name", pa.string()),
        ("first_line", pa.int32()),  # of the file, counted from 1, both ends included
        ("last_line", pa.int32()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Source:
    """One file that pairs may come from, and where it is from."""

    ledger_row: int
    content_id: str
    repo_name: str
    path: str
    content: str


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What a user asks and what an assistant answers, and the lines that the answer is from."""

    prompt: str
    response: str
    ledger_row: int
    content_id: str
    repo_name: str
    path: str
    name: str
    first_line: int
    last_line: int

    @property
    def messages(self) -> list[dict[str, str]]:
        """The pair as a conversation."""
        return [
            {"role": "user", "content": self.prompt},
            {"role": "assistant", "content": self.response},
        ]


def find_pairs(
    sources: Iterable[Source], limits: PairLimits, known: frozenset[str] = frozenset()
) -> tuple[list[Pair], frozenset[str]]:
    """Pairs of all files in their order, none twice, and the keys of what was taken.

    Two functions are the same if their bodies are, docstrings and layout aside, or if they would
    be asked for in the same words. `known` are keys to leave out: those of another split.
    """
    pairs: list[Pair] = []
    taken: set[str] = set()
    for source in sources:
        count = 0
        for function in functions_of(source.content):
            pair = _pair(source, function, limits)
            if pair is None:
                continue
            keys = {_digest("asked", pair.prompt), _digest("body", _body_key(function))}
            if keys & taken or keys & known:
                continue
            taken |= keys
            pairs.append(pair)
            count += 1
            if count == limits.most_per_file:
                break
    return pairs, frozenset(taken)


def functions_of(text: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Functions of a module and methods of its classes, in order; none of a file with errors."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on escapes in old code: not our file to mend
            module = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    waiting: list[ast.stmt] = list(reversed(module.body))
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
        elif isinstance(node, ast.ClassDef):
            waiting.extend(reversed(node.body))


def _pair(
    source: Source, function: ast.FunctionDef | ast.AsyncFunctionDef, limits: PairLimits
) -> Pair | None:
    """The pair that a function makes, or None where it is unfit."""
    purpose = _purpose(function, limits)
    if purpose is None or _is_trivial(function.body[1:]):
        return None
    lines = source.content.split("\n")
    signature = _lines(lines, function.lineno, function.body[0].lineno - 1, function.col_offset)
    first = (function.body[0].end_lineno or 0) + 1  # comments above the first statement belong
    body = _lines(lines, first, function.end_lineno or 0, function.col_offset)
    if signature is None or body is None or function.body[1].lineno < first:
        return None
    body = body.strip("\n")
    if not limits.least_body <= len(body.strip()) <= limits.most_body:
        return None
    whole = f"{signature}\n{body}"
    try:
        ast.parse(whole)
    except (SyntaxError, ValueError):  # one-line functions, strings that were indented by hand
        return None
    ask = ASKS[int(_digest("ask", whole)[:8], 16) % len(ASKS)]
    plain = " ".join(signature.split()) if "#" not in signature else _clean_signature(function)
    return Pair(
        prompt=ask.format(name=function.name, signature=plain, purpose=purpose),
        response=f"{FENCE}python\n{whole}\n{FENCE}",
        ledger_row=source.ledger_row,
        content_id=source.content_id,
        repo_name=source.repo_name,
        path=source.path,
        name=function.name,
        first_line=function.lineno,
        last_line=function.end_lineno or function.lineno,
    )


def _purpose(function: ast.FunctionDef | ast.AsyncFunctionDef, limits: PairLimits) -> str | None:
    """What the docstring says, without what would break out of a prompt; None if unfit."""
    purpose = ast.get_docstring(function)
    if purpose is None or len(function.body) < 2 or FENCE in purpose:
        return None
    if len(purpose) > limits.most_purpose:
        purpose = purpose.partition("\n\n")[0]
    fit = limits.least_purpose <= len(purpose) <= limits.most_purpose
    return (
        purpose.strip() if fit and "/think" not in purpose and "/no_think" not in purpose else None
    )


def _clean_signature(function: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """The signature in one line without its comments."""
    kind = type(function)
    bare = kind(
        name=function.name,
        args=function.args,
        body=[ast.Pass()],
        decorator_list=[],
        returns=function.returns,
        lineno=1,
    )
    return ast.unparse(bare).partition("\n")[0]


def _is_trivial(body: Sequence[ast.stmt]) -> bool:
    """Nothing to learn: pass, ..., a single raise, or a call of the method above."""
    if len(body) != 1:
        return not body
    only = body[0]
    if isinstance(only, ast.Pass | ast.Raise):
        return True
    if isinstance(only, ast.Expr | ast.Return):
        value = only.value
        return value is None or isinstance(value, ast.Constant | ast.Name)
    return False


def _lines(lines: Sequence[str], first: int, last: int, indent: int) -> str | None:
    """Lines first to last (from 1) without `indent` blanks before each; None if one has fewer."""
    found = []
    for line in lines[first - 1 : last]:
        line = line.rstrip("\r")
        if line[:indent].strip():
            return None
        found.append(line[indent:].rstrip())
    return "\n".join(found) if found else None


def _body_key(function: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    return "\n".join(ast.dump(statement) for statement in function.body[1:])


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def sample(pairs: Sequence[Pair], most: int | None) -> list[Pair]:
    """At most `most` of the pairs, chosen by hash and kept in their order."""
    if most is None or len(pairs) <= most:
        return list(pairs)
    ranked = sorted(pairs, key=lambda pair: _digest("sample", pair.prompt, pair.response))
    chosen = {id(pair) for pair in ranked[:most]}
    return [pair for pair in pairs if id(pair) in chosen]


def pair_table(pairs: Sequence[Pair]) -> pa.Table:
    """Pairs with their provenance, as `PAIR_SCHEMA` says."""
    rows = [{name: getattr(pair, name) for name in PAIR_SCHEMA.names} for pair in pairs]
    return pa.Table.from_pylist(rows, schema=PAIR_SCHEMA)
