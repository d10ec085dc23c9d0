"""Questions with their answers: rules at their thresholds, and the layout."""

import json
from typing import Any

import pytest

from cairn.curate.answers import AnswersLimits, answers_document
from cairn.curate.pieces import Document

Plain = dict[str, Any]


def post(identifier: int, body: str, user: str = "", score: int = 0, **more: Any) -> Plain:
    return {"id": identifier, "body": body, "user": user, "score": score, **more}


def made(question: Plain, *answers: Plain, **limits: Any) -> Document:
    raw = json.dumps({"site": "s", "question": question, "answers": answers}).encode()
    document = answers_document(raw, AnswersLimits(**limits))
    assert document.verdict.keep == bool(document.pieces)
    return document


def test_layout():
    document = made(
        post(1, "<p>How to <b>add</b>?</p><pre><code>a = 1\n\nb  = 2\n</code></pre>", "u7",
             accepted=3),
        post(2, "<p>Ask @u7.</p>", "u9", 5),
        post(3, "<p>So.</p>", "u7", -2),
        post(4, "<p>No.</p>"),
    )  # fmt: skip
    assert document.kind == "answers"
    (opening, asked), *answers = document.pieces
    assert opening == "<issue_start>"
    assert asked.startswith("username_0: How to add?")
    assert "a = 1\n\nb  = 2" in asked
    assert answers == [
        ("<issue_comment>", "username_1: Ask @username_0.\nUpvotes: 5"),
        ("<issue_comment>", "username_0: So.\nUpvotes: -2 [selected answer]"),
        ("<issue_comment>", "username_2: No.\nUpvotes: 0"),
    ]


@pytest.mark.parametrize(("count", "expected"), [(2, "answers_few"), (3, "")])
def test_few(count: int, expected: str):
    answers = [post(number, "x") for number in range(2, 2 + count)]
    assert made(post(1, "why"), *answers).verdict.rule == expected


@pytest.mark.parametrize(("score", "expected"), [(4, "answers_score"), (5, "")])
def test_score(score: int, expected: str):
    document = made(post(1, "why", score=score), post(2, "x"), fewest_answers=1, least_score=5)
    assert document.verdict.rule == expected


def test_no_text():
    assert made(post(1, "<p> </p>"), post(2, "x"), fewest_answers=1).verdict.rule == (
        "answers_no_text"
    )
    assert made(post(1, "why"), post(2, "<br>"), fewest_answers=1).verdict.rule == (
        "answers_no_text"
    )
