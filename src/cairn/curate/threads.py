"""Issues: The Stack v2 (arXiv 2402.19173), section 2.2, in the layout of its section 5.

A thread's JSON is that of `cairn.sources.events.read`. An issue exactly at a threshold is kept.
"""

import json
from dataclasses import dataclass, replace
from typing import Any

from cairn.curate.bots import is_bot, without_bots
from cairn.curate.messages import Participants, clean, cut_lines, unfilled
from cairn.curate.pieces import Document, Piece
from cairn.curate.rules import Verdict
from cairn.sources.record import ISSUE

CLOSED, REOPENED = "closed", "reopened"


@dataclass(frozen=True, kw_only=True)
class IssueLimits:
    """Where each rule begins to drop; the report's own values."""

    fewest_characters: int = 200
    """Least characters of the title and all messages."""
    most_lines: int = 100
    """Most lines of a message; of more, those at both ends stay."""
    last_lines: int = 20
    """Lines at the end of a long message that stay."""
    fewest_users: int = 2
    """People that make a conversation of any length."""
    lone_characters: int = 7_000
    """Characters from which an issue of fewer people is dropped."""
    lone_events: int = 10
    """Most events (posts, closings, reopenings) of an issue of fewer people."""


@dataclass(frozen=True)
class Message:
    """The opening post or a comment (`action` empty), or a closing or reopening."""

    user: str
    text: str
    action: str = ""


@dataclass(frozen=True)
class Thread:
    """An issue as its events tell it; `messages` begins with the opening post."""

    title: str
    messages: tuple[Message, ...]


def issue_document(raw: bytes, limits: IssueLimits) -> Document:
    """An issue's training document, or a verdict with no pieces.

    Rules in order, each with a verdict's name: issue_no_text (events before 2015 hold none),
    issue_bot (a program opened it), issue_template (nothing was filled in), then comments of
    programs go with those that only summoned them, and text of e-mail replies; issue_short, then
    long messages are cut; issue_conversation.
    """
    events = json.loads(raw)["events"]
    thread = _thread(events)
    if thread is None:
        return _dropped("issue_no_text", f"none of {len(events):,} events holds a title")
    opening = thread.messages[0]
    if is_bot(opening.user):
        return _dropped("issue_bot", f"opened by {opening.user}")
    if unfilled(opening.text.replace("\r\n", "\n")):
        return _dropped("issue_template", f"{len(opening.text):,} characters of a template")
    messages = [opening, *_people(thread.messages[1:])]
    messages = [replace(one, text=clean(one.text)) for one in messages]
    messages = [messages[0], *(one for one in messages[1:] if one.text or one.action)]
    size = _size(thread.title, messages)
    if size < limits.fewest_characters:
        return _dropped("issue_short", f"{size:,} characters")
    first = limits.most_lines - limits.last_lines
    messages = [
        replace(one, text=cut_lines(one.text, first, limits.last_lines)) for one in messages
    ]
    verdict = _conversation(thread.title, messages, limits)
    return verdict or Document(ISSUE, "", _layout(thread.title, messages))


def _dropped(rule: str, reason: str) -> Document:
    return Document(ISSUE, "", (), Verdict(False, rule, reason))


def _thread(events: list[dict[str, Any]]) -> Thread | None:
    """The issue as first seen and what followed; None where no event holds its title.

    A comment that was edited stays as it was first; one that was deleted is left out.
    """
    opened = next((e["issue"] for e in events if e.get("issue", {}).get("title")), None)
    if opened is None:
        return None
    messages = [Message(opened.get("user", ""), opened.get("body", ""))]
    deleted = {e["comment"].get("id") for e in events if _deletes(e)}
    seen: set[int | None] = set()
    for event in events:
        action, comment = event.get("action"), event.get("comment")
        if comment is not None:
            identifier = comment.get("id")
            if identifier in deleted or (identifier is not None and identifier in seen):
                continue
            seen.add(identifier)
            author = comment.get("user", event["actor"])
            messages.append(Message(author, comment.get("body", "")))
        elif action in (CLOSED, REOPENED):
            messages.append(Message(event["actor"], "", action))
    return Thread(opened["title"], tuple(messages))


def _deletes(event: dict[str, Any]) -> bool:
    return event.get("action") == "deleted" and "comment" in event


def _people(messages: tuple[Message, ...]) -> list[Message]:
    """Without programs' comments; a program may still close an issue."""
    comments = [one for one in messages if not one.action]
    kept = without_bots(comments, lambda one: one.user, lambda one: one.text)
    held = {id(one) for one in kept}
    return [one for one in messages if one.action or id(one) in held]


def _size(title: str, messages: list[Message]) -> int:
    return len(title) + sum(len(one.text) for one in messages)


def _conversation(title: str, messages: list[Message], limits: IssueLimits) -> Document | None:
    users = {one.user.lower() for one in messages if not one.action}
    size, events = _size(title, messages), len(messages)
    if len(users) >= limits.fewest_users:
        return None
    if size < limits.lone_characters and events <= limits.lone_events:
        return None
    reason = f"{len(users)} user, {size:,} characters, {events:,} events"
    return _dropped("issue_conversation", reason)


def _layout(title: str, messages: list[Message]) -> tuple[Piece, ...]:
    people = Participants(one.user for one in messages if not one.action)
    pieces: list[Piece] = []
    for number, message in enumerate(messages):
        if message.action == CLOSED:
            pieces.append(("<issue_closed>", ""))
        elif not message.action:
            said = f"{people.name(message.user)}: {people.hide(message.text)}"
            if number:
                pieces.append(("<issue_comment>", said))
            else:
                pieces.append(("<issue_start>", f"Title: {people.hide(title)}\n{said}"))
    return tuple(pieces)
