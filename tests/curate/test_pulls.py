"""Pull requests as documents: the layout, the same in any process, and from events and git on."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from cairn.curate.pulls import PullLimits, pull_request_document
from cairn.sources.events import OPTIONS, read
from cairn.sources.spec import parse
from cairn.tokens.sentinels import SENTINELS

from ..fixtures.quiet_git import QUIET
from .fixtures.pull_threads import (
    CHANGED,
    CODE,
    EXACT,
    HEAD,
    HUNK,
    NEXT,
    OPENING,
    Plain,
    closed,
    comment,
    made,
    opened,
    review,
    thread,
    trees,
    under,
)


def test_layout():
    document = made(
        opened(),
        comment("Bob", "@ann this is a good change, says @dave", 11),
        review("bob", "APPROVED", "fine", 12),
        under("carol", "why?", review_id=12, in_reply_to_id=2, diff_hunk="@@ -1 +1 @@\n-a\n+b"),
        closed(merged=False),
        {"type": "PullRequestEvent", "action": "reopened", "actor": "ann"},
        closed(),
        limits=EXACT,
    )
    assert document.pieces == (
        *OPENING,
        ("<pr_comment>", "username_1: @username_0 this is a good change, says @dave"),
        ("<pr_event_id>", "11\n"),
        ("<pr_review>", "username_1: fine\n"),
        ("<pr_event_id>", "12"),
        ("<pr_review_state>", "approved\n"),
        ("<pr_review_comment>", ""),
        ("<pr_event_id>", "3"),
        ("<pr_in_reply_to_review_id>", "12"),
        ("<pr_in_reply_to_comment_id>", "2"),
        ("<pr_file>", "a.py"),
        ("<pr_diff_hunk_comment_line>", "51"),
        ("<pr_diff_hunk>", "@@ -1 +1 @@\n-a\n+b"),
        ("<pr_comment>", "username_2: why?\n"),
        ("<pr>", "username_2"),
        ("<pr_status>", "closed"),
        ("<pr_is_merged>", "False\n"),
        ("<pr>", "username_0"),
        ("<pr_status>", "reopened\n"),
        ("<pr>", "username_2"),
        ("<pr_status>", "closed"),
        ("<pr_is_merged>", "True\n"),
    )
    assert all(mark in SENTINELS for mark, _ in document.pieces)


def test_layout_without_line_ends():
    limits = PullLimits(
        thinning=False, whole_file=1.0, fewest_context=3, most_context=3, newlines=False
    )
    document = made(opened(), review("bob", "approved"), limits=limits)
    assert [text for _, text in document.pieces[:4]] == [
        "Title: Mend the fifth ten\nusername_0: It was wrong, as all could see.",
        "opened",
        "o/r",
        "",
    ]
    assert document.pieces[5:] == (
        ("<pr_base_code>", CODE),
        ("<pr_diff>", ""),
        ("<pr_file>", "a.py"),
        ("<pr_diff_hunk>", HUNK),
        ("<pr_review>", "username_1: \n"),
        ("<pr_event_id>", "2"),
        ("<pr_review_state>", "approved"),
    )


def test_new_heads_bring_new_diffs():
    second = CHANGED.replace("line = 90\n", "")
    files = trees({"a.py": (CODE, CHANGED, second)}, (HEAD, NEXT))
    approved = review("bob", "APPROVED", head=NEXT)
    document = made(opened(), approved, closed(head=NEXT), files=files, limits=EXACT)
    assert document.pieces[: len(OPENING)] == OPENING
    assert document.pieces[len(OPENING) : len(OPENING) + 5] == (
        ("<pr_diff>", "\n"),
        ("<pr_file>", "a.py"),
        ("<pr_diff_hunk>", HUNK),
        (
            "<pr_diff_hunk>",
            "@@ -88,7 +88,6 @@\n line = 87\n line = 88\n line = 89\n-line = 90\n line = 91\n"
            " line = 92\n line = 93\n",
        ),
        ("<pr_review>", "username_1: \n"),
    )
    files["heads"][1] = {"commit": NEXT, "problem": "not there"}
    document = made(opened(), closed(head=NEXT), files=files, limits=EXACT)
    assert document.pieces[len(OPENING)] == ("<pr_diff>", "[DIFFS OMITTED]\n")


def test_opening_may_be_in_another_hour():
    assert made(closed(), limits=EXACT).pieces[: len(OPENING)] == OPENING


def test_the_same_in_any_order_and_process():
    raw = thread(opened(), comment("bob", "x" * 30), closed())
    first = pull_request_document(raw, PullLimits(), 1)
    code = (
        "import sys, cairn.curate.pulls as p; d = p.pull_request_document("
        "sys.stdin.buffer.read(), p.PullLimits(), 1); print(repr(d.pieces), end='')"
    )

    done = subprocess.run(
        [sys.executable, "-c", code],
        input=raw,
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "77"},
    )
    assert done.stdout.decode() == repr(first.pieces)
    assert first.pieces


def test_from_repository_to_document(tmp_path: Path):
    """Events and a git repository in; the layout out."""
    work = tmp_path / "trees" / "o" / "r"
    work.mkdir(parents=True)

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=work, env=QUIET, capture_output=True, check=True
        )
        return done.stdout.decode().strip()

    def commit() -> str:
        git("add", "-A")
        git("commit", "-q", "-m", "x")
        return git("rev-parse", "HEAD")

    git("init", "-q")
    (work / "a.py").write_text(CODE)
    (work / "gone.py").write_text(CODE)
    base = commit()
    (work / "a.py").write_text(CHANGED)
    (work / "new.py").write_text(CODE)
    (work / "gone.py").unlink()
    head = commit()

    def event(action: str, **more: Any) -> Plain:
        return {
            **{"id": len(action), "type": "PullRequestEvent", "actor": {"login": "ann"}},
            "repo": {"id": 1, "name": "o/r"},
            "created_at": f"2020-01-01T00:00:{10 + len(action)}Z",
            "payload": {
                "action": action,
                "pull_request": {
                    **{"number": 5, "title": "Mend the fifth ten", "user": {"login": "ann"}},
                    **{"body": "It was wrong, as all could see.", "base": {"sha": base}},
                    **{"head": {"sha": head}, **more},
                },
            },
        }

    lines = [json.dumps(one) for one in (event("closed", merged=True), event("open"))]
    (tmp_path / "h.json").write_text("\n".join(lines))
    source = parse(
        f"gharchive:{tmp_path / 'h.json'}?trees={tmp_path / 'trees'}", {"gharchive": OPTIONS}
    )
    (record,) = read(source)
    assert record.raw is not None
    document = pull_request_document(record.raw, EXACT, 0)
    closing = (("<pr>", "username_0"), ("<pr_status>", "closed"), ("<pr_is_merged>", "True\n"))
    assert document.pieces == (*OPENING, *closing)
