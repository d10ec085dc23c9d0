"""Sizes as people write them: `2GB`, `512MiB`, `1.5 TB`."""

import re

from cairn.base.errors import UserError

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?(?:([KMGT])(I?)B?|B?)", re.IGNORECASE)


def bytes_of(text: str) -> int:
    """Bytes; K, M, G and T are powers of 1000, with an i those of 1024. UserError for no size."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UserError("size", text, "is no size", "write 2GB or 512MiB, say")
    number, unit, binary = match.groups()
    power = 0 if unit is None else "KMGT".index(unit.upper()) + 1
    return int(float(number) * (1024 if binary else 1000) ** power)
