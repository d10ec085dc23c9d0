"""Files of pull requests: which are kept, and what is shown of them."""

import pytest

from cairn.curate.pulls import PullLimits
from cairn.curate.pulls.files import File, select

from .fixtures.pull_threads import (
    ALL,
    CHANGED,
    CODE,
    HEAD,
    NEXT,
    closed,
    made,
    opened,
    trees,
    under,
)


@pytest.mark.parametrize(("size", "shown"), [(10_000, "h" * 10_000), (10_001, "[DIFFS OMITTED]")])
def test_long_hunks(size: int, shown: str):
    pieces = made(opened(), under("bob", "x", diff_hunk="h" * size), closed()).pieces
    place = [mark for mark, _ in pieces].index("<pr_review_comment>")
    assert ("<pr_diff_hunk>", shown) in pieces[place:]


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


def test_files_are_in_order_and_only_kept_ones_show():
    files = trees({"z.py": (CODE, CHANGED), "b.py": (CODE, None), "a.py": (CODE, CHANGED)})
    pieces = made(opened(), closed(), files=files).pieces
    assert [text for mark, text in pieces if mark == "<pr_file>"] == ["a.py", "z.py"] * 2


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
