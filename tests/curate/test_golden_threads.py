"""Issues and pull requests at both sides of each threshold, from events to the ledger."""

import gzip
import json
import random
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cairn.base.make import make
from cairn.curate import Curate, read_files, read_ledger
from cairn.curate.pieces import from_content
from cairn.curate.pulls import PullLimits
from cairn.curate.rendering import Limits

from ..fixtures.quiet_git import QUIET

Plain = dict[str, Any]
KEPT = "kept"


def prose(key: str, length: int) -> str:
    """Words of its own for each key, exactly so many characters."""
    rng = random.Random(key)
    words = " ".join("".join(rng.choices("abcdefghijklm", k=7)) for _ in range(length // 8 + 1))
    return words[: length - 1] + "q" if length else ""


@dataclass(frozen=True)
class Post:
    """A comment, or what else happens in a thread (`action`)."""

    user: str
    text: str = ""
    action: str = ""


@dataclass(frozen=True)
class Issue:
    """An issue as GitHub tells of it, and what becomes of it."""

    name: str
    title: str
    body: str
    posts: tuple[Post, ...]
    expected: str
    user: str = "ann"


def issues() -> Iterator[Issue]:
    bob = (Post("bob", "cc"),)
    yield Issue("short at", "t" * 10, prose("s0", 188), bob, KEPT)
    yield Issue("short under", "t" * 10, prose("s1", 187), bob, "issue_short")
    yield Issue("lone at", "t" * 10, prose("l0", 6_989), (), KEPT)
    yield Issue("lone over", "t" * 10, prose("l1", 6_990), (), "issue_conversation")
    yield Issue("two long", "t" * 10, prose("l2", 9_000), bob, KEPT)
    alone = tuple(Post("ANN", f"{prose(f'a{n}', 30)}") for n in range(9))
    yield Issue("ten events", "t" * 10, prose("e0", 300), alone, KEPT)
    close = (*alone, Post("ann", action="closed"))
    yield Issue("eleven events", "t" * 10, prose("e1", 300), close, "issue_conversation")
    yield Issue("by a bot", "t" * 10, prose("b0", 300), bob, "issue_bot", "dependabot[bot]")
    bots = (Post("codecov-ci", prose("b2", 300)), Post("jenkins7", prose("b3", 300)))
    yield Issue("bots only", "t" * 10, prose("b1", 6_990), bots, "issue_conversation")
    yield Issue("bots say it", "t" * 10, prose("b4", 180), (*bots, *bob), "issue_short")
    form = "## Steps\n\n## Expected\n\n- [ ] checked\n\n## Version\n\n"
    yield Issue("a template", prose("f0", 300), form, bob, "issue_template")
    yield Issue("a filled one", prose("f1", 300), form + "It fails.\n", bob, KEPT)
    mail = "I see.\n\nOn Mon, Jan 6, 2020 at 10:11 AM, Ann <a@corp-mail.io> wrote:\n> " + "x" * 40
    yield Issue("a mail", "t" * 10, prose("m0", 182), (Post("bob", mail),), "issue_short")
    yield Issue("a mail at", "t" * 10, prose("m1", 184), (Post("bob", mail),), KEPT)


def event(number: int, kind: str, user: str, repo: str, payload: Plain) -> Plain:
    return {
        **{"id": str(number), "type": kind, "actor": {"login": user}, "payload": payload},
        "repo": {"id": sum(map(ord, repo)), "name": repo},
        "created_at": f"2020-01-01T00:{number // 60 % 60:02d}:{number % 60:02d}Z",
    }


def issue_events(all_issues: list[Issue]) -> Iterator[Plain]:
    counter = iter(range(1, 10_000))
    for number, one in enumerate(all_issues, 1):
        told = {"number": number, "title": one.title, "body": one.body}
        told["user"] = {"login": one.user}
        payload = {"action": "opened", "issue": told}
        yield event(next(counter), "IssuesEvent", one.user, "o/r", payload)
        for post in one.posts:
            count = next(counter)
            if post.action:
                payload = {"action": post.action, "issue": told}
                yield event(count, "IssuesEvent", post.user, "o/r", payload)
                continue
            said = {"id": count, "body": post.text, "user": {"login": post.user}}
            payload = {"action": "created", "issue": told, "comment": said}
            yield event(count, "IssueCommentEvent", post.user, "o/r", payload)


@dataclass(frozen=True)
class Pull:
    """A pull request that changes one file of the repository, and what becomes of it."""

    name: str
    expected: str
    title: str = "Mend the fifth ten"
    body: str = "It was wrong, as all could see."
    user: str = "ann"
    repo: str = "o/r"
    merged: bool = True
    approved: bool = False
    base: str | None = None
    path: str = ""
    text: str | None = None
    comments: tuple[Post, ...] = ()
    licence: str | None = None


def pulls() -> Iterator[Pull]:
    yield Pull("title at", KEPT, title="T" * 10)
    yield Pull("title under", "pr_title", title="T" * 9)
    for word in ("Dependencies", "dependency", "Independent", "released"):
        yield Pull(f"title says {word}", "pr_title", title=f"All of it {word}")
    yield Pull("body at", KEPT, body="d" * 20)
    yield Pull("body under", "pr_description", body="d" * 19)
    yield Pull("body says", "pr_description", body="By Qwiet, so that all is well")
    yield Pull("by a bot", "pr_bot", user="renovate[bot]")
    spoken = (Post("coveralls", prose("c0", 30)),)
    yield Pull("bots only", "pr_bot_comments", comments=spoken)
    yield Pull("bots and people", KEPT, comments=(*spoken, Post("bob", prose("c1", 30))))
    yield Pull("not merged", "pr_not_merged", merged=False)
    yield Pull("approved", KEPT, merged=False, approved=True)
    yield Pull("base changed", "pr_base_changed", base="f" * 40)
    yield Pull("gpl", "licence", repo="o/gpl", licence="GPL-3.0")
    yield Pull("mit", KEPT, repo="o/mit", licence="MIT")
    yield Pull("opted out", "opt_out", repo="out/r")

    line = "a " * 49 + "\n"
    for name, size, expected in (("at", 1_000_000, KEPT), ("over", 1_000_001, "pr_files")):
        text = (line * (size // len(line) + 1))[:size]
        yield Pull(f"file {name}", expected, path=f"large_{name}.py", text=text)
    yield Pull("lines at", KEPT, path="lines_at.py", text="a\n" * 100_000)
    yield Pull("lines over", "pr_files", path="lines_over.py", text="a\n" * 100_001)
    yield Pull("line at", KEPT, path="line_at.py", text="a" * 1_000 + "\n" * 20)
    yield Pull("line over", "pr_files", path="line_over.py", text="a" * 1_001 + "\n" * 20)
    yield Pull("line of prose", KEPT, path="line.rst", text="a" * 1_001 + "\n" * 2)
    yield Pull("average at", KEPT, path="average_at.py", text=("a" * 100 + "\n") * 9)
    over = ("a" * 100 + "\n") * 9 + "a" * 101 + "\n"
    yield Pull("average over", "pr_files", path="average_over.py", text=over)
    yield Pull("letters at", KEPT, path="letters_at.py", text=("a" + "." * 2 + "\n") * 9)
    yield Pull("letters under", "pr_files", path="letters_under.py", text="a..\n" * 9 + ".\n")
    yield Pull("escapes at", KEPT, path="escapes_at.py", text="\\x" * 10 + "a" * 60)
    yield Pull("escapes over", "pr_files", path="escapes_over.py", text="\\x" * 10 + "a" * 59)
    yield Pull("english", KEPT, path="english.md", text="La vida the bella\n" * 9)
    yield Pull("spanish", "pr_files", path="spanish.md", text="La vida es bella\n" * 9)


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=QUIET, capture_output=True, check=True
    )
    return done.stdout.decode().strip()


def plant(folder: Path, told: list[tuple[int, Pull]]) -> dict[int, tuple[str, str]]:
    """A repository with a base and one head for each pull request; their commits."""
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")
    before: dict[int, tuple[str, str]] = {}
    for number, one in told:
        path = one.path or f"file{number}.py"
        text = one.text if one.text is not None else prose(f"pull{number}", 900).replace(" ", "\n")
        before[number] = (path, text)
        (folder / path).write_text(text)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "base")
    base = git(folder, "rev-parse", "HEAD")
    found = {}
    for number, (path, text) in before.items():
        (folder / path).write_text(text + "more\n")
        git(folder, "commit", "-q", "-am", f"head {number}")
        found[number] = (base, git(folder, "rev-parse", "HEAD"))
        git(folder, "reset", "-q", "--hard", base)
        git(folder, "branch", f"pull{number}", found[number][1])  # so that it is kept
    return found


def pull_events(
    told: list[tuple[int, Pull]], commits: dict[int, tuple[str, str]]
) -> Iterator[Plain]:
    counter = iter(range(20_000, 30_000))
    for number, one in told:
        base, head = commits[number]
        repository = {"id": 7, "full_name": one.repo}
        repository |= {"license": {"spdx_id": one.licence}} if one.licence else {}
        opening: Plain = {
            **{"number": number, "title": one.title, "body": one.body},
            **{"user": {"login": one.user}, "head": {"sha": head}},
            "base": {"sha": base, "repo": repository},
        }
        payload = {"action": "opened", "number": number, "pull_request": opening}
        yield event(next(counter), "PullRequestEvent", one.user, one.repo, payload)
        for post in one.comments:
            count = next(counter)
            said = {"id": count, "body": post.text, "user": {"login": post.user}}
            shown = {"number": number, "title": one.title, "pull_request": {"url": "x"}}
            payload = {"action": "created", "issue": shown, "comment": said}
            yield event(count, "IssueCommentEvent", post.user, one.repo, payload)
        if one.approved:
            said = {"id": next(counter), "body": "", "user": {"login": "bob"}, "state": "approved"}
            payload = {"action": "created", "review": said, "pull_request": opening}
            yield event(next(counter), "PullRequestReviewEvent", "bob", one.repo, payload)
        last = opening | {"merged": one.merged}
        if one.base is not None:
            last["base"] = opening["base"] | {"sha": one.base}
        payload = {"action": "closed", "number": number, "pull_request": last}
        yield event(next(counter), "PullRequestEvent", "carol", one.repo, payload)


ISSUES = list(issues())
PULLS = list(enumerate(pulls(), 101))


def curated(folder: Path, events: list[Plain], trees: Path, **fields: Any) -> list[Plain]:
    """The ledger's rows, with the pieces of what is kept."""
    hour = folder / "2020-01-01-0.json.gz"
    hour.write_bytes(gzip.compress("\n".join(map(json.dumps, events)).encode()))
    source = f"gharchive:{hour}?trees={trees}"
    limits = Limits(pulls=PullLimits(thinning=False, most_characters=2_000_000))
    told = {"events": (str(hour),), "workers": 1, "malware": "off", "limits": limits}
    make({"corpus": Curate(sources=(source,), **told, **fields)}, folder / "runs")
    rows = [row for batch in read_ledger(folder / "runs" / "corpus") for row in batch.to_pylist()]
    texts = [row for batch in read_files(folder / "runs" / "corpus") for row in batch.to_pylist()]
    content = {row["ledger_row"]: row["content"] for row in texts}
    for row in rows:
        kept = row["verdict"] == "keep"
        assert kept == (row["row"] in content)
        row["pieces"] = from_content(row["kind"], content[row["row"]]) if kept else []
    return rows


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Plain]:
    root = tmp_path_factory.mktemp("threads")
    commits: dict[int, tuple[str, str]] = {}
    for repo in sorted({one.repo for _, one in PULLS}):
        commits |= plant(root / "trees" / repo, [pair for pair in PULLS if pair[1].repo == repo])
    events = [*issue_events(ISSUES), *pull_events(PULLS, commits)]
    (root / "out.txt").write_text("out/r\n")
    rows = curated(root, events, root / "trees", opt_out=(str(root / "out.txt"),))
    return {int(row["path"].rpartition("/")[2].partition(".")[0]): row for row in rows}


@pytest.mark.parametrize("one", ISSUES, ids=lambda one: one.name)
def test_issues_at_each_threshold(ledger: dict[int, Plain], one: Issue):
    row = ledger[ISSUES.index(one) + 1]
    assert (row["kind"], row["rule"] or KEPT) == ("issue", one.expected), row["reason"]


@pytest.mark.parametrize(("number", "one"), PULLS, ids=lambda one: getattr(one, "name", None))
def test_pull_requests_at_each_threshold(ledger: dict[int, Plain], number: int, one: Pull):
    row = ledger[number]
    assert (row["kind"], row["rule"] or KEPT) == ("pull_request", one.expected), row["reason"]


def test_every_thread_is_in_the_ledger_once(ledger: dict[int, Plain]):
    assert ledger.keys() == {*range(1, len(ISSUES) + 1), *(number for number, _ in PULLS)}


def test_people_are_numbered_and_only_those_who_take_part(tmp_path: Path):
    """Section 3 of the report: who is merely mentioned stays, and so does an address of nobody."""
    said = "as @Bob and @carol said, mail ann.x@corp-mail.io or see https://github.com/bob/x, "
    posts = (Post("bob", "I see, @ann; the key is AKIAIOSFODNN7ABCDEFQ on 93.184.216.34"),)
    one = Issue("people", "For @bob", said + prose("people", 300), posts, KEPT)
    (row,) = curated(tmp_path, list(issue_events([one])), tmp_path)
    (_, opening), (_, answer) = row["pieces"]
    assert opening.startswith(
        "Title: For @username_1\nusername_0: as @username_1 and @carol said, mail <EMAIL> or see "
        "https://github.com/username_1/x, "
    )
    assert answer.startswith("username_1: I see, @username_0; the key is <KEY> on ")
    assert "93.184" not in answer
    assert row["redactions"] == "email 1, ip 1, key 1"


@pytest.mark.parametrize(("count", "shown"), [(100, 100), (101, 101), (140, 101)])
def test_long_messages_keep_both_ends(tmp_path: Path, count: int, shown: int):
    lines = [prose(f"line{n}", 20) for n in range(count)]
    posts = (Post("bob", "\n".join(lines)),)
    one = Issue("long", "It fails", prose("long", 300), posts, KEPT)
    (row,) = curated(tmp_path, list(issue_events([one])), tmp_path)
    found = row["pieces"][1][1].removeprefix("username_1: ").split("\n")
    assert len(found) == shown
    assert (found[:80], found[-20:]) == (lines[:80], lines[-20:])
    assert ("[TRUNCATED]" in found) == (count > 100)
