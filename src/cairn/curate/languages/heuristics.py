"""Which of several languages with one extension a text is in, by patterns (heuristics.toml)."""

import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

WINDOW = 50 * 2**10  # characters that are looked at, as by linguist

Found = Callable[[str], object]  # truthy where the pattern is in a text, which begins with "\n"


@dataclass(frozen=True)
class Rule:
    """Holds where something of every list of `every` is found, and nothing of `none`."""

    languages: tuple[str, ...]
    every: tuple[tuple[Found, ...], ...]
    none: tuple[Found, ...]
    needs: tuple[str, ...]
    upto: str

    def holds(self, text: str) -> bool:
        if self.needs and not any(one in text for one in self.needs):
            return False
        if self.upto:
            text = text[: text.rfind(self.upto) + 1]
        for patterns in self.every:
            if not any(found(text) for found in patterns):
                return False
        return not any(found(text) for found in self.none)


def decide(extension: str, text: str) -> tuple[str, ...]:
    """The languages of the first rule of this extension that holds; none where none does.

    extension: lower case, with its dot.
    """
    rules = rules_by_extension().get(extension)
    if rules is None:
        return ()
    # A line's begin is looked for as the end of the line before: engines find a fixed character
    # about ten times as fast as the place between two.
    window = "\n" + text[:WINDOW]
    for rule in rules:
        if rule.holds(window):
            return rule.languages
    return ()


@cache
def rules_by_extension() -> dict[str, tuple[Rule, ...]]:
    text = files("cairn.curate.languages").joinpath("heuristics.toml").read_text(encoding="utf-8")
    shipped = tomllib.loads(text)
    found = {}
    for group in shipped["group"]:
        rules = tuple(_rule(rule, shipped["named"]) for rule in group["rule"])
        found |= dict.fromkeys(group["extensions"], rules)
    return found


def _rule(shown: dict[str, Any], named: dict[str, list[str]]) -> Rule:
    language = shown["language"]
    every = [*([shown["any"]] if "any" in shown else []), *shown.get("all", [])]
    return Rule(
        (language,) if isinstance(language, str) else tuple(language),
        tuple(_searches(patterns, named) for patterns in every),
        _searches(shown.get("none", []), named),
        tuple(shown.get("needs", ())),
        shown.get("upto", ""),
    )


def _searches(patterns: list[str], named: dict[str, list[str]]) -> tuple[Found, ...]:
    """One search for all patterns that begin a line, one for each other: the fewest passes."""
    whole = [one for name in patterns for one in (named[name[1:]] if name[0] == "@" else [name])]
    plain = [one.replace(r"\h", r"[^\S\n]") for one in whole]
    at_begin = [one[1:] for one in plain if one[0] == "^"]
    rest = [one.replace(r"\A", r"\A\n") for one in plain if one[0] != "^"]
    joined = [rf"\n(?:{'|'.join(at_begin)})"] if at_begin else []
    return tuple(re.compile(one, re.ASCII | re.MULTILINE).search for one in [*joined, *rest])
