"""Recipes as frozen dataclasses: plain form, digest, and overrides by dotted name."""

import dataclasses
import difflib
import hashlib
import json
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from cairn.base.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Ref:
    """The name of another artifact of the same plan."""

    name: str


def to_plain(value: Any) -> Any:
    """A recipe (or any field of one) as JSON values; dataclasses carry their class as `kind`."""
    if isinstance(value, Ref):
        return {"ref": value.name}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"kind": type(value).__name__, **fields}
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    return value


FREE = "free"  # in a field's metadata: the field does not change what is made
LATER = "later"  # the field came later: at its default it is no part of what recipes said before


def what_settles(value: Any) -> Any:
    """`to_plain` without the fields that do not change what is made, how many processes say."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type | Ref):
        kept = [
            f.name
            for f in dataclasses.fields(value)
            if not f.metadata.get(FREE)
            and not (f.metadata.get(LATER) and getattr(value, f.name) == f.default)
        ]
        fields = {name: what_settles(getattr(value, name)) for name in kept}
        return {"kind": type(value).__name__, **fields}
    if isinstance(value, tuple | list):
        return [what_settles(item) for item in value]
    return to_plain(value)


def digest_of(plain: Any) -> str:
    """SHA-256 of the canonical JSON of a plain value, as hex."""
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def refs_in(value: Any) -> Iterator[Ref]:
    """Every Ref inside a recipe, in the order of its fields."""
    if isinstance(value, Ref):
        yield value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from refs_in(getattr(value, field.name))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from refs_in(item)


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a name that is not known: `did you mean X?`, or the list of what there is."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known) or 'none'}"


def override(value: T, dotted: str, text: str, whole: str = "") -> T:
    """A copy of the dataclass `value` with the field at `dotted` parsed from `text`.

    Raises UserError for an unknown field (with the nearest one) or a text of the wrong type.
    """
    whole = whole or dotted
    name, _, rest = dotted.partition(".")
    assert dataclasses.is_dataclass(value)
    assert not isinstance(value, type)
    known = {field.name for field in dataclasses.fields(value)}
    if name not in known:
        prefix = whole[: len(whole) - len(dotted)]
        raise UserError(f"unknown name {prefix + name!r} in {whole}={text}: {nearest(name, known)}")
    hint = typing.get_type_hints(type(value))[name]
    current = getattr(value, name)
    if rest and isinstance(current, tuple):
        return dataclasses.replace(value, **{name: _override_item(current, rest, text, whole)})
    if rest:
        if not dataclasses.is_dataclass(current) or isinstance(current, type | Ref):
            raise UserError(f"{whole}={text}: {name!r} has no fields, set it whole")
        return dataclasses.replace(value, **{name: override(current, rest, text, whole)})
    return dataclasses.replace(value, **{name: parse(text, hint, whole)})


def _override_item(items: tuple[Any, ...], dotted: str, text: str, whole: str) -> tuple[Any, ...]:
    """The items with one changed that is named by its number, e.g. `components.0.weights`."""
    number, _, rest = dotted.partition(".")
    known = [str(at) for at, item in enumerate(items) if dataclasses.is_dataclass(item)]
    if number not in known or not rest:
        raise UserError(f"unknown name {number!r} in {whole}={text}: {nearest(number, known)}")
    at = int(number)
    return (*items[:at], override(items[at], rest, text, whole), *items[at + 1 :])


def check(value: Any, prefix: str = "") -> None:
    """UserError for a field of a dataclass, or of one inside it, that is not of its type.

    Choices, numbers (finite, and no truth values) and groups of fields are looked at: what a plan,
    which is Python, could otherwise say wrongly without a word.
    """
    hints = typing.get_type_hints(type(value))
    for field in dataclasses.fields(value):
        current, hint = getattr(value, field.name), hints[field.name]
        name = prefix + field.name
        choices = typing.get_args(hint)
        if typing.get_origin(hint) not in (typing.Union, types.UnionType):
            choices = (hint,)
        problems = [_misfit(current, choice) for choice in choices]
        if all(problems):
            problem, mend = problems[0] or ("", "")
            raise UserError(name, current, problem, mend)
        if dataclasses.is_dataclass(current) and not isinstance(current, type | Ref):
            check(current, f"{name}.")
        for at, item in enumerate(current if isinstance(current, tuple) else ()):
            if dataclasses.is_dataclass(item) and not isinstance(item, type | Ref):
                check(item, f"{name}.{at}.")


def _misfit(value: Any, hint: Any) -> tuple[str, str] | None:
    """What is wrong with a value and how to mend it; None where it fits."""
    if typing.get_origin(hint) is typing.Literal:
        choices = typing.get_args(hint)
        return (
            None
            if value in choices
            else ("is not a choice", nearest(str(value), map(str, choices)))
        )
    if hint in (int, float):
        kinds, what = (int, "a whole number") if hint is int else (int | float, "a number")
        if isinstance(value, bool) or not isinstance(value, kinds):
            return f"is not {what}", "write it in digits"
        if value != value or value in (float("inf"), float("-inf")):
            return "is not finite", "write it in digits"
    if hint is bool and not isinstance(value, bool):
        return "is not a truth value", "write True or False"
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and not isinstance(value, hint):
        return f"is no {hint.__name__}", f"give {hint.__name__}(...)"
    if hint is type(None) and value is not None:
        return "is not None", "leave it None"
    return None


def from_plain(hint: Any, plain: Any) -> Any:
    """The value of type `hint` whose `to_plain` is `plain`, fields that are absent at defaults.

    UserError for a field that this version does not know.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        kinds = [choice for choice in arguments if choice is not type(None)]
        return None if plain is None else from_plain(kinds[0], plain)
    if origin is tuple:
        return tuple(from_plain(arguments[0], item) for item in plain)
    if hint is Ref:
        return Ref(plain["ref"])
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        given = {key: value for key, value in plain.items() if key != "kind"}
        unknown = sorted(set(given) - set(hints))
        if unknown:
            raise UserError(f"{hint.__name__} has no {unknown[0]!r}: {nearest(unknown[0], hints)}")
        return hint(**{key: from_plain(hints[key], value) for key, value in given.items()})
    return plain


def parse(text: str, hint: Any, field: str) -> Any:
    """The value of type `hint` that `text` spells; tuples are comma-separated or JSON lists."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _parse_union(text, arguments, field)
    if origin is typing.Literal:
        for choice in arguments:
            if text == str(choice):
                return choice
        raise UserError(field, text, "is not a choice", nearest(text, map(str, arguments)))
    if origin is tuple:
        return tuple(parse(item, arguments[0], field) for item in _items(text))
    if hint is bool:
        if text.lower() in {"true", "1", "yes", "false", "0", "no"}:
            return text.lower() in {"true", "1", "yes"}
        raise UserError(field, text, "is not a truth value", "write true or false")
    if hint is Ref:
        return Ref(text)
    if hint in (int, float):
        return _number(text, hint, field)
    if hint is str:
        return text
    if dataclasses.is_dataclass(hint):
        names = ", ".join(f"{field}.{f.name}" for f in dataclasses.fields(hint))
        raise UserError(field, text, "is a group of fields", f"set one of {names}")
    raise TypeError(f"{field}: no text form for {hint}")


def _parse_union(text: str, choices: tuple[Any, ...], field: str) -> Any:
    if type(None) in choices and text.lower() in {"none", "null"}:
        return None
    failure: UserError | None = None
    for choice in choices:
        if choice is type(None):
            continue
        try:
            return parse(text, choice, field)
        except UserError as error:
            failure = failure or error
    assert failure is not None
    raise failure


def _number(text: str, kind: type, field: str) -> int | float:
    try:
        number = float(text) if kind is float else int(text)
    except ValueError:
        try:  # 1e6 is how people write a million steps
            number = float(text)
        except ValueError:
            number = None
        if number is None or (kind is int and not number.is_integer()):
            what = "a whole number" if kind is int else "a number"
            raise UserError(field, text, f"is not {what}", "write it in digits") from None
        number = kind(number)
    if number != number or number in (float("inf"), float("-inf")):
        raise UserError(field, text, "is not finite", "write it in digits")
    return number


def _items(text: str) -> list[str]:
    text = text.strip()
    if text.startswith("["):
        try:
            return [
                item if isinstance(item, str) else json.dumps(item) for item in json.loads(text)
            ]
        except ValueError:
            raise UserError(f"{text!r} is not a JSON list") from None
    return [item.strip() for item in text.split(",") if item.strip()]


def field_help(kind: type) -> dict[str, str]:
    """The strings written below the fields of a dataclass, by field name."""
    import ast
    import inspect
    import textwrap

    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for before, after in zip(body.body, body.body[1:], strict=False):
            named = isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name)
            if named and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                found[before.target.id] = " ".join(str(after.value.value).split())  # type: ignore[union-attr]
    return found
