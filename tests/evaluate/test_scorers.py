"""Scorers against their definitions."""

import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cairn.evaluate.scorers import edit_similarity, exact_match, levenshtein, pass_at_k


def naive_distance(a: str, b: str) -> int:
    """The table of Wagner and Fischer, cell by cell."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        before, row = row, [i]
        for j, right in enumerate(b, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (left != right)))
    return row[-1]


@settings(max_examples=300, deadline=None)
@given(st.text("abcé\n", max_size=40), st.text("abcé\n", max_size=40))
def test_levenshtein_is_the_table(a, b):
    assert levenshtein(a, b) == naive_distance(a, b)


def test_levenshtein_of_long_texts():
    chance = random.Random(0)
    a = "".join(chance.choice("abcdef") for _ in range(700))
    b = a[100:400] + "xyz" + a[380:]
    assert levenshtein(a, b) == naive_distance(a, b)
    assert levenshtein(a, a) == 0
    assert levenshtein("", a) == levenshtein(a, "") == 700


def test_edit_similarity():
    assert edit_similarity("abcd", "abxd") == 0.75
    assert edit_similarity("  abcd\n", "abcd") == 1.0
    assert edit_similarity("", " \n") == 1.0
    assert edit_similarity("abc", "") == 0.0
    assert edit_similarity("kitten", "sitting") == pytest.approx(1 - 3 / 7)


def test_exact_match_strips_ends_only():
    assert exact_match(" x = 1\n", "x = 1") == 1.0
    assert exact_match("x  = 1", "x = 1") == 0.0


def test_pass_at_k_is_the_share_of_choices_with_a_right_one():
    for n, c in itertools.product(range(1, 8), range(8)):
        if c > n:
            continue
        answers = [True] * c + [False] * (n - c)
        for k in range(1, n + 1):
            chosen = list(itertools.combinations(answers, k))
            expected = sum(any(some) for some in chosen) / len(chosen)
            assert pass_at_k(n, c, k) == pytest.approx(expected)


def test_pass_at_k_of_large_numbers_and_mistakes():
    assert pass_at_k(200, 0, 100) == 0.0
    assert pass_at_k(200, 200, 1) == 1.0
    assert math.isclose(pass_at_k(200, 40, 1), 0.2)
    with pytest.raises(ValueError, match="pass@3"):
        pass_at_k(2, 1, 3)
