"""The engine gives what plain generation gives, in any company."""

import dataclasses
import itertools
import math
import random

import pytest
import torch

from cairn.base import UserError
from cairn.engine import Caching, Engine, SamplingParams, runner
from cairn.model import Decoder

GREEDY = SamplingParams(max_tokens=12, temperature=0)


def plain(model: Decoder, prompt: list[int], count: int, ends: frozenset[int]) -> list[int]:
    """The definition of greedy generation: the whole sequence anew for each token."""
    tokens = list(prompt)
    with torch.inference_mode():
        for _ in range(count):
            logits = model.logits(torch.tensor([tokens]))[0, -1]
            tokens.append(int(logits.argmax()))
            if tokens[-1] in ends:
                break
    return tokens[len(prompt) :]


def random_prompts(count: int, vocab: int, longest: int = 40) -> list[list[int]]:
    dice = random.Random(count)
    return [[dice.randrange(vocab) for _ in range(dice.randint(1, longest))] for _ in range(count)]


@pytest.fixture(scope="module")
def expected(model, words):
    prompts = random_prompts(9, model.config.vocab_size)
    ends = frozenset({*model.config.eos_token_ids, words.id("<|endoftext|>")})
    return prompts, [plain(model, prompt, 12, ends) for prompt in prompts]


@pytest.mark.parametrize(
    ("slots", "budget"), [(1, 1), (1, 64), (2, 3), (3, 7), (4, 64), (9, 9), (9, 512)]
)
def test_greedy_tokens_equal_plain_generation(model, words, expected, slots, budget):
    prompts, tokens = expected
    engine = Engine(model, words, slots=slots, capacity=64, token_budget=budget)
    for order in (list(range(9)), [8, 3, 0, 5, 1, 7, 2, 6, 4]):
        found = engine.generate([prompts[i] for i in order], GREEDY)
        assert [one.tokens for one in found] == [tokens[i] for i in order]
    assert not engine.busy
    assert engine.load.running == engine.load.waiting == 0


@pytest.mark.parametrize("budget", [9, 40])
def test_prompts_of_which_one_row_is_asked_draw_the_same(
    model, words, expected, budget, monkeypatch
):
    monkeypatch.setattr(runner, "MANY", 1)
    prompts, tokens = expected
    engine = Engine(model, words, slots=3, capacity=64, token_budget=budget)
    params = [
        dataclasses.replace(GREEDY, prompt_logprobs=None if i % 3 else 0)
        for i in range(len(prompts))
    ]
    found = engine.generate(prompts, params)
    assert [one.tokens for one in found] == tokens
    whole = Engine(model, words, slots=1, capacity=64).generate(prompts[3:4], params[3])[0]
    assert found[3].prompt_logprobs[1:] == pytest.approx(whole.prompt_logprobs[1:], abs=2e-4)


def test_arrival_in_the_middle_changes_nothing(model, words, expected):
    prompts, tokens = expected
    dice = random.Random(0)
    for _ in range(5):
        engine = Engine(model, words, slots=3, capacity=64, token_budget=11)
        coming = list(range(9))
        dice.shuffle(coming)
        who, done = {}, {}
        while coming or engine.busy:
            for _ in range(min(len(coming), dice.choice([0, 0, 1, 3]))):
                which = coming.pop()
                who[engine.add(prompts[which], GREEDY)] = which
            for delta in engine.step():
                if delta.completion is not None:
                    done[who[delta.id]] = delta.completion.tokens
        assert [done[i] for i in range(9)] == tokens


def test_a_seed_draws_the_same_in_any_company(model, words):
    prompts = random_prompts(8, model.config.vocab_size, longest=20)
    mixed = [
        SamplingParams(max_tokens=10, seed=i, temperature=0.5 + i / 4, top_k=i % 3 * 20)
        for i in range(8)
    ]
    engine = Engine(model, words, slots=8, capacity=64)
    together = [one.tokens for one in engine.generate(prompts, mixed)]
    narrow = Engine(model, words, slots=3, capacity=64, token_budget=5)
    assert [one.tokens for one in narrow.generate(prompts, mixed)] == together
    for prompt, params, tokens in zip(prompts, mixed, together, strict=True):
        assert engine.generate([prompt], params)[0].tokens == tokens


def test_without_a_seed_draws_differ(model, words):
    engine = Engine(model, words, slots=4, capacity=64)
    params = SamplingParams(max_tokens=12, temperature=2.0)
    assert len({tuple(one.tokens) for one in engine.generate([[5]] * 4, params)}) > 1


def test_logprobs_are_those_of_the_whole_sequence(model, words):
    prompt = random_prompts(1, model.config.vocab_size)[0]
    params = SamplingParams(
        max_tokens=6, temperature=0.8, seed=1, logprobs=3, prompt_logprobs=2, ignore_eos=True
    )
    for budget in (2, 64):
        engine = Engine(model, words, slots=2, capacity=64, token_budget=budget)
        found = engine.generate([prompt, [3, 4]], params)[0]
        whole = torch.tensor([prompt + found.tokens])
        with torch.inference_mode():
            truth = model.logits(whole)[0].log_softmax(-1)
        picked = truth[:-1].gather(-1, whole[0, 1:, None])[:, 0].tolist()
        assert found.prompt_logprobs is not None
        assert found.logprobs is not None
        assert found.prompt_logprobs[0] is None
        assert found.prompt_logprobs[1:] + found.logprobs == pytest.approx(picked, abs=2e-4)
        assert found.top_logprobs is not None
        assert found.prompt_top_logprobs is not None
        assert all(len(top) == 3 for top in found.top_logprobs)
        likeliest = truth[len(prompt) - 1].argmax().item()
        assert next(iter(found.top_logprobs[0])) == likeliest
        assert len(found.prompt_logprobs) == len(found.prompt_top_logprobs) == len(prompt)


def test_nothing_to_draw_scores_the_prompt(model, words):
    engine = Engine(model, words, slots=2, capacity=8)
    params = SamplingParams(max_tokens=0, prompt_logprobs=0)
    (found,) = engine.generate([[1, 2, 3, 4, 5, 6, 7, 8]], params)  # fills the slot to the brim
    assert (found.tokens, found.text, found.finish_reason) == ([], "", "length")
    assert found.prompt_logprobs is not None
    assert len(found.prompt_logprobs) == 8


def test_text_is_the_decoded_tokens_without_special_ones(model, words):
    engine = Engine(model, words, slots=4, capacity=256)
    params = SamplingParams(max_tokens=200, temperature=1.5, seed=3, ignore_eos=True)
    (found,) = engine.generate(["def add("], params)
    special = [token for token in found.tokens if words.is_special(token)]
    assert special, "the test needs a special token among 200"
    rest = [token for token in found.tokens if not words.is_special(token)]
    assert found.text == words.decode_bytes(rest).decode("utf-8", "replace")
    assert len(found.tokens) == 200
    assert found.finish_reason == "length"


def test_a_stop_string_over_token_boundaries_ends_the_text_before_it(model, words):
    engine = Engine(model, words, slots=4, capacity=256)
    free = SamplingParams(max_tokens=60, temperature=1.2, seed=5, ignore_eos=True)
    (whole,) = engine.generate(["x = "], free)
    dice = random.Random(1)
    for _ in range(40):
        start = dice.randrange(len(whole.text) - 6)
        stop = whole.text[start : start + dice.randint(1, 6)]
        params = SamplingParams(
            max_tokens=60, temperature=1.2, seed=5, ignore_eos=True, stop=(stop,)
        )
        (found,) = engine.generate(["x = "], params)
        assert found.text == whole.text[: whole.text.index(stop)]
        assert found.finish_reason == "stop"
        assert found.tokens == whole.tokens[: len(found.tokens)]
        deltas = list(engine.stream("x = ", params))
        assert "".join(delta.text for delta in deltas) == found.text
        assert deltas[-1].completion == found


def test_a_stop_that_the_last_bytes_complete_counts_as_a_stop(model, words, monkeypatch):
    engine = Engine(model, words, slots=1, capacity=64)
    # Each token is half a character, which the end of the text turns into U+FFFD.
    monkeypatch.setattr(engine._prompts, "token_bytes", lambda token: b"\xc3")
    params = SamplingParams(max_tokens=1, temperature=0, stop=("\ufffd",), ignore_eos=True)
    (found,) = engine.generate(["a"], params)
    assert (found.text, found.finish_reason) == ("", "stop")


def test_an_end_token_stops_and_is_not_in_the_text(model, words):
    engine = Engine(model, words, slots=2, capacity=64)
    (free,) = engine.generate(["a"], SamplingParams(max_tokens=8, temperature=0, ignore_eos=True))
    ending = next(t for t in free.tokens if words.decode_bytes([t]).strip())
    params = SamplingParams(max_tokens=8, temperature=0, stop_tokens=(ending,), ignore_eos=True)
    (found,) = engine.generate(["a"], params)
    assert found.finish_reason == "stop"
    assert found.tokens == free.tokens[: free.tokens.index(ending) + 1]
    assert found.text == words.decode_bytes(found.tokens[:-1]).decode("utf-8", "replace")


def test_streaming_gives_what_generate_gives(model, words):
    engine = Engine(model, words, slots=2, capacity=64)
    params = SamplingParams(max_tokens=20, temperature=1.0, seed=8, logprobs=1)
    (whole,) = engine.generate(["import os\n"], params)
    deltas = list(engine.stream("import os\n", params))
    assert "".join(delta.text for delta in deltas) == whole.text
    assert [token for delta in deltas for token in delta.tokens] == whole.tokens
    assert [item.logprob for delta in deltas for item in delta.logprobs] == whole.logprobs
    assert deltas[-1].completion == whole
    assert all(delta.completion is None for delta in deltas[:-1])


def test_two_streams_and_generate_share_the_engine(model, words):
    engine = Engine(model, words, slots=2, capacity=64)
    params = SamplingParams(max_tokens=10, temperature=0, ignore_eos=True)
    one, two = engine.stream("a", params), engine.stream("b", params)
    pairs = [next(one), next(two)]
    between = engine.generate(["c"], params)[0]
    text_one = pairs[0].text + "".join(delta.text for delta in one)
    text_two = pairs[1].text + "".join(delta.text for delta in two)
    alone = [each.text for each in engine.generate(["a", "b", "c"], params)]
    assert [text_one, text_two, between.text] == alone


def test_closing_a_stream_frees_its_slot(model, words):
    engine = Engine(model, words, slots=1, capacity=64)
    stream = engine.stream("a", SamplingParams(max_tokens=50, ignore_eos=True))
    next(stream)
    assert engine.load.running == 1
    stream.close()
    assert not engine.busy
    assert engine.load.running == 0


def test_abort_frees_the_slot_and_gives_what_there_is(model, words):
    engine = Engine(model, words, slots=1, capacity=64)
    params = SamplingParams(max_tokens=30, temperature=0, ignore_eos=True)
    first, second = engine.add("a", params), engine.add("b", params)
    for _ in range(4):
        engine.step()
    taken = engine.abort(first)
    assert taken is not None
    assert (taken.finish_reason, len(taken.tokens)) == ("abort", 4)
    assert engine.abort(first) is None
    done = {}
    while engine.busy:
        done |= {delta.id: delta.completion for delta in engine.step() if delta.completion}
    assert list(done) == [second]
    (alone,) = engine.generate(["b"], params)
    assert done[second].tokens == alone.tokens, "a reused slot remembers somebody else"
    assert engine.abort(engine.add("c", params)) is not None
    assert not engine.busy


def test_infilling_builds_prefix_suffix_middle_and_stops_at_sentinels(model, words):
    engine = Engine(model, words, slots=1, capacity=64)
    one = engine.add("def f(", GREEDY, suffix="return x")
    sequence = engine._sequences[one]
    marks = [words.id(f"<fim_{name}>") for name in ("prefix", "suffix", "middle")]
    assert sequence.prompt == [
        marks[0],
        *words.encode("def f("),
        marks[1],
        *words.encode("return x"),
        marks[2],
    ]
    ends = {*marks, words.id("<file_sep>"), words.id("<|endoftext|>")}
    assert ends <= sequence.stop_tokens
    engine.abort(one)
    spelled = engine.add("<fim_suffix><|endoftext|>", GREEDY, suffix="")
    prompt = engine._sequences[spelled].prompt
    assert prompt.count(marks[1]) == 1, "a sentinel that is spelled in a text is text"
    assert words.id("<|endoftext|>") not in prompt


def test_an_empty_prompt_begins_a_document(model, words):
    engine = Engine(model, words, slots=1, capacity=64)
    (found,) = engine.generate([""], GREEDY)
    assert found.prompt_tokens == [words.id("<|endoftext|>")]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([0] * 64, "64 tokens"),
        ("word " * 200, "tokens and a sequence of this engine at most 64"),
        ([10**6], "no token id"),
        ([-1], "no token id"),
        ([1.5], "neither a string nor a list"),
        (5, "neither a string nor a list"),
        ([True], "neither a string nor a list"),
    ],
)
def test_a_prompt_that_cannot_run_is_refused_before_anything_runs(model, words, prompt, message):
    engine = Engine(model, words, slots=2, capacity=64)
    with pytest.raises(UserError, match=message):
        engine.generate(["fine", prompt], GREEDY)
    assert not engine.busy
    assert engine.load.steps == 0


def test_a_completion_ends_where_its_slot_is_full(model, words):
    engine = Engine(model, words, slots=2, capacity=16)
    for most in (None, 1000):
        params = SamplingParams(max_tokens=most, ignore_eos=True)
        (found,) = engine.generate([[5] * 10], params)
        assert (len(found.tokens), found.finish_reason) == (6, "length")


def test_wrong_counts_and_a_missing_tokenizer_are_refused(model, words):
    engine = Engine(model, words, slots=1, capacity=64)
    with pytest.raises(UserError, match="params has 1 entries for 2"):
        engine.generate(["a", "b"], [GREEDY])
    with pytest.raises(UserError, match="suffix has 3"):
        engine.generate(["a"], GREEDY, suffix=["x", "y", "z"])
    bare = Engine(model, slots=1, capacity=64)
    with pytest.raises(UserError, match="no tokenizer"):
        bare.generate(["a"], GREEDY)
    assert bare.generate([[1, 2]], GREEDY)[0].tokens == engine.generate([[1, 2]], GREEDY)[0].tokens


def test_one_prompt_may_be_given_bare(model, words):
    engine = Engine(model, words, slots=1, capacity=64)
    assert engine.generate("a", GREEDY) == engine.generate(["a"], GREEDY)
    assert engine.generate([], GREEDY) == []


def test_a_failing_model_frees_its_slots(model, words, monkeypatch):
    engine = Engine(model, words, slots=2, capacity=64)
    before = engine.generate(["a"], GREEDY)
    calls = itertools.count()
    run = engine._runner.run

    def breaks(slices):
        if next(calls) == 3:
            raise RuntimeError("out of memory")
        return run(slices)

    monkeypatch.setattr(engine._runner, "run", breaks)
    with pytest.raises(RuntimeError, match="out of memory"):
        engine.generate(["a", "b", "c"], SamplingParams(max_tokens=20, ignore_eos=True))
    assert not engine.busy
    assert engine.load.running == 0
    assert engine.generate(["a"], GREEDY) == before


@pytest.mark.parametrize("logprobs", [None, 0])  # the likeliest alone, and all logits
def test_logits_that_are_not_numbers_end_one_request_only(model, words, monkeypatch, logprobs):
    engine = Engine(model, words, slots=2, capacity=64)
    params = dataclasses.replace(GREEDY, logprobs=logprobs)
    (alone,) = engine.generate(["b"], params)
    steps, run = itertools.count(), engine._runner.run

    def poisoned(slices):
        rows = run(slices)
        found = rows.logits if rows.likeliest is None else rows.likeliest[0]
        if len(slices) == 2 and found is not None and next(steps) >= 2:
            found[0] = math.nan
            poisons.append(rows.likeliest is not None)
        return rows

    poisons: list[bool] = []
    monkeypatch.setattr(engine._runner, "run", poisoned)
    bad, good = engine.generate(["a", "b"], params)
    assert bad.finish_reason == "error"
    assert good.tokens == alone.tokens
    assert poisons == [logprobs is None]


def test_a_live_model_is_used_with_its_current_weights(words, fresh_model):
    engine = Engine(fresh_model, words, slots=1, capacity=64)
    prompt = [3, 1, 4, 1, 5]
    for _ in range(2):
        ends = frozenset({*fresh_model.config.eos_token_ids, words.id("<|endoftext|>")})
        expected = plain(fresh_model, prompt, 12, ends)
        assert engine.generate([prompt], GREEDY)[0].tokens == expected
        with torch.no_grad():
            for weight in fresh_model.parameters():
                weight.mul_(1.3)
    with pytest.raises(UserError, match="live model"):
        Engine(fresh_model, device="cpu")


def test_a_preempted_prompt_is_scored_once(model):
    """What gave its slot to another before its first token is computed again from the beginning."""
    params = SamplingParams(max_tokens=4, temperature=0, prompt_logprobs=1, ignore_eos=True)
    engine = Engine(model, slots=1, capacity=256, token_budget=16, caching=Caching(swap_bytes=0))
    prompt = list(range(1, 41))
    (alone,) = engine.generate([prompt], params)
    first = engine.add(prompt, params)
    deltas = engine.step() + engine.step()
    engine.add([1, 2, 3], params, priority=50)
    while engine.busy:
        deltas += engine.step()
    assert engine.load.reuse.recomputed
    mine = [delta for delta in deltas if delta.id == first]
    scores = alone.prompt_logprobs
    assert scores is not None
    assert mine[-1].completion is not None
    assert mine[-1].completion.prompt_logprobs == [None, *(pytest.approx(x) for x in scores[1:])]
    assert [item.token for item in mine[0].prompt_logprobs] == prompt[1:]
    assert not any(delta.prompt_logprobs for delta in mine[1:])
