"""The classifier of last resort: naive Bayes over tokens, as linguist's and go-enry's.

The counts are of linguist's samples (tokens.json.xz, made by bench/language_table.py). Comments,
strings and numbers are no tokens; words, tags, their attributes, punctuation and operators are.
"""

import json
import lzma
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

WINDOW = 100_000  # characters that are looked at

_SHEBANG = re.compile(r"^#!(?:/\w+)*/(\w+)(?:[ \t]++(?:\w+=\w+[ \t]++)*(\w+))?", re.M | re.A)
_TAG = re.compile(r"""(</?[^\s<>=\d"']++)(?:\s[^>]*+>|>)""", re.A)
_ATTRIBUTE = re.compile(r"\s(?:(\w+=)|([^\s>]+))", re.A)
_WORD = re.compile(r"\w+", re.A)
_STRING = re.compile(r"\"[^\"]*\"|'[^']*'")
_OPENERS = re.compile(r'/\*|<!--|\{-|\(\*|"""|' "'''")
_CLOSERS = {"/*": "*/", "<!--": "-->", "{-": "-}", "(*": "*)", '"""': '"""', "'''": "'''"}
_LINE_COMMENT = re.compile(r'(?://|--|[#%"])\s[^\n]*$', re.M | re.A)
_NUMBER = re.compile(
    r"(?:0x[0-9A-Fa-f][0-9A-Fa-f.]*+|\d[\d.]*+)(?:[uU][lL]{0,2}|(?:[eE][-+]\d*+)?[fFlL]*+)", re.A
)
_LEFT = re.compile(r"[;{}()\[\]]|[\w.@#/*]+|<<?|[-+*/%]|&&?|\|\|?|\S", re.A)


@dataclass(frozen=True)
class Counts:
    """Of one language: log of its share of the files, and of each of its tokens' share."""

    files: float
    tokens: dict[str, float]


NEVER_SHOWN = Counts(0.0, {})


@cache
def counted() -> tuple[dict[str, Counts], float]:
    """Every contested language, and what a token weighs that a language never showed."""
    packed = files("cairn.curate.languages").joinpath("tokens.json.xz").read_bytes()
    shipped = json.loads(lzma.decompress(packed))
    found = {}
    for language, shown in shipped["languages"].items():
        total = math.log(shown["total"] or 1)
        tokens = {token: math.log(count) - total for token, count in shown["tokens"].items()}
        found[language] = Counts(math.log((shown["files"] or 1) / shipped["files"]), tokens)
    return found, -math.log(shipped["total"])


def choose(text: str, candidates: Sequence[str]) -> str:
    """The likeliest of the candidates; of equals the first.

    As by go-enry, a language without samples has no token and a share of one of the files.
    """
    known, unseen = counted()
    seen = Counter(tokens(text))
    best, highest = candidates[0], -math.inf
    for language in candidates:
        shown = known.get(language, NEVER_SHOWN)
        score, weights = shown.files, shown.tokens
        for token, count in seen.items():
            score += count * weights.get(token, unseen)
        if score > highest:
            best, highest = language, score
    return best


def tokens(text: str) -> Iterator[str]:
    """The tokens of the text's begin, in no order that matters."""
    text = text[:WINDOW]
    for found in _SHEBANG.finditer(text):
        yield f"SHEBANG#!{found[2] if found[1] == 'env' and found[2] else found[1]}"
    # No tag that is left open: looking for the end of each would take time quadratic in the text.
    end = text.rfind(">") + 1
    for found in _TAG.finditer(text, 0, end):
        yield from _tag(found)
    text = _TAG.sub(" ", text[:end]) + text[end:]
    text = _without_comments(_STRING.sub(" ", text))
    text = _NUMBER.sub(" ", _LINE_COMMENT.sub(" ", text))
    yield from _LEFT.findall(text)


def _tag(found: re.Match[str]) -> Iterator[str]:
    opened = found[0].find("<!--")
    if opened >= 0 and found[0].find("-->", opened) >= 0:
        return
    yield f"{found[1]}>"
    for named, alone in _ATTRIBUTE.findall(found[0]):
        if named:
            yield named
        else:
            yield from _WORD.findall(alone)


def _without_comments(text: str) -> str:
    """Closed comments of several lines as a blank; each closing mark that is absent is noted."""
    parts, at, absent = [], 0, set()
    while found := _OPENERS.search(text, at):
        opener = found[0]
        end = -1 if opener in absent else text.find(_CLOSERS[opener], found.end())
        if end < 0:
            absent.add(opener)
            parts.append(text[at : found.end()])
            at = found.end()
            continue
        parts += [text[at : found.start()], " "]
        at = end + len(_CLOSERS[opener])
    return "".join([*parts, text[at:]])
