"""GH Archive's hours in the making: events, files of them, and the threads that are read."""

import gzip
import json
from pathlib import Path
from typing import Any

from cairn.sources.events import OPTIONS, read
from cairn.sources.record import SourceFile
from cairn.sources.spec import parse

Plain = dict[str, Any]
A, B = "a" * 40, "b" * 40


def event(kind: str, number: int, payload: Plain, *, at: str = "10", **other: Any) -> Plain:
    """An event in the layout since 2015."""
    return {
        "id": str(number),
        "type": kind,
        "actor": {"login": "ann"},
        "repo": {"id": 7, "name": "o/r"},
        "created_at": f"2020-01-01T00:00:{at}Z",
        "payload": payload,
        **other,
    }


def issue(number: int = 3, **fields: Any) -> Plain:
    return {"number": number, "title": "It fails", "body": "B", "user": {"login": "ann"}, **fields}


def comment(event_id: int, number: int = 3, at: str = "20", **fields: Any) -> Plain:
    said = {"id": event_id * 10, "body": "said", "user": {"login": "bob"}, **fields}
    payload = {"action": "created", "issue": issue(number), "comment": said}
    return event("IssueCommentEvent", event_id, payload, at=at)


def pull(number: int = 5, base: str = A, head: str = B, **fields: Any) -> Plain:
    return {
        "number": number,
        "title": "Mend it",
        "body": "Because",
        "user": {"login": "ann"},
        "base": {"sha": base, "repo": {"id": 7, "full_name": "o/r"}},
        "head": {"sha": head, "repo": {"full_name": "ann/r"}},
        **fields,
    }


def write(path: Path, events: list[Plain], *more: bytes) -> Path:
    lines = [json.dumps(one).encode() for one in events] + list(more)
    path.write_bytes(gzip.compress(b"\n".join(lines) + b"\n"))
    return path


def records(path: Path, options: str = "", **limits: int) -> list[SourceFile]:
    return list(read(parse(f"gharchive:{path}{options}", {"gharchive": OPTIONS}), **limits))


def thread(record: SourceFile) -> Plain:
    assert record.raw is not None
    return json.loads(record.raw)


OLD = {
    "actor": "ann",
    "created_at": "2013-02-15T00:00:34-08:00",
    "payload": {"action": "closed", "issue": 1105, "number": 28},
    "repository": {"id": 7, "owner": "o", "name": "r"},
    "type": "IssuesEvent",
    "url": "https://github.com/o/r/issues/28",
}
