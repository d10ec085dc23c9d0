"""Pull requests: The Stack v2 (arXiv 2402.19173), section 2.3, in the layout of its section 5."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from cairn.curate.bots import is_bot, without_bots
from cairn.curate.messages import Participants, clean, cut_characters, cut_lines, unfilled
from cairn.curate.pieces import Document, Piece
from cairn.curate.pulls.files import File, is_data, select
from cairn.curate.pulls.limits import PullLimits, drawn, keep_probability
from cairn.curate.pulls.thread import (
    COMMENT,
    HEAD,
    REVIEW,
    REVIEW_COMMENT,
    STATUS,
    Item,
    Pull,
    only_bots,
    parse,
)  # fmt: skip
from cairn.curate.rules import Verdict
from cairn.sources.record import PULL_REQUEST

OMITTED = "[DIFFS OMITTED]"


def pull_request_document(raw: bytes, limits: PullLimits, seed: int) -> Document:
    """A pull request's training document, or a verdict with no pieces.

    `raw` is a thread's JSON as `cairn.sources.events.read` gives it. Rules in order, each with a
    verdict's name: pr_no_text, pr_bot, pr_bot_comments, pr_base_changed, pr_not_merged (nor
    approved), pr_no_diff, pr_title, pr_template, pr_description, pr_subsampled, pr_files (no
    changed file is kept), pr_data, pr_short, pr_long. The repository's licence and opt-out are not
    of a thread alone. What is drawn depends on `seed` and the thread's repository and number.
    """
    thread = json.loads(raw)
    pull = parse(thread)
    if pull is None:
        return _dropped("pr_no_text", f"none of {len(thread['events']):,} events holds a title")
    title, description = clean(pull.title), clean(pull.description)
    failed = next(_failures(pull, title, description, limits, seed), None)
    if failed:
        return _dropped(*failed)
    at_hand = not _not_at_hand(pull)
    files, left_out = select(pull.trees, limits) if at_hand and pull.trees else ([], {})
    if at_hand and not any(pull.head in file.heads for file in files):
        told = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
        return _dropped("pr_files", f"no changed file is kept ({told})")
    data = is_data(files, limits)
    if data and not drawn(seed, f"{pull.key}\0data", limits.data_kept):
        return _dropped("pr_data", data)
    pull = replace(
        pull,
        title=cut_characters(title, limits.longest_title),
        description=cut_characters(
            cut_lines(description, limits.first_lines, limits.last_lines),
            limits.longest_description,
        ),
        items=tuple(_said(pull.items, limits)),
    )
    pieces = tuple(_Layout(pull, files, limits, seed).pieces())
    size = sum(len(text) for _, text in pieces)
    if size < limits.fewest_characters:
        return _dropped("pr_short", f"{size:,} characters")
    if size > limits.most_characters:
        return _dropped("pr_long", f"{size:,} characters")
    return Document(PULL_REQUEST, "", pieces)


def _dropped(rule: str, reason: str) -> Document:
    return Document(PULL_REQUEST, "", (), Verdict(False, rule, reason))


def _failures(
    pull: Pull, title: str, description: str, limits: PullLimits, seed: int
) -> Iterator[tuple[str, str]]:
    """The rules that drop a whole pull request and need no file, each with its reason."""
    if is_bot(pull.user):
        yield "pr_bot", f"opened by {pull.user}"
    count = only_bots(pull.items)
    if count:
        yield "pr_bot_comments", f"all {count:,} comments are by bots"
    if len(pull.bases) > 1:
        yield "pr_base_changed", f"{len(pull.bases):,} base commits"
    if not pull.merged and not pull.approved:
        yield "pr_not_merged", "neither merged nor approved"
    problem = _no_diff(pull) or ("" if limits.without_diff else _not_at_hand(pull))
    if problem:
        yield "pr_no_diff", problem
    if len(title) < limits.title_characters:
        yield "pr_title", f"{len(title)} characters"
    word = next((word for word in limits.title_words if word in title.lower()), "")
    if word:
        yield "pr_title", f"the title says {word!r}"
    if unfilled(pull.description.replace("\r\n", "\n")):
        yield "pr_template", f"{len(pull.description):,} characters of a template"
    if len(description) < limits.description_characters:
        yield "pr_description", f"{len(description)} characters"
    word = next((word for word in limits.description_words if word in description), "")
    if word:
        yield "pr_description", f"the description says {word!r}"
    chance = keep_probability(pull.in_repository)
    if limits.thinning and not drawn(seed, f"{pull.key}\0repository", chance):
        yield "pr_subsampled", f"one of {pull.in_repository:,}: kept with {chance:.4f}"


def _no_diff(pull: Pull) -> str:
    """Why nothing differs; empty where something does, or where the commits are not at hand."""
    if pull.bases and pull.bases[0] == pull.head:
        return "base equals head"
    if _not_at_hand(pull):
        return ""
    return "" if _first(pull).get("files") else "no file differs"


def _not_at_hand(pull: Pull) -> str:
    """Why the files of base and head cannot be compared; empty where they can."""
    if not pull.bases or not pull.head:
        return "no event holds the base and head commits"
    if pull.trees is None:
        return "no trees were given to find the commits in"
    return _first(pull).get("problem", "")


def _first(pull: Pull) -> dict[str, Any]:
    heads = pull.trees["heads"] if pull.trees else []
    return next((head for head in heads if head["commit"] == pull.head), {})


def _said(items: tuple[Item, ...], limits: PullLimits) -> Iterator[Item]:
    """Items as they are shown: without programs' comments, and the rest cleaned, or left out."""
    spoken = [item for item in items if item.kind in (COMMENT, REVIEW, REVIEW_COMMENT)]
    kept = {id(one) for one in without_bots(spoken, lambda one: one.user, lambda one: one.text)}
    for item in items:
        if item.kind in (STATUS, HEAD):
            yield item
        elif id(item) in kept:
            text = clean(item.text)
            decides = item.kind == REVIEW and item.state != "commented"
            long_enough = len(text) >= limits.comment_characters
            if decides or long_enough or (item.kind == REVIEW_COMMENT and text):
                yield replace(item, text=text)


class _Layout:
    """Writes one pull request; `end` is what a line of the report's layout ends in."""

    def __init__(self, pull: Pull, files: list[File], limits: PullLimits, seed: int) -> None:
        self.pull, self.files, self.limits, self.seed = pull, files, limits, seed
        users = [pull.user, *(item.user for item in pull.items if item.kind != HEAD)]
        self.people = Participants(users)
        self.end = "\n" if limits.newlines else ""
        trees = pull.trees or {"heads": []}
        self.resolved = {head["commit"] for head in trees["heads"] if "files" in head}

    def pieces(self) -> Iterator[Piece]:
        """All pieces in order: opening, base, first diff, and what followed."""
        pull, end = self.pull, self.end
        title, description = self.people.hide(pull.title), self.people.hide(pull.description)
        yield "<pr>", f"Title: {title}\n{self.people.name(pull.user)}: {description}{end}"
        yield "<pr_status>", f"opened{end}"
        yield "<repo_name>", f"{pull.repository}{end}"
        yield "<pr_base>", end
        for number, file in enumerate(self.files, 1):
            last = end if number == len(self.files) else ""
            yield "<pr_file>", file.path
            yield "<pr_base_code>", file.shown(self.seed, pull.key, self.limits) + last
        yield from self._diff(pull.head)
        for item in pull.items:
            yield from self._item(item)

    def _diff(self, commit: str) -> Iterator[Piece]:
        if commit not in self.resolved:
            yield "<pr_diff>", OMITTED + self.end
            return
        yield "<pr_diff>", self.end
        for file in self.files:
            found = file.hunks(commit, self.seed, self.pull.key, self.limits)
            if found:
                yield "<pr_file>", file.path
                yield from (("<pr_diff_hunk>", hunk) for hunk in found[:-1])
                yield "<pr_diff_hunk>", found[-1] + self.end

    def _item(self, item: Item) -> Iterator[Piece]:
        end = self.end
        if item.kind == HEAD:
            yield from self._diff(item.commit)
            return
        name = self.people.name(item.user)
        said = f"{name}: {self.people.hide(item.text)}"
        if item.kind == STATUS:
            yield "<pr>", name
            yield "<pr_status>", item.state + ("" if item.state == "closed" else end)
            if item.state == "closed":
                yield "<pr_is_merged>", f"{item.merged}{end}"
        elif item.kind == COMMENT:
            yield "<pr_comment>", said
            yield "<pr_event_id>", f"{_number(item.event_id)}{end}"
        elif item.kind == REVIEW:
            yield "<pr_review>", f"{said}\n"
            yield "<pr_event_id>", _number(item.event_id)
            yield "<pr_review_state>", item.state + end
        else:
            yield from self._review_comment(item, said)

    def _review_comment(self, item: Item, said: str) -> Iterator[Piece]:
        yield "<pr_review_comment>", ""
        yield "<pr_event_id>", _number(item.event_id)
        if item.review is not None:
            yield "<pr_in_reply_to_review_id>", str(item.review)
        if item.reply is not None:
            yield "<pr_in_reply_to_comment_id>", str(item.reply)
        if item.path is not None:
            yield "<pr_file>", item.path
        if item.line is not None:
            yield "<pr_diff_hunk_comment_line>", str(item.line)
        if item.hunk is not None:
            short = len(item.hunk) <= self.limits.longest_hunk
            yield "<pr_diff_hunk>", item.hunk if short else OMITTED
        yield "<pr_comment>", said + self.end


def _number(identifier: int | None) -> str:
    return "" if identifier is None else str(identifier)
