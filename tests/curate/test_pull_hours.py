"""Pull requests of real hours: dropped by rules with counts, or in the report's layout."""

from collections import Counter
from pathlib import Path

import pytest

from cairn.curate.pieces import Document
from cairn.curate.pulls import PullLimits, pull_request_document
from cairn.sources.events import OPTIONS, read
from cairn.sources.spec import parse

OLD = Counter(pr_not_merged=195, pr_no_text=112, pr_bot=3, pr_bot_comments=1, pr_base_changed=1)


@pytest.fixture(scope="module")
def threads(data_folder: Path) -> list[bytes]:
    """The pull requests of an hour of 2013 and one of 2014."""
    found = read(parse(f"gharchive:{data_folder}/gharchive/hours", {"gharchive": OPTIONS}))
    return [one.raw for one in found if one.kind == "pull_request" and one.raw]


def made(threads: list[bytes], limits: PullLimits) -> list[Document]:
    return [pull_request_document(one, limits, 0) for one in threads]


def test_without_commits_the_report_keeps_none(threads: list[bytes]):
    rules = Counter(one.verdict.rule for one in made(threads, PullLimits()))
    assert rules == OLD + Counter(pr_no_diff=199)


def test_their_threads_may_be_told_without_files(threads: list[bytes]):
    documents = made(threads, PullLimits(without_diff=True, thinning=False))
    rules = Counter(one.verdict.rule for one in documents)
    kept = [one for one in documents if one.verdict.keep]
    assert rules.pop("") == len(kept) > 50
    later = Counter(pr_title=rules["pr_title"], pr_description=77, pr_short=rules["pr_short"])
    assert rules == OLD + later
    assert sum(later.values()) + len(kept) == 199
    for one in kept:
        marks = [mark for mark, _ in one.pieces]
        assert marks[:5] == ["<pr>", "<pr_status>", "<repo_name>", "<pr_base>", "<pr_diff>"]
        assert one.pieces[0][1].startswith("Title: ")
        assert one.pieces[4] == ("<pr_diff>", "[DIFFS OMITTED]\n")
        assert ("<pr_is_merged>", "True\n") in one.pieces
