"""From matches to licences: what stands together is read together, as ScanCode reads it."""

import re
from collections.abc import Callable, Iterator

import numpy as np

from cairn.curate.licences import table as t
from cairn.curate.licences.approximate import approximate
from cairn.curate.licences.exact import exact
from cairn.curate.licences.expressions import chosen, tags, without_tags
from cairn.curate.licences.matches import Match, settle, without_lists
from cairn.curate.licences.table import Table, table
from cairn.curate.licences.words import Text, read

TOGETHER = 4  # lines between two matches that belong together
WHOLE = 120  # words of a text that, once found, is not searched again
SHORT = 15  # words of a match that may be a mere mention
SENTENCE = 2_000  # characters of the lines around it that are looked at
_PASSING = re.compile(
    r"\b(?:previously|formerly|used to be|no longer|earlier versions?|"
    r"versions? (?:before|prior to|up to))\b(?:[^.;]|\.\d){0,80}\b(?:under|licen[cs]ed)\b"
    r"|\b(?:gpl|licen[cs]e)[- ]compatible"
    r"|\bcombine [^.;]{1,80} with other software (?:that|which) is\b"
    r"|\b(?:compatible|incompatible[\"']) with (?:the |both |all )*"
    r"(?:gnu|[al]?gpl|apache|mit|bsd|mozilla|licen[cs]e)",
    re.IGNORECASE,
)
FREE_UNKNOWN = "LicenseRef-scancode-free-unknown"


def licences_in(text: str) -> frozenset[str]:
    """Identifiers of the licences that a text states, quotes or names by tag."""
    return _named(text, matches_in)


def licences_of_header(text: str) -> frozenset[str]:
    """As `licences_in`, but what is only nearly a known notice counts where nothing else is."""
    return _named(text, lambda words, rules: exact(words, rules)) or licences_in(text)


def _named(text: str, match: Callable[[Text, Table], list[Match]]) -> frozenset[str]:
    rules = table()
    found = set(tags(text))
    bare = without_tags(text)
    matches = without_lists(match(read(bare, rules), rules))
    lines = bare.split("\n")
    for expression in _counting([one for one in matches if not _in_passing(one, lines)]):
        found |= chosen(expression)
    return frozenset(found)


def _in_passing(match: Match, lines: list[str]) -> bool:
    """Whether a short name stands in a sentence of what was once so, or of what goes together."""
    if match.length > SHORT or match.is_a(t.TEXT | t.FALSE_POSITIVE):
        return False
    first, last = match.lines
    around = lines[max(first - 1, 0) : last + 1]
    return sum(map(len, around)) < SENTENCE and bool(_PASSING.search(" ".join(around)))


def _counting(matches: list[Match]) -> list[str]:
    """The expression of every match that counts."""
    groups = list(_groups(matches))
    counted = [_counted(group) for group in groups]
    known = {name for group in counted for match in group for name in match.ids}
    for group, said in zip(groups, counted, strict=True):
        names = {name for match in group for name in match.ids}
        if not said and names <= known:
            said += group
    return [match.expression for group in counted for match in group]


def matches_in(text: Text, rules: Table) -> list[Match]:
    """What a text has in common with rules, in its order."""
    if not len(text.ids):
        return []
    found = exact(text, rules)
    free = np.ones(len(text.ids), bool)
    known = np.zeros(len(text.ids), bool)
    for match in found:
        known[match.start : match.end + 1] = True
        if match.is_a(t.TEXT) and match.length > WHOLE:
            free[match.start : match.end + 1] = False
    if (~known & (text.ids < rules.telling)).any():
        found = settle(found + approximate(text, rules, free, known))
    return found


def _groups(matches: list[Match]) -> Iterator[list[Match]]:
    group: list[Match] = []
    for match in matches:
        if not group:
            group = [match]
        elif group[-1].is_a(t.INTRO):
            group.append(match)
        elif match.is_a(t.INTRO):
            yield group
            group = [match]
        elif match.is_a(t.CLUE):
            yield group
            yield [match]
            group = []
        elif match.lines[0] <= group[-1].lines[1] + TOGETHER:
            group.append(match)
        else:
            yield group
            group = [match]
    if group:
        yield group


def _counted(group: list[Match]) -> list[Match]:
    """The matches of a group that say something: none, if it is a clue or known to mislead."""
    if _is_introduced(group):
        return [match for match in group if not _is_intro(match)] or group
    if _has_no_gaps(group) and any(match.is_a(t.REFERS_TO_FILE) for match in group):
        return group
    if _misleads(group):
        return []
    perfect = all(match.exact for match in group)
    if perfect and all(match.is_a(t.CLUE) for match in group):
        return []
    if any(_is_unknown(match) for match in group):
        return group
    if not perfect and all(match.coverage <= 0.6 for match in group):
        return []
    return group


def _is_unknown(match: Match) -> bool:
    return "unknown" in match.expression


def _opens(match: Match) -> bool:
    return match.is_a(t.INTRO | t.CLUE) or match.expression == FREE_UNKNOWN


def _is_intro(match: Match) -> bool:
    return _opens(match) and match.size == match.length


def _is_introduced(group: list[Match]) -> bool:
    """Whether words that only announce a licence are followed by one."""
    opened = [_opens(match) and _is_unknown(match) for match in group]
    if len(group) == 1 or all(opened) or not any(opened):
        return False
    first = opened.index(True)
    if any(m.size == m.length and not _is_unknown(m) for m in group[first:]):
        return True
    rest = [match for match in group if not _is_intro(match)]
    return 0 < len(rest) < len(group)


def _has_no_gaps(group: list[Match]) -> bool:
    """Whether no whole rule has words of others between its own."""
    return all(match.size < match.length or match.magnitude == match.size for match in group)


def _misleads(group: list[Match]) -> bool:
    """Single short names of low relevance, which stand in much that is no licence."""
    if all(match.relevance == 100 for match in group):
        return False
    low = all(match.relevance < 60 for match in group)
    single = all(match.length == 1 for match in group)
    if len(group) == 1 and group[0].is_a(t.BARE) and low:
        return True
    if single and (
        all(match.is_a(t.GPL) for match in group) or all(match.is_a(t.TAG) for match in group)
    ):
        return True
    late = group[0].lines[0] > 1_000
    return low and late and any(match.length <= 3 for match in group)
