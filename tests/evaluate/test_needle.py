"""Needles: what is asked, and that the scores tell one who knows from one who guesses."""

import math
from dataclasses import replace

import pytest
import torch

from cairn.base import UserError
from cairn.evaluate.heldout import File, HeldOut
from cairn.evaluate.needle import DIGITS, Needle, haystack
from cairn.evaluate.speaker import Speaker
from cairn.evaluate.task import Setting
from cairn.evaluate.tasks import find_tasks
from cairn.model import build
from cairn.model.likelihood import answered, tail_bits
from cairn.tokens.learning import learn

TEXT = "".join(f"def f{n}(x):\n    return x + {n}\n\n" for n in range(40))


@pytest.fixture(scope="module")
def words():
    return learn([TEXT, "magic_quiet_river = 0123456789\n"] * 3, 400)


@pytest.fixture(scope="module")
def held():
    return HeldOut([File("a" * 40, "r", "a.py", "Python", TEXT.encode())])


@pytest.mark.parametrize("tokens", [256, 1000])
@pytest.mark.parametrize("group", ["single", "multikey"])
def test_an_example_has_its_length_and_its_needle_once(words, held, tokens, group):
    task = Needle("needle", tokens)
    lines = haystack(held.files, words, tokens)
    depths = []
    for number in range(10):
        example, ids, other, counted = task.example(group, number, lines, words)
        assert len(ids) == tokens
        assert words.decode(ids[-counted:]) == example.reference
        assert len(example.reference) == DIGITS
        name = example.prompt.rsplit("\n", 1)[1].removesuffix(' = "')
        assert example.prompt.count(f'{name} = "{example.reference}"\n') == 1
        assert example.prompt.count("magic_") == (2 if group == "single" else 5)
        depths.append(example.prompt.index(name) / len(example.prompt))
        differ = [place for place in range(tokens) if ids[place] != other[place]]
        assert len(differ) == DIGITS
        assert len(other) == tokens
        assert (example, ids, other, counted) == task.example(group, number, lines, words)
    assert depths[0] < 0.25 < 0.7 < depths[-1]


class Knowing:
    """Gives a token a high logit where a text says so."""

    def __init__(self, vocab_size: int, sure: bool) -> None:
        self.vocab_size, self.sure = vocab_size, sure

    def hidden(self, flat, spans):
        return torch.roll(flat, -1)[:, None]

    def head(self, hidden):
        logits = torch.zeros(len(hidden), self.vocab_size)
        if self.sure:
            logits.scatter_(1, hidden, 50.0)
        return logits


@pytest.mark.parametrize("sure", [True, False])
def test_scores_of_one_who_knows_and_one_who_guesses(words, held, small_model, sure):
    speaker = Speaker.__new__(Speaker)
    speaker.tokenizer = words
    speaker.model = Knowing(words.vocab_size, sure)
    speaker.model.config = small_model
    result = Needle("needle_512", 512).run(Setting(speaker=speaker, heldout=held, limit=6))
    scores = {score.metric: score for score in result.scores}
    assert scores["accuracy"].n == 12
    assert scores["accuracy"].value == float(sure)
    expected = 0.0 if sure else math.log2(words.vocab_size)
    assert scores["bits_per_digit"].value == pytest.approx(expected, abs=1e-3)
    assert scores["bits_per_digit/multikey"].n == 6
    assert scores["bits_found_per_digit"].value == 0, "neither looks back"
    assert result.conditions["trained_context"] == 256


def test_answered_agrees_with_bits_and_greedy(small_model):
    model = build(replace(small_model, vocab_size=64), seed=3).eval()
    ids = [5, 9, 20, 33, 7, 12]
    with torch.inference_mode():
        for _ in range(3):  # greedy, three tokens
            logits = model.logits(torch.tensor([ids]))[0, -1]
            ids.append(int(logits.argmax()))
    wrong = [*ids[:-1], (ids[-1] + 1) % 64]
    found = answered(model, [(ids, 3), (wrong, 3)])
    assert [exact for _, exact in found] == [True, False]
    bits = tail_bits(model, [(ids, 3), (wrong, 3)], 256)
    assert [one for one, _ in found] == pytest.approx(bits, rel=1e-4)


def test_lengths_are_found_by_name():
    assert [task.name for task in find_tasks(("needle_1k", "needle_128k"))] == [
        "needle_1k",
        "needle_128k",
    ]
    with pytest.raises(UserError, match="did you mean"):
        find_tasks(("needle_1kk",))
