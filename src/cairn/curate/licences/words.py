"""A text as the numbers of the words that the table knows, and where they stand."""

import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cairn.curate.licences.table import STOP, Hashes, Ints, Table

_WORD = re.compile(r"[^_\W]+\+?[^_\W]*")
_ESCAPED = re.compile(r"\\[nrt]")  # line ends inside of a string literal


@dataclass(frozen=True)
class Text:
    """`ids[i]` is the number of the i-th known word, `line[i]` its line, and `unknown[i]` how many
    unknown words precede it in the text; words that are mark-up count for nothing.
    """

    ids: Ints
    line: Ints
    unknown: Ints

    @cached_property
    def hashes(self) -> Hashes:
        return Hashes(self.ids)

    def unknown_within(self, first: int, last: int) -> int:
        """Unknown words between two known ones."""
        return int(self.unknown[last] - self.unknown[first])


def read(text: str, table: Table) -> Text:
    """Words of a text; only those the table knows."""
    number = table.words
    ids: list[int] = []
    line: list[int] = []
    unknown: list[int] = []
    seen = 0
    for at, one in enumerate(_ESCAPED.sub("\n", text.lower()).split("\n")):
        for word in _WORD.findall(one):
            found = number[word]
            if found >= 0:
                ids.append(found)
                line.append(at)
                unknown.append(seen)
            elif found != STOP:
                seen += 1
    return Text(np.array(ids, np.int64), np.array(line, np.int64), np.array(unknown, np.int64))
