"""Which pull requests are kept: every rule at its threshold."""

import json
from typing import Any

import pytest

from cairn.curate.pieces import Document
from cairn.curate.pulls import PullLimits, drawn, keep_probability, pull_request_document
from cairn.curate.pulls.limits import fraction, integer

from .fixtures.pull_threads import (
    ALL,
    BASE,
    CHANGED,
    CODE,
    EXACT,
    HEAD,
    NEXT,
    Plain,
    closed,
    comment,
    made,
    opened,
    pull,
    review,
    rule,
    thread,
    trees,
    under,
)


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


def test_no_file_is_kept():
    files = trees({"new.py": (None, CODE), "old.py": (CODE, None), "x.md": ("uno\n", "due\n")})
    document = made(opened(), closed(), files=files)
    assert document.verdict.rule == "pr_files"
    assert document.verdict.reason == (
        "no changed file is kept (1 addition, 1 deletion, 1 not English)"
    )
    later = trees({"new.py": (None, CODE, CODE), "a.py": (CODE, CODE, CHANGED)}, (HEAD, NEXT))
    assert rule(opened(), closed(head=NEXT), files=later) == "pr_files"


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
