"""Fill-in-the-middle loses nothing, keeps its marks in order and draws as it should."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cairn.tokens import Tokenizer
from cairn.tokens.infilling import Pieces, cut, infill, prompt, psm, restore, spm

TEXT = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.sampled_from(["", "🙂", "<fim_middle> <fim_suffix>", "def f():\n\treturn 'é'\r\n"]),
)


@given(text=TEXT, seed=st.integers(0, 2**32))
def test_cuts_lose_nothing(text: str, seed: int):
    pieces = cut(text, np.random.default_rng(seed))
    assert pieces.prefix + pieces.middle + pieces.suffix == text


@settings(max_examples=200, deadline=None)
@given(text=TEXT, seed=st.integers(0, 2**32), rate=st.sampled_from([0.0, 0.5, 1.0]))
def test_the_text_comes_back(tokenizer: Tokenizer, text: str, seed: int, rate: float):
    ids = infill(text, tokenizer, np.random.default_rng(seed), head="a/ß.py\n", spm_rate=rate)
    assert restore(ids, tokenizer) == "a/ß.py\n" + text
    assert [ids.count(mark) for mark in (1, 2, 3)] == [1, 1, 1]
    assert sum(map(tokenizer.is_special, ids)) == 3
    again = infill(text, tokenizer, np.random.default_rng(seed), head="a/ß.py\n", spm_rate=rate)
    assert ids == again


def test_orders(tokenizer: Tokenizer):
    pieces = Pieces("one", "two", "three")
    assert tokenizer.decode(psm(pieces, tokenizer)) == (
        "<fim_prefix>one<fim_suffix>three<fim_middle>two"
    )
    assert tokenizer.decode(spm(pieces, tokenizer)) == (
        "<fim_prefix><fim_suffix>three<fim_middle>onetwo"
    )
    assert psm(pieces, tokenizer)[: -len(tokenizer.encode("two"))] == prompt(
        "one", "three", tokenizer
    )


def test_the_head_opens_the_prefix(tokenizer: Tokenizer):
    generator = np.random.default_rng(0)
    for _ in range(20):
        told = tokenizer.decode(infill("code", tokenizer, generator, head="p\n", spm_rate=0.0))
        assert told.startswith("<fim_prefix>p\n")
        told = tokenizer.decode(infill("code", tokenizer, generator, head="p\n", spm_rate=1.0))
        assert "<fim_middle>p\n" in told


def test_cuts_are_uniform_over_the_places_between_characters():
    generator = np.random.default_rng(0)
    first, second = np.zeros(5), np.zeros(5)
    for _ in range(20_000):
        pieces = cut("é🙂ab", generator)
        first[len(pieces.prefix)] += 1
        second[4 - len(pieces.suffix)] += 1
    least = np.array([9, 7, 5, 3, 1]) / 25  # of the smaller of two uniform draws from five
    assert np.allclose(first / 20_000, least, atol=0.01)
    assert np.allclose(second / 20_000, least[::-1], atol=0.01)


def test_the_share_of_spm(tokenizer: Tokenizer):
    generator = np.random.default_rng(0)
    told = [infill("abcd", tokenizer, generator, spm_rate=0.25) for _ in range(2_000)]
    # prefix-first with an empty prefix (9 of 25 draws) looks the same up to its second mark
    share = np.mean([ids[1] == tokenizer.id("<fim_suffix>") for ids in told])
    assert share == pytest.approx(0.25 + 0.75 * 9 / 25, abs=0.03)


def test_restore_refuses_what_is_not_in_order(tokenizer: Tokenizer):
    for ids in ([], tokenizer.encode("plain"), [1, 3, 2, 2], [3, 1, 2]):
        with pytest.raises(ValueError, match="order"):
            restore(ids, tokenizer)
