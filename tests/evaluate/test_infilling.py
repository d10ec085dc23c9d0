"""Gaps in held-out files: where they are cut, and how answers to them are scored."""

import pytest

from cairn.evaluate.heldout import File, HeldOut
from cairn.evaluate.infilling import (
    RANDOM_SPAN,
    SINGLE_LINE,
    Infilling,
    fitted,
    gaps,
    score_gaps,
)
from cairn.evaluate.speaker import Speaker
from cairn.evaluate.task import Example, Setting


def file(text: str) -> File:
    return File("id", "repo", "path", "Python", text.encode())


TEXT = "".join(f"def function_{n}(argument):\n    return argument + {n}\n\n" for n in range(40))


def test_gaps_put_together_again_are_the_file():
    short = file(TEXT[:1100])
    found = gaps([short])
    assert [example.group for example in found] == [SINGLE_LINE, RANDOM_SPAN]
    for example in found:
        assert example.prompt + example.reference + (example.suffix or "") in short.text
    line = found[0]
    assert "\n" not in line.reference
    assert sum(char.isalnum() for char in line.reference) >= 3
    assert not line.prompt or line.prompt.endswith("\n")
    assert line.suffix is not None
    assert line.suffix.startswith("\n")
    assert 8 <= len(found[1].reference) <= 120


def test_gaps_depend_on_the_content_alone():
    files = [file(TEXT + str(n)) for n in range(6)]
    together = {example.id: example for example in gaps(files)}
    for one in reversed(files):
        for example in gaps([one]):
            assert together.pop(example.id) == example
    assert not together
    assert len({example.prompt for example in gaps(files)}) > 6


def test_short_files_and_files_without_letters_have_no_gaps():
    assert gaps([file("x = 1\n")]) == []
    assert [e.group for e in gaps([file("-" * 900)])] == [RANDOM_SPAN]
    assert gaps([file(" \n" * 400)]) == []


def test_a_limit_counts_files_with_gaps():
    files = [File(f"{n:02d}", "r", "p", "Python", b"x = 1\n") for n in range(5)]
    files += [File(f"{n + 5:02d}", "r", "p", "Python", (TEXT + str(n)).encode()) for n in range(3)]
    setting = Setting(heldout=HeldOut(files), limit=2)
    assert len(Infilling().examples(setting)) == 4


def test_what_does_not_fit_is_cut_at_the_far_ends():
    example = Example(id="x", prompt="a" * 900 + "near", suffix="close" + "b" * 900, reference="r")
    cut = fitted(example, lambda text: list(text.encode()), room=90)
    assert len(cut.prompt) <= 60
    assert len(cut.suffix or "") <= 30
    assert cut.prompt.endswith("near")
    assert (cut.suffix or "").startswith("close")
    whole = fitted(example, lambda text: [0], room=90)
    assert whole == example


def test_scores_of_given_answers():
    examples = [
        Example(id="1", prompt="", suffix="", reference="    return x", group=SINGLE_LINE),
        Example(id="2", prompt="", suffix="", reference="abcd", group=SINGLE_LINE),
        Example(id="3", prompt="", suffix="", reference="one\ntwo", group=RANDOM_SPAN),
    ]
    result = score_gaps(Infilling(), examples, ["    return x\nmore", "abxd", "one\ntwo"], {})
    scores = {score.metric: (score.value, score.n) for score in result.scores}
    assert scores == {
        "exact_match/single_line": (0.5, 2),
        "edit_similarity/single_line": (0.875, 2),
        "exact_match/random_span": (1.0, 1),
        "edit_similarity/random_span": (1.0, 1),
    }
    assert result.records[0]["answer"] == "    return x"


def test_task_with_a_model(made):
    speaker = Speaker.load(made / "base", "cpu")
    heldout = HeldOut.open(made / "shards")
    results = [Infilling().run(Setting(speaker=speaker, heldout=heldout, limit=4)) for _ in "ab"]
    assert results[0].records == results[1].records
    assert results[0].scores == results[1].scores
    kinds = [record["kind"] for record in results[0].records]
    assert kinds == sorted(kinds, reverse=True)
    assert set(kinds) == {SINGLE_LINE, RANDOM_SPAN}
    assert all(score.value < 0.6 for score in results[0].scores)  # it never learned anything


class Oracle(Speaker):
    """Knows every answer, to follow answers through the task."""

    def answer(self, task, examples, sampling, max_tokens, stop=()):
        return [[example.reference] for example in examples]


def test_answers_stay_with_their_questions(made):
    known = Speaker.load(made / "base", "cpu")
    oracle = Oracle(known.model, known.tokenizer)
    heldout = HeldOut.open(made / "shards")
    result = Infilling().run(Setting(speaker=oracle, heldout=heldout))
    assert len(result.records) >= 6
    assert [score.value for score in result.scores] == pytest.approx([1.0] * 4)
