"""Differences against an applier of hunks, git, difflib and the fewest edits."""

import difflib
import os
import random
import re
import subprocess
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cairn.curate.pulls import diff
from cairn.curate.pulls.diff import changes, hunks, lines_of


def apply(base: list[str], shown: list[str]) -> list[str]:
    """The head that unified hunks make of a base; every context line is checked."""
    made: list[str] = []
    place = 0
    for hunk in shown:
        header, *lines = hunk.split("\n")
        found = re.fullmatch(r"@@ -(\d+),(\d+) \+(\d+),(\d+) @@", header)
        assert found is not None
        start, count, into, after = (int(number) for number in found.groups())
        start -= count > 0
        assert into - (after > 0) == len(made) + start - place
        made += base[place:start]
        place = start
        for number, line in enumerate(lines):
            if line == "\\ No newline at end of file":
                continue
            ends = lines[number + 1 : number + 2] != ["\\ No newline at end of file"]
            text = line[1:] + ("\n" if ends else "")
            if line[0] != "+":
                assert base[place] == text
                place += 1
            if line[0] != "-":
                made.append(text)
        assert place - start == count
    return made + base[place:]


LINE = st.sampled_from(["a\n", "b\n", "c\n", "d\n", "\n", "e e\n"])
TEXT = st.builds(lambda lines, last: "".join(lines) + last, st.lists(LINE), st.sampled_from("xy"))
TEXTS = TEXT | st.builds("".join, st.lists(LINE))


@settings(max_examples=400, deadline=None)
@given(TEXTS, TEXTS, st.integers(0, 10))
def test_hunks_make_the_head(before: str, after: str, context: int):
    base, head = lines_of(before), lines_of(after)
    assert "".join(base) == before
    found = changes(base, head)
    assert apply(base, hunks(base, head, found, context)) == head
    assert all(x[1] < y[0] and x[3] < y[2] for x, y in pairwise(found))
    assert bool(found) == (before != after)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from("abc"), max_size=14), st.lists(st.sampled_from("abc"), max_size=14))
def test_edits_are_the_fewest(base: list[str], head: list[str]):
    """Where lines that stand once are not looked for, Myers' algorithm decides alone."""
    longest = [[0] * (len(head) + 1) for _ in range(len(base) + 1)]
    for i, x in enumerate(base):
        for j, y in enumerate(head):
            best = longest[i][j] + 1 if x == y else max(longest[i][j + 1], longest[i + 1][j])
            longest[i + 1][j + 1] = best
    kept = longest[-1][-1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diff, "DEPTH", 0)
        edits = sum(b - a + d - c for a, b, c, d in changes(base, head))
    assert edits == len(base) + len(head) - 2 * kept


def test_hunks_are_those_of_diff():
    rng = random.Random(3)
    base = [f"line {number}\n" for number in range(400)]
    head = list(base)
    for number in sorted(rng.sample(range(400), 25), reverse=True):
        head[number : number + 1] = [[], [f"changed {number}\n"], [base[number], "new\n"]][
            rng.randrange(3)
        ]
    for context in (0, 3, 10):
        told = "".join(difflib.unified_diff(base, head, n=context)).split("\n", 2)[2]
        told = re.sub(r"@@ -(\d+) ", r"@@ -\1,1 ", told)
        told = re.sub(r" \+(\d+) @@", r" +\1,1 @@", told)
        shown = hunks(base, head, changes(base, head), context)
        assert "\n".join(shown) + "\n" == told


def test_git_applies_the_hunks(tmp_path: Path):
    before = "".join(f"{n % 7} {n}\n" for n in range(120)) + "end"
    after = before.replace("3 10\n", "").replace("5 82\n", "x\ny\n") + "\n"
    base, head = lines_of(before), lines_of(after)
    patch = "--- a/f\n+++ b/f\n" + "\n".join(hunks(base, head, changes(base, head), 3)) + "\n"
    (tmp_path / "f").write_text(before)
    environment = {"PATH": os.environ["PATH"], "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)}
    subprocess.run(
        ["git", "apply", "-"], input=patch.encode(), cwd=tmp_path, check=True, env=environment
    )
    assert (tmp_path / "f").read_text() == after


def nested(size: int) -> tuple[list[str], list[str]]:
    """Each level has one line that stands once and hides one of the next."""
    base, head = ["0"], ["0"]
    for n in range(size):
        base = [f"a{n}", *base, f"b{n}"]
        head = [f"b{n}", *head, f"a{n}"]
    return base, head


@pytest.mark.parametrize(
    "make",
    [
        lambda: (["a", "b"] * 25_000, ["b", "a", "a"] * 17_000),
        lambda: ([str(n) for n in range(50_000)], [str(n) for n in range(50_000, 0, -1)]),
        lambda: ([str(n) for n in range(50_000)], [f"x{n}" for n in range(50_000)]),
        lambda: ([str(n % 300) for n in range(50_000)], [str(n % 299) for n in range(50_000)]),
        lambda: nested(3_000),
        lambda: ([str(n) for n in range(50_000)], [str(n) for n in range(0, 50_000, 2)]),
    ],
)
def test_time_is_linear(make: Callable[[], tuple[list[str], list[str]]]):
    base, head = ([line + "\n" for line in side] for side in make())
    begun = time.process_time()
    found = changes(base, head)
    assert time.process_time() - begun < 4.0
    assert apply(base, hunks(base, head, found, 3)) == head
