"""What kind of value a field of a configuration takes: flags, whole numbers, numbers. No torch."""

from math import isfinite
from types import NoneType, UnionType
from typing import Any

from cairn.base.errors import UserError

MOST = 2**31  # whole numbers of a model are below; more is damage

_WANTED = {bool: "true or false", int: "a whole number", float: "a finite number"}


def check_kind(name: str, value: Any, kind: Any) -> None:
    """UserError where `value` is not of `kind`: bool, int, float, or one of them or None.

    An int serves as a float, a bool as nothing else, and other kinds are not looked at.
    """
    kinds = kind.__args__ if isinstance(kind, UnionType) else (kind,)
    known = [one for one in kinds if one in _WANTED]
    if not known or (value is None and NoneType in kinds):
        return
    plain = not isinstance(value, bool)
    if known[0] is bool:
        right = not plain
    elif known[0] is int:
        right = plain and isinstance(value, int) and abs(value) < MOST
    else:
        right = plain and isinstance(value, int | float) and isfinite(value)
    if not right:
        raise UserError(name, value, f"is not {_WANTED[known[0]]}", "write one")
