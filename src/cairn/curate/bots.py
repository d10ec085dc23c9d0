"""Accounts that are programs, by their names: The Stack v2 (arXiv 2402.19173), section 2.2."""

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

# The report names no accounts: these are well known ones that no pattern below catches.
EXACT = frozenset(
    {
        "bitdeli-chef",
        "bors",
        "claassistant",
        "codacy-badger",
        "codecov-commenter",
        "codecov-io",
        "coveralls",
        "gitter-badger",
        "greenkeeperio",
        "homu",
        "houndci",
        "lgtm-com",
        "msftclas",
        "readthedocs-assistant",
        "rust-highfive",
        "salesforce-cla",
    }
)
SUBSTRINGS = ("[bot]", "botmanager", "bors-", "jenkins", "k8s-", "-test-", "travis")
SUFFIXES = (
    "-automaton",
    "-automation",
    "-benchmark",
    "-build",
    "-deployer",
    "-cloud",
    "bot",
    "-ci",
    "-linter",
    "-teamcity",
    "-test",
    "-testing",
    "-service-account",
)
_COMMAND = re.compile(r"/[A-Za-z][A-Za-z0-9-]{0,30}(?:\s|$)")

Message = TypeVar("Message")


def is_bot(login: str) -> bool:
    """Whether the account is a program by its name; case does not matter."""
    name = login.lower()
    return name in EXACT or name.endswith(SUFFIXES) or any(part in name for part in SUBSTRINGS)


def summons(text: str, bot: str) -> bool:
    """Whether a message does nothing but call `bot`: one line that begins with its name or a /word.

    The name may go without `[bot]` or a last `bot`, with or without @ (`bors r+`).
    """
    line = text.strip()
    if not line or "\n" in line:
        return False
    name = bot.lower()
    short = name.removesuffix("[bot]").removesuffix("bot").rstrip("-")
    first = line.split(None, 1)[0].lower().lstrip("@").rstrip(":,.!?")
    called = {name, name.removesuffix("[bot]"), short} - {""}
    return first in called or bool(_COMMAND.match(line))


def without_bots(
    messages: Sequence[Message], user: Callable[[Message], str], text: Callable[[Message], str]
) -> list[Message]:
    """Messages of people, less those that only summoned the bot that answers right after."""
    kept: list[Message] = []
    last_is_before = False  # whether the message right before this one was kept
    for message in messages:
        login = user(message)
        if not is_bot(login):
            kept.append(message)
            last_is_before = True
            continue
        if last_is_before and summons(text(kept[-1]), login):
            kept.pop()
        last_is_before = False
    return kept
