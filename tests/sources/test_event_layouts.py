"""Events of GH Archive in both layouts, and those that are refused."""

from typing import Any

import pytest

from cairn.sources.events.layout import normalise, utc

from .fixtures.event_hours import OLD, Plain, event, issue


def test_old_layout():
    found = normalise(OLD, b"line")
    assert found is not None
    assert (found.repo_name, found.repo_id, found.actor) == ("o/r", 7, "ann")
    assert (found.number, found.pull, found.event_id) == (28, False, 0)
    assert found.created_at == "2013-02-15T08:00:34+00:00"
    assert found.payload == {"action": "closed", "issue": {"id": 1105}}
    other = normalise(OLD, b"another line")
    assert other is not None
    assert other.key != found.key


@pytest.mark.parametrize(("page", "is_pull"), [("issues", False), ("pull", True)])
def test_old_comment_belongs_by_its_page(page: str, is_pull: bool):
    url = f"https://github.com/o/r/{page}/22#issuecomment-35149940"
    payload = {"issue_id": 1, "comment_id": 35149940}
    found = normalise({**OLD, "type": "IssueCommentEvent", "payload": payload, "url": url}, b"")
    assert found is not None
    assert (found.number, found.pull) == (22, is_pull)
    assert found.payload == {"issue": {"id": 1}, "comment": {"id": 35149940}}


def test_lost_owner_is_found_in_the_page():
    lost = {**OLD, "repository": {"id": 7, "name": "r", "url": "https://github.com//r"}}
    found = normalise(lost, b"")
    assert found is not None
    assert found.repo_name == "o/r"
    for strange in ({"type": "ForkEvent"}, {"url": "https://github.com/o/other/issues/28"}):
        with pytest.raises(ValueError, match="name"):
            normalise({**lost, **strange}, b"")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2015-02-15T00:00:21Z", "2015-02-15T00:00:21+00:00"),
        ("2013-02-15T00:00:34-08:00", "2013-02-15T08:00:34+00:00"),
        ("2012/03/10 22:00:14 -0800", "2012-03-11T06:00:14+00:00"),
    ],
)
def test_times(text: str, expected: str):
    assert utc(text) == expected


@pytest.mark.parametrize("text", [None, 3, "", "yesterday", "2015-13-01T00:00:00Z"])
def test_no_times(text: Any):
    with pytest.raises(ValueError, match=r"."):
        utc(text)


@pytest.mark.parametrize(
    "change",
    [
        {"type": 3},
        {"repo": {"id": 7}},
        {"repo": {"id": 7, "name": "no slash"}},
        {"created_at": "x"},
        {"payload": None},
        {"payload": {"issue": {"title": "no number"}}},
        {"payload": {"issue": {"number": -4}}},
        {"payload": {"issue": {"number": True}}},
        {"payload": {"issue": {"number": 2**70}}},
    ],
)
def test_damaged_events_are_refused(change: Plain):
    with pytest.raises(ValueError, match=r"."):
        normalise({**event("IssuesEvent", 1, {"issue": issue()}), **change}, b"")


def test_other_events_are_passed_over():
    assert normalise(event("PushEvent", 1, {}), b"") is None
    assert normalise({"type": "GistEvent", "actor": "ann"}, b"") is None
