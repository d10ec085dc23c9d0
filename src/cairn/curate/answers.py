"""Questions with their answers: StarCoder2 (arXiv 2402.19173), section 2.8, laid out as issues.

The order of the answers is drawn when a corpus is read for training, once a document and epoch.
"""

import json
from dataclasses import dataclass
from typing import Any

from cairn.curate.documents.page import page_text
from cairn.curate.messages import Participants
from cairn.curate.pieces import Document, Piece
from cairn.curate.rules import Verdict
from cairn.sources.record import ANSWERS


@dataclass(frozen=True, kw_only=True)
class AnswersLimits:
    """Where each rule begins to drop.

    The report also scored questions by a classifier that was not published; a least score stands
    in its place for those who want one.
    """

    fewest_answers: int = 3
    """Least answers of a question."""
    least_score: int | None = None
    """Least score of a question, by its readers' votes; None takes all."""


def answers_document(raw: bytes, limits: AnswersLimits) -> Document:
    """A question's training document, or a verdict with no pieces.

    `raw` is the JSON that `cairn.sources.stackexchange.read` gives. Rules in order:
    answers_few, answers_score, answers_no_text (the question or all answers).
    """
    thread = json.loads(raw)
    question, answers = thread["question"], thread["answers"]
    if len(answers) < limits.fewest_answers:
        return _dropped("answers_few", f"{len(answers):,} answers")
    if limits.least_score is not None and question["score"] < limits.least_score:
        return _dropped("answers_score", f"a score of {question['score']:,}")
    people = Participants(_user(one) for one in (question, *answers))
    asked = page_text(question["body"]).strip()
    said = [(one, page_text(one["body"]).strip()) for one in answers]
    said = [(one, text) for one, text in said if text]
    if not asked or not said:
        return _dropped("answers_no_text", "the question or all of its answers hold no text")
    pieces: list[Piece] = [("<issue_start>", _said(people, question, asked))]
    for one, text in said:
        selected = " [selected answer]" if one["id"] == question.get("accepted") else ""
        shown = f"{_said(people, one, text)}\nUpvotes: {one['score']}{selected}"
        pieces.append(("<issue_comment>", shown))
    return Document(ANSWERS, "", tuple(pieces))


def _user(post: dict[str, Any]) -> str:
    """Who wrote it; a post without an owner is one person's of its own."""
    return post["user"] or f"\0{post['id']}"


def _said(people: Participants, post: dict[str, Any], text: str) -> str:
    return f"{people.name(_user(post))}: {people.hide(text)}"


def _dropped(rule: str, reason: str) -> Document:
    return Document(ANSWERS, "", (), Verdict(False, rule, reason))
