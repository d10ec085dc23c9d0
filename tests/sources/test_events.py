"""GH Archive's hours: both layouts, damage, threads, and metadata of repositories."""

import gzip
import json
import subprocess
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cairn.base import UserError
from cairn.sources.events import OPTIONS, find_hours, read, repository_metadata
from cairn.sources.events import hours as hours_module
from cairn.sources.events.hours import Hour, read_hours
from cairn.sources.events.layout import normalise, utc
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


def test_damaged_lines_and_cut_streams_are_counted(tmp_path: Path):
    good = [event("WatchEvent", n, {}) for n in range(1, 2001)]
    path = write(tmp_path / "h.json.gz", good[:1], b"{cut", b"[" * 5000, b"\xff\xfe", b"  ", b"4")
    hour = Hour(path)
    assert len(list(read_hours([hour]))) == 1
    assert (hour.lines, hour.damaged, hour.first_damaged) == (5, 4, 2)
    assert hour.complaint() == "4 of 5 lines are no events (the first is line 2)"
    whole = write(tmp_path / "w.json.gz", good).read_bytes()
    (tmp_path / "cut.json.gz").write_bytes(whole[: len(whole) - 20])
    cut = Hour(tmp_path / "cut.json.gz")
    assert 1900 < len(list(read_hours([cut]))) <= 2000
    assert cut.problem == "the gzip stream is cut short"
    (tmp_path / "bad.json.gz").write_bytes(whole + b"no gzip")
    bad = Hour(tmp_path / "bad.json.gz")
    assert len(list(read_hours([bad]))) == 2000
    assert "corrupt" in bad.complaint()


def test_members_padding_and_plain_files(tmp_path: Path):
    one, two = (json.dumps(event("WatchEvent", n, {})).encode() + b"\n" for n in (1, 2))
    packed = gzip.compress(one) + gzip.compress(two) + b"\0" * 100
    (tmp_path / "a.json.gz").write_bytes(packed)
    (tmp_path / "b.json").write_bytes(one + two.strip())
    found = [Hour(path) for path in find_hours(tmp_path)]
    assert [one.key for one in read_hours(found)] == ["1", "2", "1", "2"]
    assert not any(hour.complaint() for hour in found)


def test_a_line_without_end_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hours_module, "LONGEST_LINE", 1000)
    monkeypatch.setattr(hours_module, "CHUNK", 64)
    last = json.dumps(event("WatchEvent", 1, {})).encode()
    hour = Hour(write(tmp_path / "h.json.gz", [], b'"' + b"x" * 5000 + b'"', last))
    assert [one.key for one in read_hours([hour])] == ["1"]
    assert hour.damaged == 1


def test_threads_over_hours(tmp_path: Path):
    opened = event("IssuesEvent", 9, {"action": "opened", "issue": issue()}, at="20")
    closed = event("IssuesEvent", 4, {"action": "closed", "issue": issue()}, at="20")
    pulled = comment(6, 9)
    pulled["payload"]["issue"]["pull_request"] = {"url": "x"}
    plain = comment(8, 9, at="30")  # says nothing of a pull request, but its number is one's
    merged = {"action": "closed", "pull_request": pull(5, merged=True)}
    write(tmp_path / "2.json.gz", [closed, comment(3, at="20"), plain, opened])
    write(tmp_path / "1.json.gz", [comment(2, 12), pulled, event("PullRequestEvent", 7, merged)])
    write(tmp_path / "3.json.gz", [comment(3, at="20"), closed])  # again
    found = records(tmp_path)
    assert [(one.kind, one.path) for one in found] == [
        ("issue", "issues/3"),
        ("pull_request", "pull/5"),
        ("pull_request", "pull/9"),
        ("issue", "issues/12"),
    ]
    first = found[0]
    assert first.origin.origin_url == "https://github.com/o/r"
    assert (first.origin.repo_name, first.origin.github_id) == ("o/r", 7)
    assert first.origin.directory_id == ""
    told = thread(first)
    assert [(e["type"], e.get("action")) for e in told["events"]] == [
        ("IssuesEvent", "opened"),
        ("IssueCommentEvent", "created"),
        ("IssuesEvent", "closed"),
    ]
    assert [thread(one).get("pull_requests_in_repository") for one in found] == [None, 2, 2, None]
    assert thread(found[1])["events"][0]["pull_request"]["merged"] is True
    assert len(thread(found[2])["events"]) == 2
    assert (
        first.raw
        == json.dumps(told, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    )
    git = subprocess.run(
        ["git", "hash-object", "--stdin"], input=first.raw, capture_output=True, check=True
    )
    assert first.content_id == git.stdout.decode().strip()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for old, new in (("1", "z"), ("2", "a"), ("3", "m")):
        (elsewhere / f"{new}.json.gz").write_bytes((tmp_path / f"{old}.json.gz").read_bytes())
    assert records(elsewhere) == found


def test_a_renamed_repository_is_one(tmp_path: Path):
    before = comment(9, at="10")
    after = {**comment(2, at="20"), "repo": {"id": 7, "name": "new/name"}}
    other = {**comment(3, at="30"), "repo": {"id": 8, "name": "o/r"}}
    found = records(write(tmp_path / "h.json.gz", [before, after, other]))
    assert [one.origin.repo_name for one in found] == ["new/name", "o/r"]
    assert len(thread(found[0])["events"]) == 2


def test_damaged_hours_come_first_and_halves_of_characters_are_mended(tmp_path: Path):
    odd = comment(1, body="a\ud800b \x00 \U0001f600")
    found = records(write(tmp_path / "h.json.gz", [odd], b"{"))
    assert found[0].problem == "h.json.gz: 1 of 2 lines are no events (the first is line 2)"
    assert (found[0].path, found[0].raw) == ("h.json.gz", None)
    assert thread(found[1])["events"][0]["comment"]["body"] == "a\ufffdb \x00 \U0001f600"


def test_a_thread_past_the_limit_has_no_bytes(tmp_path: Path):
    path = write(tmp_path / "h.json.gz", [comment(n, body="x" * 1000) for n in range(1, 20)])
    (large,) = records(path, max_bytes=5000)
    assert large.raw is None
    assert large.length_bytes > 19_000
    (small,) = records(path)
    assert small.raw is not None
    assert small.length_bytes == len(small.raw)


def test_mistakes_are_told_before_anything_is_read(tmp_path: Path):
    with pytest.raises(UserError, match="does not exist"):
        read(parse(f"gharchive:{tmp_path}/none", {"gharchive": OPTIONS}))
    with pytest.raises(UserError, match=r"holds no \*\.json\.gz"):
        read(parse(f"gharchive:{tmp_path}", {"gharchive": OPTIONS}))
    path = write(tmp_path / "h.json.gz", [])
    with pytest.raises(UserError, match="trees="):
        read(parse(f"gharchive:{path}?trees={tmp_path}/none", {"gharchive": OPTIONS}))


def rows(path: Path) -> dict[str, Plain]:
    return {row["repo_name"]: row for row in pq.read_table(path).to_pylist()}


def told(name: str, branch: str, spdx: str | None, identifier: int = 7) -> Plain:
    licence = None if spdx is None else {"key": spdx.lower(), "spdx_id": spdx}
    return {
        "id": identifier,
        "full_name": name,
        "default_branch": branch,
        "license": licence,
        "language": "C",
        "created_at": "2012-11-22T09:15:31Z",
    }


def base_of(repository: Plain) -> Plain:
    return {**pull(), "base": {"sha": A, "repo": repository}}


def test_pull_requests_have_the_licence_that_their_repository_tells_last(tmp_path: Path):
    """The report drops those of repositories that are not permissive; of issues it asks nothing."""

    def pulled(event_id: int, number: int, spdx: str | None, at: str) -> Plain:
        payload = {"action": "opened", "pull_request": base_of(told("o/r", "main", spdx))}
        payload["pull_request"]["number"] = number
        return event("PullRequestEvent", event_id, payload, at=at)

    hour = [pulled(1, 5, "MIT", "10"), pulled(2, 6, "GPL-3.0", "30"), comment(3, 3)]
    found = records(write(tmp_path / "1.json.gz", hour))
    assert [(one.path, one.origin.gha_license_id) for one in found] == [
        ("issues/3", None),
        ("pull/5", "GPL-3.0"),
        ("pull/6", "GPL-3.0"),
    ]
    assert b"licen" not in (found[1].raw or b"")
    hour.append(pulled(4, 7, None, "40"))
    found = records(write(tmp_path / "1.json.gz", hour))
    assert {one.origin.gha_license_id for one in found} == {None}


def test_metadata(tmp_path: Path):
    early = base_of(told("o/r", "old", "MIT"))
    late = base_of(told("o/r", "main", "Apache-2.0"))
    fork = {"forkee": told("ann/r", "main", None, 99)}
    one = [
        event("PullRequestEvent", 3, {"action": "closed", "pull_request": late}, at="30"),
        event("WatchEvent", 4, {"action": "started"}),
        event("WatchEvent", 5, {"action": "started"}),
        event("ForkEvent", 6, fork),
    ]
    two = [
        event("PullRequestEvent", 2, {"action": "opened", "pull_request": early}, at="29"),
        event("WatchEvent", 5, {"action": "started"}),  # again
        {
            **OLD,
            "type": "ForkEvent",
            "payload": {},
            "repository": {
                **{"id": 11, "owner": "p", "name": "q", "language": "Java"},
                **{"created_at": "2011-12-08T14:11:05-08:00", "master_branch": "trunk"},
            },
        },
    ]
    write(tmp_path / "a.json.gz", one, b"{")
    write(tmp_path / "b.json.gz", two)
    made = repository_metadata(find_hours(tmp_path), tmp_path / "out" / "meta.parquet")
    assert made.repositories == 3
    assert [hour.damaged for hour in made.hours] == [1, 0]
    assert [one.name for one in (tmp_path / "out").iterdir()] == ["meta.parquet"]
    found = rows(tmp_path / "out" / "meta.parquet")
    assert list(found) == ["ann/r", "o/r", "p/q"]
    assert found["o/r"] == {
        "repo_name": "o/r",
        "origin_url": "https://github.com/o/r",
        "github_id": 7,
        "default_branch": "main",
        "gha_license_id": "Apache-2.0",
        "gha_language": "C",
        "gha_created_at": "2012-11-22T09:15:31+00:00",
        "gha_event_created_at": "2020-01-01T00:00:30+00:00",
        "star_events_count": 2,
        "fork_events_count": 1,
    }
    assert (found["ann/r"]["github_id"], found["ann/r"]["gha_license_id"]) == (99, None)
    assert found["p/q"]["default_branch"] == "trunk"
    assert found["p/q"]["gha_created_at"] == "2011-12-08T22:11:05+00:00"
    assert found["p/q"]["fork_events_count"] == 1
    again = [tmp_path / "b.json.gz", tmp_path / "a.json.gz"]
    repository_metadata(again, tmp_path / "again.parquet")
    first = (tmp_path / "out" / "meta.parquet").read_bytes()
    assert (tmp_path / "again.parquet").read_bytes() == first


def test_metadata_of_one_second_is_the_later_event_s(tmp_path: Path):
    events = [
        event("PullRequestEvent", n, {"pull_request": base_of(told("o/r", branch, None))})
        for n, branch in ((9, "nine"), (10, "ten"))
    ]
    for order in (events, events[::-1]):
        write(tmp_path / "h.json.gz", order)
        repository_metadata([tmp_path / "h.json.gz"], tmp_path / "meta.parquet")
        assert rows(tmp_path / "meta.parquet")["o/r"]["default_branch"] == "ten"


def test_hours_of_2013_and_2014(data_folder: Path, tmp_path: Path):
    folder = data_folder / "gharchive" / "hours"
    damaged, *found = records(folder)
    assert damaged.problem is not None
    assert "2 of 6,851 lines" in damaged.problem  # forks of repositories whose owner it lost
    assert sum(one.kind == "issue" for one in found) == 1361
    assert sum(one.kind == "pull_request" for one in found) == 511
    assert all(one.problem is None and one.raw for one in found)
    made = repository_metadata(find_hours(folder), tmp_path / "meta.parquet")
    table = pq.read_table(tmp_path / "meta.parquet").to_pydict()
    assert made.repositories == len(table["repo_name"]) == 1845
    assert sum(table["star_events_count"]) == 577 + 817
    assert sum(table["fork_events_count"]) == 276 + 266 - 2


@pytest.mark.parametrize("year", ["2013", "2014", "2015", "2016"])
def test_one_event_of_each_type(data_folder: Path, tmp_path: Path, year: str):
    files = sorted((data_folder / "gharchive" / "fixtures" / year).glob("*_raw.json"))
    events = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    found = records(write(tmp_path / "h.json.gz", events))
    types = [e["type"] for one in found for e in thread(one)["events"]]
    assert sorted(types) == sorted(
        ["IssueCommentEvent", "IssuesEvent", "PullRequestEvent", "PullRequestReviewCommentEvent"]
    )
    bodies = [
        e["issue"]["body"]
        for one in found
        for e in thread(one)["events"]
        if "issue" in e and "body" in e["issue"]
    ]
    assert len(bodies) == (2 if year >= "2015" else 0)
