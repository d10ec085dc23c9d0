"""Guesses stop where they do not pay, and nothing that is drawn changes."""

import random

import pytest

from cairn.engine import Engine, SamplingParams, Speculation
from cairn.engine.detokenizer import Detokenizer
from cairn.engine.drafts import FIRST_PAUSE, LAST_PAUSE, PromptLookup, learn
from cairn.engine.sequence import Sequence
from cairn.model import build

from ..fixtures.shapes import untrained


def sequence(prompt: list[int]) -> Sequence:
    return Sequence(
        id=0,
        prompt=prompt,
        params=SamplingParams(),
        seed=0,
        stop_tokens=frozenset(),
        limit=5000,
        detokenizer=Detokenizer(lambda token: b""),
    )


def drawn(text: list[int], start: int) -> tuple[int, int]:
    """How many guesses were made and right where a model draws `text` from `start` on."""
    one, lookup = sequence(text[:start]), PromptLookup(4)
    guessed = right = 0
    while one.length < len(text):
        lookup.propose([one])
        after = text[one.length : one.length + len(one.drafts)]
        good = 0
        while good < len(after) and after[good] == one.drafts[good]:
            good += 1
        one.output += text[one.length : one.length + good + 1]
        if one.drafts:
            guessed, right = guessed + len(one.drafts), right + good
            learn(one, len(one.drafts), good, 4)
    return guessed, right


def test_what_repeats_is_guessed_throughout():
    page = [random.Random(0).randrange(1000) for _ in range(300)]
    guessed, right = drawn(page * 3, 300)
    assert right >= guessed - 4, "the last ones go past the end"
    assert right > 0.75 * 600


def test_where_guesses_are_wrong_they_become_rare():
    """Pairs that come again and again, and go on otherwise each time."""
    dice = random.Random(1)
    text = [token for _ in range(400) for token in (1, 2, 3 + dice.randrange(900))]
    guessed, right = drawn(text, 30)
    assert right < 0.2 * guessed
    assert guessed < len(text) / 16


def test_guesses_come_back_where_the_text_repeats_again():
    dice = random.Random(2)
    text = [token for _ in range(300) for token in (1, 2, 3 + dice.randrange(900))]
    page = [dice.randrange(1000, 2000) for _ in range(400)]
    before, _ = drawn(text + page, 30)
    guessed, right = drawn(text + page * 2, 30)
    assert right > 0.5 * 400
    assert guessed - before > 0.5 * 400


def test_a_pause_doubles_up_to_a_bound_and_shrinks_when_right():
    one = sequence([1] * 10)
    pauses = []
    for _ in range(9):
        learn(one, 2, 0, 4)
        pauses.append(one.pause)
    assert pauses[:4] == [0, FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert pauses[-1] == LAST_PAUSE
    assert one.rests_to == one.length + LAST_PAUSE
    learn(one, 2, 2, 4)
    assert one.pause == LAST_PAUSE // 4


@pytest.mark.parametrize("pattern", ["M-*M", "*-*-"])
def test_pauses_change_no_token(pattern):
    model = build(
        untrained(pattern, 12, chunk_size=16, initializer_range=0.3, eos_token_ids=(0,)),
        seed=3,
    )
    prompts = [[1, 2, 3, 1, 2, 4, 1, 2, 5] * 4, [7, 8] * 9, list(range(1, 12)) * 3]
    params = [
        SamplingParams(max_tokens=160, temperature=n / 2, seed=n, ignore_eos=True) for n in range(3)
    ]
    expected = Engine(model, slots=3, capacity=256).generate(prompts, params)
    engine = Engine(model, slots=3, capacity=256, speculation=Speculation(most=4))
    paused = []
    ids = [engine.add(prompt, own) for prompt, own in zip(prompts, params, strict=True)]
    found = {}
    while engine.busy:
        paused += [one.pause for one in engine._sequences.values()]
        found |= {one.id: one.completion for one in engine.step() if one.completion}
    assert [found[one] for one in ids] == expected
    assert max(paused) > 0
    assert engine.load.tokens_guessed > 0
