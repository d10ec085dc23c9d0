"""Issues: what is cleaned, what is dropped at which threshold, and the layout."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from cairn.curate.bots import EXACT, SUBSTRINGS, SUFFIXES, is_bot, summons
from cairn.curate.messages import (
    TRUNCATED,
    Participants,
    clean,
    cut_characters,
    cut_lines,
    unfilled,
    without_coverage,
    without_email,
    without_html_comments,
)
from cairn.curate.pieces import Document
from cairn.curate.threads import IssueLimits, issue_document
from cairn.sources.events import OPTIONS, read
from cairn.sources.spec import parse
from cairn.tokens.sentinels import SENTINELS

LIMITS = IssueLimits()
Plain = dict[str, Any]


def raw(
    *events: Plain, title: str | None = "T" * 40, body: str = "B" * 160, user: str = "ann"
) -> bytes:
    """A thread of an opening and these events."""
    issue = {"title": title, "body": body, "user": user} if title else {}
    opened = {"type": "IssuesEvent", "action": "opened", "actor": user, "issue": issue}
    told = {"repository": "o/r", "number": 3, "kind": "issue", "events": [opened, *events]}
    return json.dumps(told).encode()


def comment(user: str, text: str, identifier: int = 0, action: str = "created") -> Plain:
    said = {"body": text, "user": user, "id": identifier or hash((user, text))}
    return {"type": "IssueCommentEvent", "action": action, "actor": user, "comment": said}


def status(action: str, user: str = "ann") -> Plain:
    return {"type": "IssuesEvent", "action": action, "actor": user, "issue": {"title": "later"}}


def made(*events: Plain, limits: IssueLimits = LIMITS, **opening: Any) -> Document:
    return issue_document(raw(*events, **opening), limits)


def rule(document: Document) -> str:
    assert document.verdict.keep == bool(document.pieces)
    return document.verdict.rule


def test_layout():
    document = made(
        comment("Bob", "see @ANN and @carol\r\nor https://github.com/bob/x"),
        status("closed", "bob"),
        status("labeled"),
        comment("ann", "it is back"),
        status("reopened"),
        status("closed"),
        title="It fails for @bob",
        body="x" * 200 + "\n\n",
    )
    assert document.kind == "issue"
    assert document.pieces == (
        ("<issue_start>", "Title: It fails for @username_1\nusername_0: " + "x" * 200),
        (
            "<issue_comment>",
            "username_1: see @username_0 and @carol\nor https://github.com/username_1/x",
        ),
        ("<issue_closed>", ""),
        ("<issue_comment>", "username_0: it is back"),
        ("<issue_closed>", ""),
    )
    assert all(mark in SENTINELS for mark, _ in document.pieces)


def test_edits_and_deletions():
    document = made(
        comment("bob", "first words", 1),
        comment("bob", "edited words", 1, "edited"),
        comment("bob", "taken back", 2),
        comment("bob", "taken back", 2, "deleted"),
    )
    assert [text for _, text in document.pieces[1:]] == ["username_1: first words"]


def test_opening_may_be_in_another_hour():
    later = comment("bob", "a comment")
    later["issue"] = {"title": "T" * 40, "body": "B" * 160, "user": "ann"}
    told = {"events": [later]}
    document = issue_document(json.dumps(told).encode(), LIMITS)
    assert document.pieces[0][1] == f"Title: {'T' * 40}\nusername_0: {'B' * 160}"
    assert document.pieces[1][1] == "username_1: a comment"


@pytest.mark.parametrize(("size", "expected"), [(200, ""), (199, "issue_short")])
def test_short(size: int, expected: str):
    document = made(comment("bob", "cc"), title="T" * 10, body="b" * (size - 12))
    assert rule(document) == expected
    assert document.verdict.reason == ("199 characters" if expected else "")


@pytest.mark.parametrize(
    ("size", "events", "expected"),
    [
        (6999, 10, ""),
        (7000, 10, "issue_conversation"),
        (6999, 11, "issue_conversation"),
    ],
)
def test_conversation(size: int, events: int, expected: str):
    more = [comment("ANN", "c" * 10, n) for n in range(1, events)]
    body = "b" * (size - 40 - 10 * len(more))
    assert rule(made(*more, body=body)) == expected
    assert rule(made(*more[:-1], comment("bob", "c" * 10), body=body)) == ""
    by_bot = made(*more, comment("x[bot]", "long enough a text"), body=body)
    assert rule(by_bot) == expected


def test_closings_count_as_events():
    nine = [comment("ann", "c", n) for n in range(1, 10)]
    assert rule(made(*nine)) == ""
    assert made(*nine, status("closed")).verdict.reason == "1 user, 209 characters, 11 events"


def test_long_messages():
    lines = [str(number) for number in range(101)]
    hundred = "\n".join(lines[:100])
    assert cut_lines(hundred, 80, 20) == hundred
    cut = [*lines[:80], TRUNCATED, *lines[81:]]
    document = made(comment("bob", "\n".join(lines)), body=hundred)
    assert document.pieces[0][1].endswith("\nusername_0: " + hundred)
    assert document.pieces[1][1] == "username_1: " + "\n".join(cut)


def test_no_text():
    document = made(comment("ann", ""), title=None)
    assert rule(document) == "issue_no_text"
    assert document.verdict.reason == "none of 2 events holds a title"


def test_programs():
    assert made(user="coveralls").verdict.reason == "opened by coveralls"
    document = made(
        comment("bob", "please look"),
        comment("stale[bot]", "This is stale"),
        comment("bob", "@k8s-ci-robot retest this please"),
        comment("k8s-ci-robot", "started"),
        comment("ann", "@dependabot rebase"),
        comment("bob", "and more"),
        comment("dependabot[bot]", "done"),
    )
    assert [text for _, text in document.pieces[1:]] == [
        "username_1: please look",
        "username_0: @dependabot rebase",
        "username_1: and more",
    ]


BOTS = "a-build dependabot[bot] x-ci Some-Service-Account my-test-account bors-servo TravisBuddy"


@pytest.mark.parametrize("login", [*sorted(EXACT), *BOTS.split(), "JenkinsX", "k8s-merge", "robot"])
def test_bots(login: str):
    assert is_bot(login)


@pytest.mark.parametrize("login", ["ann", "bottle", "citest", "builder", "cloudy", "testing", ""])
def test_people(login: str):
    assert not is_bot(login)


def test_the_named_bots_need_their_names():
    assert len(EXACT) == 16
    for login in EXACT:
        assert not login.endswith(SUFFIXES)
        assert not any(part in login for part in SUBSTRINGS)


@pytest.mark.parametrize(
    ("text", "bot", "expected"),
    [
        ("@dependabot rebase", "dependabot[bot]", True),
        ("bors r+", "bors[bot]", True),
        ("/retest", "k8s-ci-robot", True),
        ("/usr/bin/python is missing", "k8s-ci-robot", False),
        ("@rust-highfive: r? @bob", "rust-highfive", True),
        ("thanks @dependabot", "dependabot[bot]", False),
        ("@dependabot rebase\nand I found a bug", "dependabot[bot]", False),
        ("@ann look", "bors[bot]", False),
        ("", "bors", False),
        ("anything", "[bot]", False),
    ],
)
def test_summons(text: str, bot: str, expected: bool):
    assert summons(text, bot) is expected


QUOTE = "On Fri, Feb 15, 2013 at 9:00 AM, Bob <notifications@github.com> wrote:"
FOOTER = "Reply to this email directly or view it on GitHub<https://github.com/o/r/issues/1>."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no mail", "no mail"),
        (f"Yes.\n\n{QUOTE}\n\n> It fails\n> again\n\u2014\n{FOOTER}", "Yes."),
        (f"Yes.\n\n{QUOTE}\n\n> It fails\n>\n> \u2014\n> {FOOTER}\n>\nIndeed", "Yes.\nIndeed"),
        (f"Yes.\n{QUOTE}\n> It fails", "Yes."),
        ("Yes.\nOn Fri, Feb 15, Bob <b@x.org>\nwrote:\n> It fails", "Yes."),
        (f"{QUOTE}\n> It fails\nNo it does not", f"{QUOTE}\n> It fails\nNo it does not"),
        (f"{QUOTE}\nand nothing is quoted", f"{QUOTE}\nand nothing is quoted"),
        ("Yes.\n-----Original Message-----\nFrom: Bob\nIt fails", "Yes."),
        ("Yes.\n________________\nFrom: Bob\nIt fails", "Yes."),
        ("Yes.\nFrom: Bob\nSent: Friday\nIt fails", "Yes."),
        ("From: 1.2\nwe went to 1.3", "From: 1.2\nwe went to 1.3"),
        ("Yes.\n\nSent from my iPhone", "Yes."),
        (f"Yes.\n\u2014\n{FOOTER}\n\nYou are receiving this because you commented.", "Yes."),
    ],
)
def test_email(text: str, expected: str):
    assert without_email(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a<!-- b -->c<!--\nd\n-->e", "ace"),
        ("a<!-- b", "a<!-- b"),
        ("<!---->", ""),
        ("a --> b", "a --> b"),
        ("<!--x-->a<!--y", "a<!--y"),
    ],
)
def test_html_comments(text: str, expected: str):
    assert without_html_comments(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Nice.\n# [Codecov](https://codecov.io/x) Report\n> Merging", "Nice.\n[OMITTED]CodeCov"),
        ("## Codecov Report\nx", "[OMITTED]CodeCov"),
        ("[![Coverage Status](https://coveralls.io/x)](y)\n\n90%", "[OMITTED]CodeCov"),
        ("The Codecov Report says", "The Codecov Report says"),
    ],
)
def test_coverage(text: str, expected: str):
    assert without_coverage(text) == expected


def test_cut_characters():
    assert cut_characters("abc", 3) == "abc"
    assert cut_characters("abcd", 3) == "abc" + TRUNCATED


BUG = """<!-- Thanks! -->
**Describe the bug**
A clear and concise description of what the bug is.

**To Reproduce**
Steps to reproduce the behavior:
1. Go to '...'
2. Click on '....'
4. See error

**Desktop (please complete the following information):**
 - OS: [e.g. iOS]
 - Version [e.g. 22]

**Additional context**
Add any other context about the problem here.
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (BUG, True),
        (BUG.replace("A clear and concise description of what the bug is.", "It fails."), False),
        ("## What\n\n## Why\n", True),
        ("## What\n\nNothing works\n", False),
        ("- [ ] I have read it\n- [ ] I have not\n", True),
        ("- [x] I have read it\n- [ ] I have not\n", False),
        ("<!-- say what -->", True),
        ("### Version\n\n_No response_\n\n### Logs\n\n```\n```\n", True),
        ("", False),
        ("N/A", False),
        ("It fails", False),
        ("Version:", False),
    ],
)
def test_unfilled_templates(text: str, expected: bool):
    assert unfilled(text) is expected
    assert (rule(made(title="T" * 200, body=text)) == "issue_template") is expected


def test_participants():
    people = Participants(["Ann", "bob", "ANN", "c-d"])
    assert len(people) == 3
    assert people.name("aNN") == "username_0"
    hidden = people.hide(
        "@ann, @Bob's (@c-d) @c @ann-x a@bob.org @bob@x github.com/ann/r GitHub.com/x"
    )
    assert hidden == (
        "@username_0, @username_1's (@username_2) @c @ann-x a@bob.org @username_1@x "
        "github.com/username_0/r GitHub.com/x"
    )


LINES = [f"{QUOTE}\n", f"{FOOTER}\n", "On a\nwrote:\n", "\n\n", "\t\n", "From: a\nTo: b\n"]
RUNS = "<!--,On,>,-----,_____,|,@a,github.com/,**a,#,a:,*,[![,Codecov,`,~"


@pytest.mark.parametrize("piece", [*LINES, *RUNS.split(","), " ", "| ", "On ", "# "])
def test_time_is_linear(piece: str):
    text = piece * (400_000 // len(piece))
    begun = time.process_time()
    clean(text)
    unfilled(text)
    unfilled(text + "x")
    Participants(["a", "b"]).hide(text)
    summons(text, "bors")
    assert time.process_time() - begun < 2.0


def issues_of(path: Path) -> list[Document]:
    found = read(parse(f"gharchive:{path}", {"gharchive": OPTIONS}))
    return [issue_document(one.raw, LIMITS) for one in found if one.kind == "issue" and one.raw]


def test_hours_before_2015_hold_no_text(data_folder: Path):
    documents = issues_of(data_folder / "gharchive" / "hours")
    assert {rule(document) for document in documents} == {"issue_no_text"}
    assert len(documents) == 1361


def test_events_since_2015_become_issues(data_folder: Path, tmp_path: Path):
    folder = data_folder / "gharchive" / "fixtures"
    files = [path for year in ("2015", "2016") for path in sorted((folder / year).glob("*.json"))]
    lines = [json.dumps(json.loads(path.read_text(encoding="utf-8"))) for path in files]
    (tmp_path / "hour.json").write_text("\n".join(lines))
    documents = issues_of(tmp_path / "hour.json")
    assert [rule(document) for document in documents] == ["", "", ""]
    ruby = next(d for d in documents if "Ruby 2.2.0" in d.pieces[0][1])
    begins = "Title: Incompatibility with Ruby 2.2.0\nusername_0: See also #71 for more context.\n"
    assert ruby.pieces[0][1].startswith(begins)
    assert ruby.pieces[1:] == (("<issue_closed>", ""),)
    talk = next(d for d in documents if "lab-workbook" in d.pieces[0][1])
    assert [mark for mark, _ in talk.pieces] == ["<issue_start>", "<issue_comment>"]
    assert talk.pieces[1][1].startswith("username_1: Sure, @dasguptar !")
