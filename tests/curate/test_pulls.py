"""Pull requests: every rule at its threshold, what is drawn, and the layout."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cairn.curate.pieces import Document
from cairn.curate.pulls import PullLimits, drawn, keep_probability, pull_request_document
from cairn.curate.pulls.files import File, select
from cairn.curate.pulls.limits import fraction, integer
from cairn.sources.events import OPTIONS, read
from cairn.sources.spec import parse
from cairn.tokens.sentinels import SENTINELS

Plain = dict[str, Any]
BASE, HEAD, NEXT = "a" * 40, "b" * 40, "c" * 40
ALL = PullLimits(thinning=False)  # keeps what the draw for repositories would drop


def test_draws():
    assert keep_probability(1) == pytest.approx(0.8)
    assert keep_probability(1000) == pytest.approx(0.1007)
    assert keep_probability(1001) == pytest.approx(100 / 1001)
    assert keep_probability(20_000) == pytest.approx(0.005)
    assert fraction(0, "x") == fraction(0, "x") != fraction(1, "x")
    numbers = [fraction(7, str(n)) for n in range(20_000)]
    assert 0 <= min(numbers) < 0.001 < 0.999 < max(numbers) < 1
    assert sum(drawn(7, str(n), 0.2) for n in range(20_000)) / 20_000 == pytest.approx(
        0.2, abs=0.01
    )
    assert {integer(0, str(n), 3, 10) for n in range(1000)} == set(range(3, 11))


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


UNMERGED = "neither merged nor approved"
MERGED = {
    **{"type": "PullRequestEvent", "action": "merged", "actor": "a"},
    "pull_request": pull(merged=True),
}
SAYS = "the title says "
QWIET = "the description says 'Qwiet'"
FORM = "## What changed here\n\n- [ ] tests\n"


@pytest.mark.parametrize(
    ("events", "expected", "reason"),
    [
        ([opened(), closed()], "", ""),
        ([opened(title=None), comment("bob", "x")], "pr_no_text", "none of 2 events holds a title"),
        ([opened(user="renovate[bot]"), closed()], "pr_bot", "opened by renovate[bot]"),
        (
            [opened(), comment("coveralls", "x" * 30), under("x-ci", "y"), closed()],
            "pr_bot_comments",
            "all 2 comments are by bots",
        ),
        ([opened(), comment("coveralls", "x" * 30), under("bob", "y"), closed()], "", ""),
        ([opened(), closed(base=NEXT)], "pr_base_changed", "2 base commits"),
        ([opened(), closed(merged=False)], "pr_not_merged", UNMERGED),
        ([opened(), review("bob", "changes_requested")], "pr_not_merged", UNMERGED),
        ([opened(), review("bob", "approved")], "", ""),
        ([opened(), MERGED], "", ""),
        ([opened(head=BASE), closed(head=BASE)], "pr_no_diff", "base equals head"),
        ([opened(head=NEXT), closed(head=NEXT)], "pr_no_diff", "no file differs"),
        ([opened(title="T" * 9), closed()], "pr_title", "9 characters"),
        ([opened(title="T" * 10), closed()], "", ""),
        ([opened(title="Update Dependencies"), closed()], "pr_title", SAYS + "'dependencies'"),
        ([opened(title="Independent things"), closed()], "pr_title", SAYS + "'depend'"),
        ([opened(title="New RELEASE now"), closed()], "pr_title", SAYS + "'release'"),
        ([opened(body="d" * 19), closed()], "pr_description", "19 characters"),
        ([opened(body="d" * 20), closed()], "", ""),
        ([opened(body="d" * 19 + "<!-- x -->"), closed()], "pr_description", "19 characters"),
        ([opened(body="By Qwiet, so that all is well"), closed()], "pr_description", QWIET),
        ([opened(body=FORM), closed()], "pr_template", "34 characters of a template"),
    ],
)  # fmt: skip
def test_rules(events: list[Plain], expected: str, reason: str):
    document = made(*events)
    assert (document.verdict.rule, document.verdict.reason) == (expected, reason)


def test_without_trees():
    raw = json.loads(thread(opened(), closed()))
    del raw["trees"]
    document = pull_request_document(json.dumps(raw).encode(), ALL, 0)
    assert document.verdict.reason == "no trees were given to find the commits in"
    raw["trees"] = {"base": BASE, "heads": [{"commit": HEAD, "problem": "gone"}], "blobs": {}}
    document = pull_request_document(json.dumps(raw).encode(), ALL, 0)
    assert (document.verdict.rule, document.verdict.reason) == ("pr_no_diff", "gone")


def test_cuts():
    long = "\n".join(str(n) for n in range(81))
    document = made(opened(title="T" * 501, body=long), closed())
    expected = [*map(str, range(60)), "[TRUNCATED]", *map(str, range(61, 81))]
    body = "\n".join(expected)
    assert document.pieces[0][1] == f"Title: {'T' * 500}[TRUNCATED]\nusername_0: {body}\n"
    for size, shown in ((1000, "d" * 1000), (1001, "d" * 1000 + "[TRUNCATED]")):
        document = made(opened(title="T" * 500, body="d" * size), closed())
        assert document.pieces[0][1] == f"Title: {'T' * 500}\nusername_0: {shown}\n"
    eighty = "\n".join("x" for _ in range(80))
    assert made(opened(body=eighty), closed()).pieces[0][1].endswith(eighty + "\n")


def said(*events: Plain) -> list[str]:
    pieces = made(opened(), *events, closed()).pieces
    return [t for mark, t in pieces if mark in ("<pr_comment>", "<pr_review>")]


def test_comments():
    assert said(comment("bob", "x" * 19)) == []
    assert said(comment("bob", "x" * 20)) == ["username_1: " + "x" * 20]
    assert said(comment("bob", "x" * 19 + "<!-- y -->")) == []
    assert said(under("bob", "x")) == ["username_1: x\n"]
    assert said(under("bob", "<!-- x -->")) == []
    assert said(review("bob", "commented", "x" * 19)) == []
    assert said(review("bob", "commented", "x" * 20)) == ["username_1: " + "x" * 20 + "\n"]
    assert said(review("bob", "dismissed", "x")) == ["username_1: x\n"]
    assert said(review("bob", "pending", "x" * 30)) == []
    assert said(comment("bob", "x" * 20, 1), comment("bob", "edited" * 9, 1)) == [
        "username_1: " + "x" * 20
    ]
    both = [comment("bob", "@codecov-io please look at this again", 1)]
    both += [comment("codecov-io", "x" * 30, 2), comment("bob", "and this is something else", 3)]
    assert said(*both) == ["username_1: and this is something else"]
    report = "Looks fine to me\n# [Codecov](https://codecov.io/x) Report\n> much more"
    assert said(comment("bob", report)) == ["username_1: Looks fine to me\n[OMITTED]CodeCov"]


@pytest.mark.parametrize(("size", "shown"), [(10_000, "h" * 10_000), (10_001, "[DIFFS OMITTED]")])
def test_long_hunks(size: int, shown: str):
    pieces = made(opened(), under("bob", "x", diff_hunk="h" * size), closed()).pieces
    place = [mark for mark, _ in pieces].index("<pr_review_comment>")
    assert ("<pr_diff_hunk>", shown) in pieces[place:]


def states(*events: Plain) -> list[str]:
    return [
        t for mark, t in made(opened(), *events, closed()).pieces if mark == "<pr_review_state>"
    ]


def test_review_states():
    assert states(review("bob", "APPROVED")) == ["approved\n"]
    assert states(review("bob", "changes_requested")) == ["changes_required\n"]
    assert states(review("bob", "dismissed")) == ["rejected\n"]
    assert states(review("bob", "commented", "x" * 20)) == ["commented\n"]


def file_rule(path: str, base: str | None, head: str | None) -> str:
    kept, dropped = select(trees({path: (base, head)}), ALL)
    assert len(kept) + dropped.total() == 1
    return "" if kept else next(iter(dropped))


ENGLISH = "It is the way of it\n"


@pytest.mark.parametrize(
    ("path", "base", "expected"),
    [
        ("a.py", CODE, ""),
        ("a.py", None, "addition"),
        ("a.py", ("a " * 49 + "\n") * 10_101 + "x", ""),  # 1,000,000 characters
        ("a.py", ("a " * 49 + "\n") * 10_101 + "xx", "too large"),
        ("a.py", "a1" + "." * 6, ""),
        ("a.py", "a1" + "." * 7, "few letters"),
        ("a.py", r"\x" * 10 + "a" * 60, ""),
        ("a.py", r"\x" * 10 + "a" * 59, "escapes"),
        ("a.py", "a\n" * 100_000, ""),
        ("a.py", "a\n" * 100_001, "many lines"),
        ("a.py", ("a" * 100 + "\n") * 9, ""),
        ("a.py", ("a" * 100 + "\n") * 9 + "a" * 101, "long lines"),
        ("a.py", "a" * 1000 + "\n" * 20, ""),
        ("a.py", "a" * 1001 + "\n" * 20, "long lines"),
        ("a.rst", "a" * 1001 + "\n" * 20, ""),
        ("a.md", ENGLISH + "a" * 1001, ""),
        ("a.md", "theof it\n", "not English"),
        ("a.md", "La vida es bella\n", "not English"),
        ("a.md", "La vida the bella\n", ""),
    ],
)  # fmt: skip
def test_files(path: str, base: str | None, expected: str):
    assert file_rule(path, base, (base or "") + "more\n") == expected


def test_deletions_and_what_is_no_text():
    assert file_rule("a.py", CODE, None) == "deletion"
    told = trees({"a.py": (CODE, CHANGED)})
    told["blobs"] = dict.fromkeys(told["blobs"])
    assert select(told, ALL)[1] == {"not text": 1}
    base = next(file[1] for file in told["heads"][0]["files"])
    told["blobs"][base] = CODE
    assert select(told, ALL)[1] == {"not text": 1}


def test_no_file_is_kept():
    files = trees({"new.py": (None, CODE), "old.py": (CODE, None), "x.md": ("uno\n", "due\n")})
    document = made(opened(), closed(), files=files)
    assert document.verdict.rule == "pr_files"
    assert document.verdict.reason == (
        "no changed file is kept (1 addition, 1 deletion, 1 not English)"
    )
    later = trees({"new.py": (None, CODE, CODE), "a.py": (CODE, CODE, CHANGED)}, (HEAD, NEXT))
    assert rule(opened(), closed(head=NEXT), files=later) == "pr_files"


def test_files_are_in_order_and_only_kept_ones_show():
    files = trees({"z.py": (CODE, CHANGED), "b.py": (CODE, None), "a.py": (CODE, CHANGED)})
    pieces = made(opened(), closed(), files=files).pieces
    assert [text for mark, text in pieces if mark == "<pr_file>"] == ["a.py", "z.py"] * 2


def shares(limits: PullLimits, **other: Any) -> float:
    kept = [made(opened(), closed(), limits=limits, number=n, **other) for n in range(1, 601)]
    return sum(one.verdict.keep for one in kept) / len(kept)


def test_thinning():
    assert shares(PullLimits(), count=1) == pytest.approx(0.8, abs=0.05)
    assert shares(PullLimits(), count=500) == pytest.approx(0.4507, abs=0.06)
    document = next(
        one
        for n in range(99)
        if not (
            one := made(opened(), closed(), limits=PullLimits(), count=2000, number=n)
        ).verdict.keep
    )
    assert document.verdict.rule == "pr_subsampled"
    assert document.verdict.reason == "one of 2,000: kept with 0.0500"


def data_rule(files: dict[str, tuple[str | None, ...]]) -> str:
    limits = PullLimits(thinning=False, data_kept=0.0)
    return made(opened(), closed(), files=trees(files), limits=limits).verdict.reason


def test_data_files():
    small, large = "a: 1\n" * 40, "a: 1\n" * 41
    code = "a = 1\nb\n" * 25
    assert len(small) == len(code) == 200
    changed = (code, code + "x\n")
    assert data_rule({"a.py": changed, "b.yml": (small, small + "b: 1\n")}) == ""
    told = data_rule({"a.py": changed, "b.yml": (large, large + "b: 1\n")})
    assert told == "51% of the base files is YAML or JSON"
    told = data_rule({"a.py": (CODE, CHANGED), "x/package.json": ('{"alpha": 1}\n', "{}\n")})
    assert told == "x/package.json has 'pack' in its path"
    assert data_rule({"package/a.py": (CODE, CHANGED)}) == ""
    files = trees({"b.yml": (large, large + "b: 1\n")})
    assert shares(ALL, files=files) == pytest.approx(0.1, abs=0.04)


def test_size():
    size = sum(len(text) for _, text in made(opened(), closed(), limits=EXACT).pieces)

    def limited(**limits: int) -> Document:
        fixed = {"whole_file": 1.0, "fewest_context": 3, "most_context": 3, "thinning": False}
        return made(opened(), closed(), limits=PullLimits(**{**fixed, **limits}))  # type: ignore[arg-type]

    assert limited(fewest_characters=size).verdict.keep
    assert limited(fewest_characters=size + 1).verdict.reason == f"{size:,} characters"
    assert limited(fewest_characters=size + 1).verdict.rule == "pr_short"
    assert limited(most_characters=size).verdict.keep
    assert limited(most_characters=size - 1).verdict.rule == "pr_long"
    assert (PullLimits().fewest_characters, PullLimits().most_characters) == (200, 100_000)


def test_what_is_shown_of_the_base():
    whole, excerpts, widths = 0, 0, set()
    for seed in range(400):
        pieces = dict(made(opened(), closed(), seed=seed).pieces)
        shown = pieces["<pr_base_code>"][:-1]
        if shown == CODE:
            whole += 1
            continue
        excerpts += 1
        lines = shown.splitlines()
        place = lines.index("line = 50")
        assert shown in CODE
        widths |= {place, len(lines) - place - 1}
    assert whole / 400 == pytest.approx(0.2, abs=0.06)
    assert widths == set(range(1, 33))


def test_excerpts_cover_all_heads():
    heads = {HEAD: CODE.replace("line = 10\n", ""), NEXT: CODE.replace("line = 80\n", "x\n")}
    file = File("a.py", CODE, heads)
    limits = PullLimits(widest=1, whole_file=0.0)
    kept = [9, 10, 11, 79, 80, 81]
    assert file.shown(0, "k", limits) == "".join(f"line = {n}\n" for n in kept)
    assert file.shown(0, "k", PullLimits(widest=99, whole_file=0.0)) in CODE
    near = File("a.py", CODE, {HEAD: CODE.replace("line = 10\n", "").replace("line = 12\n", "")})
    assert near.shown(0, "k", limits) == "".join(f"line = {n}\n" for n in range(9, 14))


def test_context_is_drawn():
    sizes = set()
    for seed in range(120):
        pieces = made(opened(), closed(), seed=seed).pieces
        (hunk,) = [text for mark, text in pieces if mark == "<pr_diff_hunk>"]
        sizes.add(sum(line.startswith(" ") for line in hunk.split("\n")))
    assert sizes == {2 * context for context in range(3, 11)}


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
    environment = {
        **{f"GIT_{who}_NAME": "a" for who in ("AUTHOR", "COMMITTER")},
        **{f"GIT_{who}_EMAIL": "a@example.org" for who in ("AUTHOR", "COMMITTER")},
        **{"GIT_CONFIG_GLOBAL": "/dev/null", "PATH": os.environ["PATH"], "HOME": "/nonexistent"},
    }

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=work, env=environment, capture_output=True, check=True
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
