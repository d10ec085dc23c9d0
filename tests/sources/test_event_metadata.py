"""What GH Archive's hours tell of repositories: metadata, and the licence of pull requests."""

from pathlib import Path

import pyarrow.parquet as pq

from cairn.sources.events import find_hours, repository_metadata

from .fixtures.event_hours import OLD, A, Plain, comment, event, pull, records, write


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
