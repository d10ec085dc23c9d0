"""A pull request as its events tell it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cairn.curate.bots import is_bot

COMMENT, REVIEW, REVIEW_COMMENT = "comment", "review", "review_comment"
STATUS, HEAD = "status", "head"
STATES = {  # GitHub's words and the layout's
    "approved": "approved",
    "changes_requested": "changes_required",
    "commented": "commented",
    "dismissed": "rejected",
}
Plain = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing that happened: of `kind` COMMENT, REVIEW, REVIEW_COMMENT, STATUS or HEAD.

    state: a review's, or `closed` or `reopened`. commit: the new head. The rest as GitHub has it.
    """

    kind: str
    user: str = ""
    text: str = ""
    event_id: int | None = None
    state: str = ""
    merged: bool = False
    commit: str = ""
    path: str | None = None
    line: int | None = None
    hunk: str | None = None
    review: int | None = None
    reply: int | None = None


@dataclass(frozen=True, kw_only=True)
class Pull:
    """A pull request: what opened it, the bases and the first head that were seen, what followed.

    The opening is that of the first event that holds the title, whose own event may be in an hour
    that was not read.
    """

    repository: str
    number: int
    in_repository: int
    title: str
    description: str
    user: str
    bases: tuple[str, ...]
    head: str
    merged: bool
    items: tuple[Item, ...]
    trees: Plain | None

    @property
    def key(self) -> str:
        """What all draws for this pull request depend on."""
        return f"{self.repository}#{self.number}"

    @property
    def approved(self) -> bool:
        """Whether a review approved it."""
        return any(item.kind == REVIEW and item.state == "approved" for item in self.items)


def parse(thread: Plain) -> Pull | None:
    """The pull request of a thread's JSON; None where no event holds its title."""
    events: list[Plain] = thread["events"]
    pulls = [event["pull_request"] for event in events if "pull_request" in event]
    held = [*pulls, *(event["issue"] for event in events if "issue" in event)]
    opened = next((one for one in held if one.get("title")), None)
    if opened is None:
        return None
    heads = [pull["head"] for pull in pulls if "head" in pull]
    head = heads[0] if heads else ""
    return Pull(
        repository=thread["repository"],
        number=thread["number"],
        in_repository=thread.get("pull_requests_in_repository", 1),
        title=opened["title"],
        description=opened.get("body", ""),
        user=opened.get("user", ""),
        bases=tuple(dict.fromkeys(pull["base"] for pull in pulls if "base" in pull)),
        head=head,
        merged=any(pull.get("merged") for pull in pulls),
        items=tuple(_items(events, head)),
        trees=thread.get("trees"),
    )


def _items(events: Sequence[Plain], head: str) -> list[Item]:
    """What followed the opening; a new head before the event that first shows it."""
    items: list[Item] = []
    seen: set[tuple[str, int]] = set()
    deleted = {
        (event["type"], event["comment"].get("id"))
        for event in events
        if event.get("action") == "deleted" and "comment" in event
    }
    for event in events:
        commit = event.get("pull_request", {}).get("head", head)
        if commit != head:
            head = commit
            items.append(Item(kind=HEAD, commit=head))
        item = _item(event)
        if item is None or (event["type"], item.event_id) in deleted:
            continue
        if item.kind != STATUS and item.event_id is not None:
            if (item.kind, item.event_id) in seen:
                continue  # an edit: it stays as it was first
            seen.add((item.kind, item.event_id))
        items.append(item)
    return items


def _item(event: Plain) -> Item | None:
    kind, action, actor = event["type"], event.get("action"), event["actor"]
    if kind == "PullRequestEvent":
        if action == "merged":
            return Item(kind=STATUS, user=actor, state="closed", merged=True)
        if action not in ("closed", "reopened"):
            return None
        merged = action == "closed" and bool(event.get("pull_request", {}).get("merged"))
        return Item(kind=STATUS, user=actor, state=action, merged=merged)
    if kind == "PullRequestReviewEvent":
        review = event.get("review", {})
        state = STATES.get(str(review.get("state", "")).lower(), "")
        if not state:
            return None  # pending: nobody but its author sees it
        return Item(
            kind=REVIEW,
            user=review.get("user", actor),
            text=review.get("body", ""),
            event_id=review.get("id"),
            state=state,
        )
    comment = event.get("comment")
    if comment is None:
        return None
    user, text = comment.get("user", actor), comment.get("body", "")
    if kind == "IssueCommentEvent":
        return Item(kind=COMMENT, user=user, text=text, event_id=comment.get("id"))
    return Item(
        kind=REVIEW_COMMENT,
        user=user,
        text=text,
        event_id=comment.get("id"),
        path=comment.get("path"),
        line=comment.get("line"),
        hunk=comment.get("diff_hunk"),
        review=comment.get("review_id"),
        reply=comment.get("in_reply_to_id"),
    )


def only_bots(items: Sequence[Item]) -> int:
    """How many comments there are where all are by programs; 0 where a person made one, or none."""
    said = [item for item in items if item.kind in (COMMENT, REVIEW, REVIEW_COMMENT)]
    return len(said) if said and all(is_bot(item.user) for item in said) else 0
