"""What people say in pull requests: descriptions cut, comments and reviews kept or not."""

from .fixtures.pull_threads import Plain, closed, comment, made, opened, review, under


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


def states(*events: Plain) -> list[str]:
    return [
        t for mark, t in made(opened(), *events, closed()).pieces if mark == "<pr_review_state>"
    ]


def test_review_states():
    assert states(review("bob", "APPROVED")) == ["approved\n"]
    assert states(review("bob", "changes_requested")) == ["changes_required\n"]
    assert states(review("bob", "dismissed")) == ["rejected\n"]
    assert states(review("bob", "commented", "x" * 20)) == ["commented\n"]
