"""Thresholds of rules: which numbers they can be."""

from dataclasses import fields, is_dataclass
from typing import Any

from cairn.base import UserError

CHANCES = frozenset({"whole_file", "data_kept"})  # shares by another name


def check_bounds(where: str, limits: Any) -> None:
    """UserError, named `where.field`, for a number that no file could be held against.

    Fields whose names end in `_share` and those of CHANCES are from 0 to 1; other numbers are not
    negative, but for scores. Fields that are dataclasses are gone through.
    """
    for field in fields(limits):
        value = getattr(limits, field.name)
        name = f"{where}.{field.name}"
        if is_dataclass(value):
            check_bounds(name, value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            if field.name.endswith("_share") or field.name in CHANCES:
                if not 0 <= value <= 1:
                    raise UserError(name, value, "is no share", "take 0 to 1")
            elif not value >= 0 and not field.name.endswith("_score"):  # NaN neither
                raise UserError(name, value, "is less than nothing", "take 0 or more")
