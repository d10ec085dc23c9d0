"""GH Archive's hours: damaged ones, and the threads that they hold."""

import gzip
import json
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cairn.base import UserError
from cairn.sources.events import OPTIONS, find_hours, read, repository_metadata
from cairn.sources.events import hours as hours_module
from cairn.sources.events.hours import Hour, read_hours
from cairn.sources.spec import parse

from .fixtures.event_hours import comment, event, issue, pull, records, thread, write


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
