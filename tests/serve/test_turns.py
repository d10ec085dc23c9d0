"""A turn is taken apart in one way, however its text is cut into pieces."""

import itertools
import json
import random

import pytest

from cairn.serve.turns import Piece, TurnParser

CALL = '{"name": "add", "arguments": {"a": 1, "s": "x]} \\" </TOOLCALL>"}}'
ARGUMENTS = '{"a": 1, "s": "x]} \\" </TOOLCALL>"}'


def call(arguments: str = ARGUMENTS, name: str = "add") -> tuple[str, str, str]:
    return ("call", json.dumps(json.loads(arguments), ensure_ascii=False), name)


def text(kind: str, said: str) -> tuple[str, str, str]:
    return (kind, said, "")


R, C = "reasoning", "content"
TABLE = [
    # thinking, tools, text, what it is
    (False, False, "plain <think> text </think> ", [text(C, "plain <think> text </think> ")]),
    (False, False, f"<TOOLCALL>[{CALL}]</TOOLCALL>", [text(C, f"<TOOLCALL>[{CALL}]</TOOLCALL>")]),
    (False, False, "  \n", [text(C, "  \n")]),
    (False, False, "", []),
    (True, False, "I see.\n</think>\n\nYes. ", [text(R, "I see."), text(C, "Yes. ")]),
    (True, False, "<think>\nI see.</think>Yes", [text(R, "I see."), text(C, "Yes")]),
    (True, False, "\n\n<think>  a </think> b", [text(R, "a"), text(C, "b")]),
    (
        True,
        False,
        "a < b </thin </think>c</think>",
        [text(R, "a < b </thin"), text(C, "c</think>")],
    ),
    (True, False, "never closed </thi", [text(R, "never closed </thi")]),
    (True, False, "</think>\n\nnow", [text(C, "now")]),
    (True, False, "<thin air</think>x", [text(R, "<thin air"), text(C, "x")]),
    (True, False, "", []),
    (True, False, "<think>", []),
    (True, False, "<thi", [text(R, "<thi")]),
    (True, False, "a\u20ac\n\n\nb</think>", [text(R, "a\u20ac\n\n\nb")]),
    (True, False, "a <TOOLCALL>[", [text(R, "a <TOOLCALL>[")]),
    (False, True, "just text\n", [text(C, "just text\n")]),
    (False, True, f"<TOOLCALL>[{CALL}]</TOOLCALL>\n", [call()]),
    (
        False,
        True,
        f"Look: \n<TOOLCALL>[{CALL}, {CALL}]</TOOLCALL>",
        [text(C, "Look:"), call(), call()],
    ),
    (False, True, f"<TOOLCALL> {CALL} </TOOLCALL> then", [call(), text(C, "then")]),
    (False, True, f"<TOOLCALL>[{CALL}]</TOOLCALL><TOOLCALL>[{CALL}]</TOOLCALL>", [call(), call()]),
    (True, True, f"Hm.\n</think>\n\n<TOOLCALL>[{CALL}]</TOOLCALL>", [text(R, "Hm."), call()]),
    (True, True, f"Hm. <TOOLCALL>[{CALL}]</TOOLCALL>", [text(R, "Hm."), call()]),
    (True, True, f"<TOOLCALL>[{CALL}", [call()]),
    (True, True, f"x<TOOLCALL>[{CALL}]</TOOLCA", [text(R, "x"), call()]),
    (False, True, "<TOOLCALL>[]</TOOLCALL>", []),
    (False, True, "<TOOLCALL>nonsense</TOOLCALL>!", [text(C, "<TOOLCALL>nonsense</TOOLCALL>!")]),
    (False, True, '<TOOLCALL>[{"name": "a"', [text(C, '<TOOLCALL>[{"name": "a"')]),
    (
        False,
        True,
        '<TOOLCALL>[{"name": 5}]</TOOLCALL>',
        [text(C, '<TOOLCALL>[{"name": 5}]</TOOLCALL>')],
    ),
    (False, True, "<TOOLCALL>[{]]</TOOLCALL>.", [text(C, "<TOOLCALL>[{]]</TOOLCALL>.")]),
    (
        False,
        True,
        f"<TOOLCALL>[{CALL}, oops]</TOOLCALL>",
        [call(), text(C, "<TOOLCALL>, oops]</TOOLCALL>")],
    ),
    (False, True, '<TOOLCALL>[{"name": "now"}]</TOOLCALL>', [call("{}", "now")]),
    (
        False,
        True,
        '<TOOLCALL>[{"name": "q", "arguments": "{\\"a\\": [1]}"}]</TOOLCALL>',
        [call('{"a": [1]}', "q")],
    ),
    (False, True, "a <TOOL b <TOOLCALL", [text(C, "a <TOOL b <TOOLCALL")]),
]


INSTEAD = [
    # thinking, text, what it is where calls come in place of words alone
    (False, f"<TOOLCALL>[{CALL}]</TOOLCALL>", [call()]),
    (
        True,
        f"Hm.\n</think>\n\n<TOOLCALL>[{CALL}, {CALL}]</TOOLCALL>",
        [text(R, "Hm."), call(), call()],
    ),
    (False, f'"<TOOLCALL>[{CALL}]"', [text(C, f'"<TOOLCALL>[{CALL}]"')]),
    (True, "So</think>\n\n<TOOL <TOOLCALL>", [text(R, "So"), text(C, "<TOOL <TOOLCALL>")]),
    (False, "<TOOLCAL", [text(C, "<TOOLCAL")]),
]


def parse(
    thinking: bool, tools: bool, pieces: list[str], instead: bool = False
) -> list[tuple[str, str, str]]:
    """The turn's pieces, those of one kind that follow each other joined."""
    parser = TurnParser(thinking=thinking, tools=tools, instead=instead)
    found: list[Piece] = []
    for place, piece in enumerate(pieces):
        found += parser.push(piece, final=place == len(pieces) - 1)
    joined: list[tuple[str, str, str]] = []
    for one in found:
        assert one.kind == "call" or one.text
        if joined and one.kind != "call" and joined[-1][0] == one.kind:
            joined[-1] = (one.kind, joined[-1][1] + one.text, "")
        else:
            joined.append((one.kind, one.text, one.name))
    assert parser.called == any(one[0] == "call" for one in joined)
    return joined


def splits(whole: str) -> list[list[str]]:
    """In one piece, in two and three at every place, in single characters, and at random."""
    places = range(len(whole) + 1)
    found = [[whole], [*whole, ""], [whole, ""], ["", whole]]
    step = 1 if len(whole) < 60 else 3  # of three pieces, where there are thousands
    found += [[whole[:place], whole[place:]] for place in places]
    for first, second in itertools.combinations(places[::step], 2):
        found.append([whole[:first], whole[first:second], whole[second:]])
    generator = random.Random(len(whole))
    for _ in range(50):
        cuts = sorted(generator.choices(places, k=8))
        found.append([whole[a:b] for a, b in itertools.pairwise([0, *cuts, len(whole)])])
    return found


@pytest.mark.parametrize(("thinking", "tools", "whole", "expected"), TABLE)
def test_every_split_gives_the_same_turn(thinking, tools, whole, expected):
    for pieces in splits(whole):
        assert parse(thinking, tools, pieces) == expected, pieces


@pytest.mark.parametrize(("thinking", "whole", "expected"), INSTEAD)
def test_an_answer_that_has_begun_may_spell_a_call(thinking, whole, expected):
    for pieces in splits(whole):
        assert parse(thinking, True, pieces, instead=True) == expected, pieces


def test_text_is_given_out_as_soon_as_it_is_decided():
    parser = TurnParser(thinking=True, tools=True)
    assert parser.push("one ") == [Piece("reasoning", "one")]
    assert parser.push("two <") == [Piece("reasoning", " two")]
    assert parser.push("b") == [Piece("reasoning", " <b")]
    parser.push("</think>")
    assert parser.push("\n\nHi") == [Piece("content", "Hi")]
    assert parser.push(f"<TOOLCALL>[{CALL[:-1]}") == []
    assert [piece.kind for piece in parser.push("}")] == ["call"]


def test_a_long_call_takes_no_quadratic_time():
    arguments = json.dumps({"name": "w", "arguments": {"text": "x" * 200_000}})
    parser = TurnParser(thinking=False, tools=True)
    found = parser.push(f"<TOOLCALL>[{arguments}]</TOOLCALL>", final=True)
    assert [piece.name for piece in found] == ["w"]


@pytest.mark.parametrize("most", [None, 1])
def test_a_turn_of_one_call_keeps_the_first(most):
    from cairn.serve.chat import _message, _Turn

    said = f"Look: <TOOLCALL>[{CALL}, {CALL}]</TOOLCALL>"
    pieces = TurnParser(thinking=False, tools=True).push(said, final=True)
    message = _message(pieces, most)
    assert message["content"] == "Look:"
    assert len(message["tool_calls"]) == (most or 2)
    turn = _Turn(TurnParser(thinking=False, tools=True), most)
    deltas = [delta for char in said for delta in turn.push(char, final=False)]
    deltas += turn.push("", final=True)
    calls = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    assert [one["index"] for one in calls] == list(range(most or 2))
