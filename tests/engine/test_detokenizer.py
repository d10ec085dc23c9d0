"""Text comes in whole characters, and no part of a stop string is ever shown."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from cairn.engine.detokenizer import Detokenizer


def feed(pieces: list[bytes], stop: tuple[str, ...] = ()) -> tuple[list[str], Detokenizer]:
    """The texts shown after each piece (a piece plays a token) and at the end."""
    detokenizer = Detokenizer(lambda token: pieces[token], stop)
    shown = []
    for token in range(len(pieces)):
        shown.append(detokenizer.push(token))
        if detokenizer.stopped:
            break
    shown.append(detokenizer.finish())
    return shown, detokenizer


def reference(text: str, stop: tuple[str, ...]) -> str:
    """The definition: read character by character; the first stop to be complete cuts."""
    for end in range(1, len(text) + 1):
        starts = [end - len(s) for s in stop if text[:end].endswith(s)]
        if starts:
            return text[: min(starts)]
    return text


def cut(data: bytes, places: list[int]) -> list[bytes]:
    marks = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(marks)]


def test_a_character_over_several_tokens_appears_whole():
    data = "né🦜".encode()
    shown, _ = feed([data[i : i + 1] for i in range(len(data))])
    assert shown == ["n", "", "é", "", "", "", "🦜", ""]


def test_bytes_that_are_not_utf8_become_replacement_characters():
    shown, detokenizer = feed([b"a\xff", b"b\xf0\x9f"])
    assert shown == ["a\ufffd", "b", "\ufffd"]
    assert detokenizer.text == b"a\xffb\xf0\x9f".decode("utf-8", "replace")


def test_a_beginning_of_a_stop_is_held_until_it_is_decided():
    shown, _ = feed([b"x\n", b"\n", b"y"], ("\n\ndef",))
    assert shown == ["x", "", "\n\ny", ""]
    shown, detokenizer = feed([b"x\n", b"\nd", b"ef z"], ("\n\ndef",))
    assert "".join(shown) == "x"
    assert detokenizer.stopped


def test_what_was_held_comes_out_at_the_end():
    shown, detokenizer = feed([b"x\n"], ("\n\n",))
    assert shown == ["x", "\n"]
    assert not detokenizer.stopped


def test_the_first_stop_to_be_complete_wins():
    assert feed([b"abcd"], ("abcd", "bc"))[1].text == "a"
    assert feed([b"ab", b"cd"], ("abcd", "bc"))[1].text == "a"
    assert feed([b"xabc"], ("bc", "abc"))[1].text == "x"


ALPHABET = st.text(alphabet="ab\né🦜", max_size=30)
STOPS = st.lists(st.text(alphabet="ab\né🦜", min_size=1, max_size=5), max_size=3).map(tuple)


@settings(max_examples=600, deadline=None)
@given(text=ALPHABET, stop=STOPS, places=st.lists(st.integers(0, 200), max_size=30))
def test_any_token_boundaries_give_the_text_of_the_definition(text, stop, places):
    pieces = cut(text.encode(), places)
    shown, detokenizer = feed(pieces, stop)
    expected = reference(text, stop)
    assert "".join(shown) == detokenizer.text == expected
    assert detokenizer.stopped == (expected != text)


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=40), places=st.lists(st.integers(0, 200), max_size=40))
def test_any_bytes_decode_as_in_one_piece(data, places):
    shown, _ = feed(cut(data, places))
    assert "".join(shown) == data.decode("utf-8", "replace")


@settings(max_examples=300, deadline=None)
@given(text=ALPHABET, stop=STOPS, places=st.lists(st.integers(0, 200), max_size=30))
def test_what_is_shown_is_never_taken_back(text, stop, places):
    shown, _ = feed(cut(text.encode(), places), stop)
    expected = reference(text, stop)
    so_far = ""
    for piece in shown:
        so_far += piece
        assert expected.startswith(so_far)
