"""Thinking budgets close reasoning where they should; grammars hold whatever the model says."""

import json
import re

import pytest

from cairn.base import UserError
from cairn.engine import Engine, Grammar, SamplingParams, Thinking
from cairn.engine.budget import CLOSING, ThinkingControl
from cairn.engine.options import Speculation

pytest.importorskip("llguidance", reason="the extra grammar is not installed")


def control(thinking: Thinking, pieces: dict[int, str]) -> ThinkingControl:
    """Tokens are characters, and those of `pieces`."""
    return ThinkingControl(
        thinking,
        lambda token: pieces[token].encode() if token in pieces else chr(token).encode(),
        lambda text: [ord(char) for char in text],
    )


def write(one: ThinkingControl, model: str) -> str:
    """What comes out where the model would write `model`: forced tokens in capitals."""
    said, place = "", 0
    while not one.closed and not one.truncated:
        if one.forced is not None:
            token = one.forced
            said += chr(token).upper()
        elif place < len(model):
            token, place = ord(model[place]), place + 1
            said += chr(token)
        else:
            break
        one.accept(token)
    return said


FORCED = CLOSING.upper()


@pytest.mark.parametrize(
    ("budget", "model", "written"),
    [
        (0, "abc", FORCED),  # the prompt ends at a newline
        (3, "abcdef\nghi", "abcdef\n" + FORCED),  # the next newline after the budget
        (3, "ab\ncd", "ab\n" + FORCED),  # the token that spends it is one
        (3, "a\nbcd\ne", "a\nbcd\n" + FORCED),  # one before it does not count
        (3, "x" * 20, "x" * 8 + FORCED),  # five more tokens without one
        (3, "x" * 7 + "\nabc", "x" * 7 + "\n" + FORCED),  # the last of these five
        (50, "abc</think>", "abc</think>"),  # it ends by itself
        (3, "ab</think>", "ab</thinK>"),  # begun: completed, not begun again
        (4, "ab</</</</</</", "ab</</</<" + "/THINK>"),
        (None, "x" * 40, "x" * 40),
    ],
)
def test_reasoning_is_closed_at_the_next_newline_or_after_the_grace(budget, model, written):
    one = control(Thinking(budget=budget, grace=5), {})
    assert write(one, model) == written
    assert one.closed == (CLOSING in written.lower())


def test_the_grace_is_five_hundred_tokens():
    assert write(control(Thinking(budget=10), {}), "x" * 999) == "x" * 510 + FORCED


def test_a_character_is_not_cut_in_two():
    one = control(Thinking(budget=1, grace=1), {})
    one._token_bytes = lambda token: bytes([token])
    for byte in "a\u20ac".encode():
        assert one.forced is None
        one.accept(byte)
    assert one.forced == ord("<")
    broken = control(Thinking(budget=1, grace=1), {})
    broken._token_bytes = lambda token: bytes([token])
    for byte in b"a" + b"\xe2" * 4:
        assert broken.forced is None
        broken.accept(byte)
    assert broken.forced == ord("<"), "garbage holds it up for three tokens at most"


def test_a_newline_inside_a_token_counts():
    one = control(Thinking(budget=1, grace=9), {1: "a\n  b"})
    one.accept(1)
    assert one.forced == ord("<")


def test_truncation_ends_at_the_same_place_and_forces_nothing():
    one = control(Thinking(budget=3, grace=5, action="truncate"), {})
    assert write(one, "abcdef\nghi") == "abcdef\n"
    assert one.truncated
    assert not one.closed


def test_a_nudge_grows_at_newlines_and_while_the_tag_is_written():
    one = control(Thinking(budget=10, action="nudge"), {})
    seen = []
    for char in "abcdef\nhi\nk\n":
        one.accept(ord(char))
        seen.append(one.bias())
    assert [place for place, bias in enumerate(seen) if bias] == [9, 11]
    assert seen[9] == (ord("<"), pytest.approx(10.0))
    assert seen[11] is not None
    assert seen[11][1] > seen[9][1]  # type: ignore[index]
    one.accept(ord("<"))
    assert one.bias() == (ord("/"), pytest.approx(20.0))
    assert one.forced is None


@pytest.mark.parametrize(
    ("field", "value"),
    [("budget", -1), ("budget", True), ("budget", "9"), ("action", "stop"), ("grace", -1)],
)
def test_a_value_that_cannot_be_meant_is_refused(field, value):
    with pytest.raises(UserError, match=field):
        Thinking(**{field: value})


@pytest.fixture(scope="module")
def engine(model, words):
    return Engine(model, words, slots=4, capacity=2048, token_budget=64)


def test_forced_tokens_are_flagged_in_completions_and_deltas(engine, words):
    thinking = Thinking(budget=6, grace=4)
    params = SamplingParams(max_tokens=30, seed=1, ignore_eos=True, thinking=thinking, logprobs=0)
    (one,) = engine.generate(["a"], params)
    assert len(one.forced) == len(one.tokens)
    places = [place for place, forced in enumerate(one.forced) if forced]
    assert words.decode([one.tokens[place] for place in places]) == CLOSING
    assert places == list(range(places[0], places[-1] + 1))
    assert 6 <= places[0] <= 10
    assert one.text.count(CLOSING) == 1
    deltas = list(engine.stream("a", params))
    assert [flag for delta in deltas for flag in delta.forced] == one.forced
    (free,) = engine.generate(["a"], SamplingParams(max_tokens=30, seed=1, ignore_eos=True))
    assert one.tokens[: places[0]] == free.tokens[: places[0]]
    assert not any(free.forced)


def test_a_truncated_completion_says_so(engine):
    thinking = Thinking(budget=6, grace=4, action="truncate")
    (one,) = engine.generate(["a"], SamplingParams(max_tokens=30, seed=1, thinking=thinking))
    assert one.finish_reason in ("budget", "stop")
    params = SamplingParams(max_tokens=30, seed=1, ignore_eos=True, thinking=thinking)
    (one,) = engine.generate(["a"], params)
    assert one.finish_reason == "budget"
    assert 6 <= len(one.tokens) <= 10
    assert not any(one.forced)


SCHEMA = {
    "type": "object",
    "properties": {
        "n": {"type": "integer", "minimum": 0, "maximum": 99},
        "kind": {"enum": ["a", "b"]},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    },
    "required": ["n", "kind", "tags"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("seed", range(4))
def test_json_of_a_schema_whatever_the_model_says(engine, seed):
    grammar = Grammar.json(SCHEMA)
    (one,) = engine.generate(["x"], SamplingParams(seed=seed, max_tokens=100, grammar=grammar))
    found = json.loads(one.text)
    assert one.finish_reason == "stop"
    assert set(found) == {"n", "kind", "tags"}
    assert 0 <= found["n"] <= 99
    assert found["kind"] in "ab"
    assert all(isinstance(tag, bool) for tag in found["tags"])


def test_grammars_beside_free_rows_change_no_free_row(engine):
    free = SamplingParams(seed=3, max_tokens=20)
    held = SamplingParams(seed=3, max_tokens=20, grammar=Grammar("regex", r"[a-f]{4}/\d+;"))
    (alone,) = engine.generate(["x"], free)
    mixed = engine.generate(["x", "x", "x"], [held, free, held])
    assert mixed[1] == alone
    assert mixed[0] == mixed[2]
    assert re.match(r"[a-f]{4}/\d*;?$", mixed[0].text)


def test_a_grammar_in_lark(engine):
    lark = 'start: greeting " " NAME\ngreeting: "hello" | "bye"\nNAME: /[A-Z][a-z]{1,3}/\n'
    grammar = Grammar("lark", lark)
    (one,) = engine.generate(["x"], SamplingParams(seed=1, max_tokens=50, grammar=grammar))
    assert re.fullmatch(r"(hello|bye) [A-Z][a-z]{1,3}", one.text)


def test_reasoning_comes_before_the_grammar_and_is_free(engine):
    grammar, thinking = Grammar.json(SCHEMA), Thinking(budget=12, grace=6)
    params = SamplingParams(seed=2, max_tokens=150, grammar=grammar, thinking=thinking)
    (one,) = engine.generate(["x"], params)
    reasoning, closing, answer = one.text.partition(CLOSING)
    assert reasoning
    assert closing
    assert answer.startswith("\n\n")
    assert set(json.loads(answer)) == {"n", "kind", "tags"}


def test_tool_calls_by_grammar(engine):
    tools = [
        {"name": "add", "parameters": {"type": "object", "properties": {"x": {"const": 1}}}},
        {"name": "now"},
    ]
    grammar = Grammar.tool_calls(
        [{"name": "roll", "parameters": {"enum": [{"sides": 6}, {"sides": 20}]}}], single=True
    )
    (one,) = engine.generate(["x"], SamplingParams(seed=1, max_tokens=200, grammar=grammar))
    assert re.fullmatch(
        r'<TOOLCALL>\[\{"name": "roll", "arguments": \{"sides": (6|20)\}\}\]</TOOLCALL>', one.text
    )
    several = Grammar.tool_calls(tools)
    (two,) = engine.generate(["x"], SamplingParams(seed=1, max_tokens=60, grammar=several))
    assert two.text.startswith('<TOOLCALL>[{"name": "')


@pytest.mark.parametrize("other", [Grammar("regex", "<no[0-9]{3}>"), Grammar.json(SCHEMA)])
def test_tool_calls_or_an_answer_by_grammar(engine, other):
    tools = [{"name": "roll", "parameters": {"enum": [{"sides": 6}]}}]
    grammar = Grammar.tool_calls(tools, single=True, otherwise=other)
    every = [SamplingParams(seed=n, max_tokens=200, grammar=grammar) for n in range(12)]
    found = [one.text for one in engine.generate(["x"] * 12, every)]
    called = '<TOOLCALL>[{"name": "roll", "arguments": {"sides": 6}}]</TOOLCALL>'
    answers = [text for text in found if text != called]
    assert 0 < len(answers) < 12
    for text in answers:
        if other.kind == "regex":
            assert re.fullmatch("<no[0-9]{3}>", text)
        else:
            assert set(json.loads(text)) == {"n", "kind", "tags"}


def test_what_comes_in_place_of_calls_is_no_call():
    calls = Grammar.tool_calls([{"name": "a"}])
    for kind, other in (("regex", Grammar.json()), ("tool_calls", calls)):
        with pytest.raises(UserError, match="in place of tool calls"):
            Grammar(kind, "{}", otherwise=other)


HELD = [
    SamplingParams(max_tokens=40, temperature=0, grammar=Grammar.json(SCHEMA)),
    SamplingParams(max_tokens=40, seed=1, grammar=Grammar("regex", "(ab|ba){8}")),
    SamplingParams(max_tokens=40, seed=2, thinking=Thinking(budget=6, grace=4), ignore_eos=True),
    SamplingParams(max_tokens=40, temperature=0, repetition_penalty=1.3, ignore_eos=True),
    SamplingParams(max_tokens=40, seed=3, logit_bias={40: 3.0}, frequency_penalty=0.4, min_p=0.1),
]


def test_guesses_change_nothing_of_what_is_held(model, words):
    plain = Engine(model, words, slots=8, capacity=256)
    ahead = Engine(model, words, slots=8, capacity=256, speculation=Speculation(most=4))
    prompts = ["ab ab ab ab"] * len(HELD)
    expected = plain.generate(prompts, HELD)
    assert ahead.generate(prompts, HELD) == expected
    for prompt, params, one in zip(prompts, HELD, expected, strict=True):
        assert ahead.generate([prompt], params)[0].tokens == one.tokens


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar("regex", "(ab"),
        Grammar("lark", "start: nothing"),
        Grammar("json_schema", '{"type": "objec"}'),
        Grammar("json_schema", "{"),
        Grammar("json_schema", '{"$ref": "#"}'),  # nothing that is written ends
    ],
)
def test_what_is_no_grammar_is_refused_before_it_runs(engine, grammar):
    with pytest.raises(UserError, match="grammar"):
        engine.generate(["x"], SamplingParams(grammar=grammar))
    assert not engine.busy


def test_a_refused_grammar_says_what_is_wrong_with_it(engine):
    for grammar, problem in (
        (Grammar("regex", "(ab"), "unclosed group"),
        (Grammar("json_schema", '{"type": "string", "pattern": "a(?=b)"}'), "look-ahead"),
        (Grammar("json_schema", '{"$ref": "#"}'), "no text fits it"),
    ):
        with pytest.raises(UserError, match=problem):
            engine.generate(["x"], SamplingParams(grammar=grammar))


@pytest.mark.parametrize("guesses", [0, 3])
def test_a_grammar_that_breaks_half_way_ends_nobody_else(model, words, guesses):
    speculation = Speculation(most=guesses) if guesses else None
    engine = Engine(model, words, slots=8, capacity=256, speculation=speculation)
    free = SamplingParams(seed=4, max_tokens=30, ignore_eos=True)
    (expected,) = engine.generate(["ab ab ab ab"], free)
    breaks = Grammar("regex", "(a{1000}){1000}{1000}")  # its states are too many to be made
    held = SamplingParams(seed=3, max_tokens=30, grammar=breaks)
    broken, other = engine.generate(["ab ab ab ab"] * 2, [held, free])
    assert broken.finish_reason == "error"
    assert "too many" in broken.problem
    assert (other.tokens, other.problem) == (expected.tokens, "")
    assert not engine.busy


def test_without_a_tokenizer_there_is_no_steering(model):
    engine = Engine(model, slots=1, capacity=64)
    for params in (SamplingParams(grammar=Grammar.json()), SamplingParams(thinking=Thinking())):
        with pytest.raises(UserError, match="tokenizer"):
            engine.generate([[1]], params)
