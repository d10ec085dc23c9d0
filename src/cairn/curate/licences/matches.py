"""Matches of a text with rules, and which of them stay: ScanCode's order of filters, in short."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from cairn.curate.licences import table as t
from cairn.curate.licences.expressions import ids_of
from cairn.curate.licences.table import Table
from cairn.curate.licences.words import Text

LISTED, LISTED_DISTINCT = 15, 5  # so many names of licences in a row are a list, not a statement
DENSE = 0.4  # of the words from the first that is matched to the last
NEAR = 10  # words between the names in a list


@dataclass(frozen=True, slots=True)
class Match:
    """Words of a text that are words of a rule; `mask` has a bit for each, from `start` on."""

    rule: int
    start: int
    end: int  # of the last word
    mask: int
    size: int
    telling: int
    exact: bool
    lines: tuple[int, int]
    magnitude: int  # words from start to end, unknown ones too
    span: int  # words of the rule from the first that is matched to the last
    length: int
    flags: int
    relevance: int
    expression: str

    @property
    def coverage(self) -> float:
        """How much of the rule is there, 0 to 1."""
        return self.size / self.length

    @property
    def ids(self) -> frozenset[str]:
        return _ids(self.expression)

    def overlap(self, other: "Match") -> int:
        """How many words of the text both matches hold."""
        if self.start > other.start:
            return other.overlap(self)
        return ((self.mask >> (other.start - self.start)) & other.mask).bit_count()

    def holds(self, other: "Match") -> bool:
        return (
            self.start <= other.start
            and self.end >= other.end
            and self.overlap(other) == other.size
        )

    def is_a(self, flag: int) -> bool:
        return self.flags & flag > 0


_ids = cache(lambda expression: frozenset(ids_of(expression)))


def make(table: Table, text: Text, rule: int, places: Sequence[int], inner: tuple[int, int]):
    """A match of the words at `places` with those of a rule from `inner[0]` to `inner[1]`."""
    start, end = places[0], places[-1]
    size = len(places)
    if end - start + 1 == size:
        mask = (1 << size) - 1
    else:
        bits = np.zeros(end - start + 1, np.uint8)
        bits[np.asarray(places) - start] = 1
        mask = int.from_bytes(np.packbits(bits, bitorder="little").tobytes(), "little")
    length = int(table.length[rule])
    return Match(
        rule=rule,
        start=start,
        end=end,
        mask=mask,
        size=size,
        telling=int((text.ids[list(places)] < table.telling).sum()),
        exact=size == length and end - start + 1 == size,
        lines=(int(text.line[start]), int(text.line[end])),
        magnitude=end - start + 1 + text.unknown_within(start, end),
        span=inner[1] - inner[0] + 1,
        length=length,
        flags=int(table.flags[rule]),
        relevance=int(table.relevance[rule]),
        expression=table.expressions[table.expression[rule]],
    )


def is_dense(match: Match) -> bool:
    """Whether the words of an approximate match stand close enough to mean anything."""
    return min(match.size / match.magnitude, match.size / match.span) >= DENSE


def is_scattered(match: Match) -> bool:
    """Whether a short rule is spread over more lines than it has words."""
    if match.length >= t.SMALL:
        return False
    return match.lines[1] - match.lines[0] + 1 > match.size + 2 * match.is_a(t.TAG)


def settle(matches: list[Match]) -> list[Match]:
    """The matches that stay, in the order of the text: none within another, few overlaps."""
    matches, within = _sweep(matches, _contained)
    matches, over = _sweep(matches, _overlapping)
    for dropped in (within, over):
        matches += _untouched(matches, dropped)
    matches, _ = _sweep(matches, _contained)
    return sorted(matches, key=_order)


def settled_again(kept: list[Match], others: list[Match]) -> list[Match]:
    """With those of the others that share no word with what was kept."""
    found, _ = _sweep(kept + _untouched(kept, others), _contained)
    return sorted(found, key=_order)


def without_lists(matches: list[Match]) -> list[Match]:
    """Without what is known to mean nothing, and without long lists of licences' names."""
    matches = [match for match in matches if not match.is_a(t.FALSE_POSITIVE)]
    kept: list[Match] = []
    row: list[Match] = []
    for match in matches:
        named = _is_name(match)
        if named and (not row or match.start - row[-1].end <= NEAR):
            row.append(match)
            continue
        kept += [] if _is_list(row) else row
        row = [match] if named else []
        if not named:
            kept.append(match)
    return kept if _is_list(row) else kept + row


def _is_name(match: Match) -> bool:
    named = match.is_a(t.REFERENCE | t.TAG | t.INTRO | t.CLUE)
    return named and match.size == match.length and match.size <= 20


def _is_list(row: list[Match]) -> bool:
    distinct = len({match.expression for match in row})
    return len(row) >= LISTED and distinct >= min(LISTED_DISTINCT, len(row) / 3)


def _order(match: Match) -> tuple[int, int, int, bool, int]:
    return (match.start, -match.telling, -match.size, not match.exact, match.rule)


def _sweep(
    matches: list[Match], loser: Callable[[Match, Match, Match | None], Match | None]
) -> tuple[list[Match], list[Match]]:
    """(kept, dropped): each match against those that begin in it, in the order of the text."""
    order = sorted(matches, key=_order)
    alive = [True] * len(order)
    before: Match | None = None
    for place, match in enumerate(order):
        if not alive[place]:
            continue
        for later in range(place + 1, len(order)):
            other = order[later]
            if other.start > match.end:
                break
            if not alive[later]:
                continue
            lost = loser(match, other, before)
            if lost is other:
                alive[later] = False
            elif lost is match:
                alive[place] = False
                break
        before = match if alive[place] else before
    kept = [match for match, stays in zip(order, alive, strict=True) if stays]
    return kept, [match for match, stays in zip(order, alive, strict=True) if not stays]


def _contained(one: Match, other: Match, _: Match | None) -> Match | None:
    if one.holds(other):
        equal = one.size == other.size
        return one if equal and other.coverage > one.coverage else other
    return one if other.holds(one) else None


def _overlapping(one: Match, other: Match, before: Match | None) -> Match | None:
    """Which of two matches goes, by the shares of their words that both hold."""
    overlap = one.overlap(other)
    if not overlap or (one.is_a(t.FALSE_POSITIVE) and other.is_a(t.FALSE_POSITIVE)):
        return None
    for big, small in ((one, other), (other, one)):
        if big.size < small.size:
            continue
        share = overlap / small.size
        if share >= 0.9 or (share >= 0.7 and big.telling >= small.telling):
            return small
    share = max(overlap / one.size, overlap / other.size)
    ends_so = one.is_a(t.ENDS_WITH_LICENSE) and other.is_a(t.STARTS_WITH_LICENSE)
    if ends_so and other.size == 2 and one.size >= 4 and one.telling >= other.telling:
        return other
    for big, small in ((one, other), (other, one)):
        if big.size < small.size or big.telling < small.telling or not small.ids <= big.ids:
            continue
        if not small.ids:
            continue
        around = big.start <= small.start and big.end >= small.end
        if share >= 0.4 or (around and overlap / small.size >= 0.1):
            return small
    if before is not None and not before.overlap(other):
        shared = one.overlap(before)
        if shared and shared + overlap >= 0.9 * one.size:
            return one
    return None


def _untouched(kept: list[Match], dropped: list[Match]) -> list[Match]:
    """Those of the dropped that share no word with what was kept."""
    if not dropped:
        return []
    found: list[Match] = []
    order = sorted(kept, key=_order)
    reach = np.maximum.accumulate([match.end for match in order]) if order else np.zeros(0)
    begins = np.array([match.start for match in order])
    for match in dropped:
        last = int(np.searchsorted(begins, match.end, side="right"))
        first = int(np.searchsorted(reach, match.start))
        if not any(order[i].overlap(match) for i in range(first, last)):
            found.append(match)
    return found
