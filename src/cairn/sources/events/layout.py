"""GH Archive's events: the layouts before and since 2015 as one.

Before 2015 an event names its repository in `repository`, its actor by a plain string and its time
with an offset, and those of issues and their comments hold numbers but no text. Since then the
repository is `repo`, the actor an object, times are in UTC, and each event has a number.
"""

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

Plain = dict[str, Any]

ISSUE_TYPES = frozenset({"IssuesEvent", "IssueCommentEvent"})
PULL_TYPES = frozenset(
    {"PullRequestEvent", "PullRequestReviewEvent", "PullRequestReviewCommentEvent"}
)
THREAD_TYPES = ISSUE_TYPES | PULL_TYPES
COUNTED_TYPES = frozenset({"WatchEvent", "ForkEvent"})
TYPES = THREAD_TYPES | COUNTED_TYPES

NAME = re.compile(r"[A-Za-z0-9._-]{1,100}/[A-Za-z0-9._-]{1,100}")
_THREAD = re.compile(r"/(issues|pull|pulls)/([0-9]{1,15})(?:[#/?]|$)")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LARGEST = 2**62  # numbers stay within 64 bits, whatever a line says


@dataclass(frozen=True, kw_only=True)
class Event:
    """One event.

    key: what tells it from all others: its number, or before 2015 the hash of its line.
    event_id: its number, 0 before 2015. repo_name: owner/name. created_at: ISO 8601 in UTC.
    payload: for threads what `thread_payload` says, empty for others.
    told: objects of repositories as the archive has them, in PullRequestEvent and ForkEvent.
    number: of the issue or pull request, None for others; pull: whether it shows the number to be
    a pull request's.
    """

    type: str
    key: str
    event_id: int
    repo_name: str
    repo_id: int | None
    actor: str
    created_at: str
    payload: Plain
    told: tuple[Plain, ...] = ()
    number: int | None = None
    pull: bool = False


def normalise(raw: Any, line: bytes) -> Event | None:
    """The event of one line, given parsed and as it stands; None for one that is of no use here.

    ValueError for one that lacks what all events of its type have.
    """
    if not isinstance(raw, dict) or not isinstance(raw.get("type"), str):
        raise ValueError("no event")
    kind = raw["type"]
    if kind not in TYPES:
        return None
    old = isinstance(raw.get("repository"), dict)
    repo = raw["repository"] if old else _object(raw, "repo")
    if not repo:
        return None  # the early archive holds events whose repository was gone
    name = _old_name(kind, raw, repo) if old else repo.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError("no repository's name")
    event_id = int(raw["id"]) if str(raw.get("id", "")).isdecimal() else 0
    payload = _object(raw, "payload")
    number, pull, kept = None, False, {}
    if kind in THREAD_TYPES:
        number, pull = _number(kind, raw, payload)
        kept = thread_payload(kind, payload)
    return Event(
        type=kind,
        key=str(event_id) if 0 < event_id < _LARGEST else hashlib.sha1(line).hexdigest(),
        event_id=event_id if event_id < _LARGEST else 0,
        repo_name=name,
        repo_id=integer_of(repo, "id"),
        actor=_actor(raw.get("actor")),
        created_at=utc(raw.get("created_at")),
        payload=kept,
        told=_told(kind, payload, {**repo, "full_name": name} if old else {}),
        number=number,
        pull=pull,
    )


def utc(text: Any) -> str:
    """A time as ISO 8601 in UTC; ValueError for anything else. Offsets may be `Z` or -08:00."""
    if not isinstance(text, str):
        raise ValueError("no time")
    if len(text) > 5 and text[-5] in "+-" and " " in text:  # 2011: 2012/03/10 22:00:14 -0800
        text = text.replace("/", "-").replace(" ", "T", 1).replace(" ", "")
    time = datetime.fromisoformat(text)
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC).isoformat()


def text_of(value: Any) -> str | None:
    """A string without halves of surrogate pairs, which are no Unicode; None for no string."""
    if not isinstance(value, str):
        return None
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value


def licence_of(repository: Plain) -> str | None:
    """The SPDX licence (or NOASSERTION) that the object of a repository tells; None for none."""
    return text_of(_object(repository, "license").get("spdx_id"))


def thread_payload(kind: str, payload: Plain) -> Plain:
    """What a thread keeps of an event's payload: fields that are absent are left out.

    action, and of the objects: issue (id, title, body, user, state), pull_request (the same, and
    merged, base, head: commits, head_repository), comment (id, body, user, path, diff_hunk, line,
    commit_id, in_reply_to_id, review_id), review (id, body, user, state, commit_id). A user is a
    login.
    """
    kept: Plain = {"action": text_of(payload.get("action"))}
    issue, pull = payload.get("issue"), _object(payload, "pull_request")
    if isinstance(issue, dict):
        kept["issue"] = _post(issue)
    elif isinstance(issue, int) or isinstance(payload.get("issue_id"), int):
        kept["issue"] = _without({"id": integer_of(payload, "issue", "issue_id")})
    if pull:
        kept["pull_request"] = _pull(pull, kept["action"])
    comment = _object(payload, "comment")
    if comment:
        kept["comment"] = _comment(comment)
    elif kind == "IssueCommentEvent":
        kept["comment"] = _without({"id": integer_of(payload, "comment_id")})
    review = _object(payload, "review")
    if review:
        commit = _commit(review.get("commit_id"))
        kept["review"] = _without({**_post(review), "commit_id": commit})
    return _without(kept)


def _number(kind: str, raw: Plain, payload: Plain) -> tuple[int, bool]:
    """The number of an event's thread, and whether the event shows it to be a pull request."""
    issue, pull = _object(payload, "issue"), _object(payload, "pull_request")
    number = (
        integer_of(payload, "number") or integer_of(issue, "number") or integer_of(pull, "number")
    )
    is_pull = kind in PULL_TYPES or isinstance(issue.get("pull_request"), dict)
    comment = _object(payload, "comment")
    for url in (raw.get("url"), comment.get("html_url"), comment.get("pull_request_url")):
        found = _THREAD.search(url[:2000]) if isinstance(url, str) else None
        if found:
            number = number or int(found[2])
            is_pull = is_pull or found[1] != "issues"
    if not number or number < 0:
        raise ValueError("no number of an issue or pull request")
    return number, is_pull


def _old_name(kind: str, raw: Plain, repository: Plain) -> str:
    """owner/name before 2015. Where the archive lost the owner the page of the event has it."""
    owner, name = repository.get("owner"), repository.get("name")
    page = raw.get("url")
    if not owner and kind != "ForkEvent" and isinstance(page, str):  # a fork's page is the fork's
        parts = page[:2000].removeprefix("https://github.com/").split("/")
        owner = parts[0] if len(parts) > 1 and parts[1] == name else None
    return f"{owner}/{name}" if owner else ""


def _told(kind: str, payload: Plain, repository: Plain) -> tuple[Plain, ...]:
    """What the event says of repositories; `repository` is the event's own before 2015."""
    if kind == "PullRequestEvent":
        found = (_object(_object(_object(payload, "pull_request"), "base"), "repo"),)
    elif kind == "ForkEvent":
        forkee = _object(payload, "forkee")
        found = (forkee, _object(forkee, "parent"), repository)
    else:
        return ()
    return tuple(one for one in found if one)


def _post(raw: Plain) -> Plain:
    return _without(
        {
            "id": integer_of(raw, "id"),
            "title": text_of(raw.get("title")),
            "body": text_of(raw.get("body")),
            "user": _actor(raw.get("user")) or None,
            "state": text_of(raw.get("state")),
        }
    )


def _pull(raw: Plain, action: str | None) -> Plain:
    base, head = _object(raw, "base"), _object(raw, "head")
    name = _object(head, "repo").get("full_name")
    merged = raw.get("merged") is True or bool(raw.get("merged_at")) or action == "merged"
    return _without(
        {
            **_post(raw),
            "merged": merged,
            "base": _commit(base.get("sha")),
            "head": _commit(head.get("sha")),
            "head_repository": name if isinstance(name, str) and NAME.fullmatch(name) else None,
        }
    )


def _comment(raw: Plain) -> Plain:
    return _without(
        {
            **_post(raw),
            "path": text_of(raw.get("path")),
            "diff_hunk": text_of(raw.get("diff_hunk")),
            "line": integer_of(raw, "line", "original_line", "position", "original_position"),
            "commit_id": _commit(raw.get("original_commit_id")) or _commit(raw.get("commit_id")),
            "in_reply_to_id": integer_of(raw, "in_reply_to_id"),
            "review_id": integer_of(raw, "pull_request_review_id"),
        }
    )


def _without(fields: Plain) -> Plain:
    return {key: value for key, value in fields.items() if value is not None}


def _object(raw: Plain, name: str) -> Plain:
    found = raw.get(name)
    return found if isinstance(found, dict) else {}


def integer_of(raw: Plain, *names: str) -> int | None:
    """The first of the fields that is a whole number."""
    found = (raw.get(name) for name in names)
    whole = (n for n in found if isinstance(n, int) and not isinstance(n, bool))
    return next((number for number in whole if abs(number) < _LARGEST), None)


def _commit(value: Any) -> str | None:
    return value if isinstance(value, str) and _COMMIT.fullmatch(value) else None


def _actor(value: Any) -> str:
    login = value.get("login") if isinstance(value, dict) else value
    return text_of(login) or ""
