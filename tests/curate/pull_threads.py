"""Pull requests in the making: their events, their files, and the document made of both."""

import json
from typing import Any

from cairn.curate.pieces import Document
from cairn.curate.pulls import PullLimits, pull_request_document

Plain = dict[str, Any]
BASE, HEAD, NEXT = "a" * 40, "b" * 40, "c" * 40
ALL = PullLimits(thinning=False)  # keeps what the draw for repositories would drop


CODE = "".join(f"line = {number}\n" for number in range(100))
CHANGED = CODE.replace("line = 50\n", "line = fifty\n")


def trees(files: dict[str, tuple[str | None, ...]], heads: tuple[str, ...] = (HEAD,)) -> Plain:
    """What the reader says of files: the base's text and each head's; None where there is none."""
    blobs: dict[str, str] = {}
    told: list[Plain] = []
    for number, commit in enumerate(heads, 1):
        changed: list[list[str | None]] = []
        for path, texts in files.items():
            before, after = texts[0], texts[number]
            if before == after:
                continue
            ids = [None if text is None else f"{hash(text):x}" for text in (before, after)]
            changed.append([path, *ids])
            if before is not None and after is not None:
                blobs |= {str(ids[0]): before, str(ids[1]): after}
        told.append({"commit": commit, "files": changed})
    return {"base": BASE, "heads": told, "blobs": blobs}


def pull(**fields: Any) -> Plain:
    opening = {
        "title": "Mend the fifth ten",
        "body": "It was wrong, as all could see.",
        "user": "ann",
        "base": BASE,
        "head": HEAD,
    }
    return {**opening, **fields}


def opened(**fields: Any) -> Plain:
    actor = fields.get("user", "ann")
    return {
        **{"type": "PullRequestEvent", "action": "opened", "actor": actor},
        "pull_request": pull(**fields),
    }


def closed(merged: bool = True, **fields: Any) -> Plain:
    object_ = pull(merged=merged, **fields)
    return {
        **{"type": "PullRequestEvent", "action": "closed", "actor": "carol"},
        "pull_request": object_,
    }


def comment(user: str, text: str, identifier: int = 1) -> Plain:
    said = {"id": identifier, "body": text, "user": user}
    return {"type": "IssueCommentEvent", "action": "created", "actor": user, "comment": said}


def review(user: str, state: str, text: str = "", identifier: int = 2, **fields: Any) -> Plain:
    said = {"id": identifier, "body": text, "user": user, "state": state}
    return {
        **{"type": "PullRequestReviewEvent", "action": "created", "actor": user, "review": said},
        "pull_request": pull(**fields),
    }


def under(user: str, text: str, **fields: Any) -> Plain:
    said = {"id": 3, "body": text, "user": user, "path": "a.py", "line": 51, **fields}
    return {
        **{"type": "PullRequestReviewCommentEvent", "action": "created", "actor": user},
        "comment": said,
        "pull_request": pull(),
    }


FILES: dict[str, tuple[str | None, ...]] = {"a.py": (CODE, CHANGED)}


def thread(*events: Plain, files: Plain | None = None, number: int = 5, count: int = 1) -> bytes:
    told = {
        "repository": "o/r",
        "number": number,
        "pull_requests_in_repository": count,
        "events": list(events),
        "trees": trees(FILES) if files is None else files,
    }
    return json.dumps({key: value for key, value in told.items() if value != {}}).encode()


def made(*events: Plain, limits: PullLimits = ALL, seed: int = 0, **other: Any) -> Document:
    document = pull_request_document(thread(*events, **other), limits, seed)
    assert document.verdict.keep == bool(document.pieces)
    assert document.kind == "pull_request"
    return document


def rule(*events: Plain, **other: Any) -> str:
    return made(*events, **other).verdict.rule


EXACT = PullLimits(
    thinning=False, whole_file=1.0, fewest_context=3, most_context=3, fewest_characters=0
)
HUNK = (
    "@@ -48,7 +48,7 @@\n line = 47\n line = 48\n line = 49\n-line = 50\n+line = fifty\n"
    " line = 51\n line = 52\n line = 53"
)
OPENING = (
    ("<pr>", "Title: Mend the fifth ten\nusername_0: It was wrong, as all could see.\n"),
    ("<pr_status>", "opened\n"),
    ("<repo_name>", "o/r\n"),
    ("<pr_base>", "\n"),
    ("<pr_file>", "a.py"),
    ("<pr_base_code>", CODE + "\n"),
    ("<pr_diff>", "\n"),
    ("<pr_file>", "a.py"),
    ("<pr_diff_hunk>", HUNK + "\n"),
)
