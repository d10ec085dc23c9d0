"""Prefix reuse through the engine: what is counted, what survives, what is noticed."""

import random

import pytest
import torch

from cairn.base import UserError
from cairn.engine import Engine, SamplingParams
from cairn.engine.options import Caching, Speculation
from cairn.model import ModelConfig, build

from ..fixtures.shapes import WINDOW, untrained

GREEDY = SamplingParams(max_tokens=8, temperature=0, ignore_eos=True)


def shape(pattern: str, vocab_size: int = 40, **changes) -> ModelConfig:
    fixed = {"chunk_size": 16, "initializer_range": 0.3, "eos_token_ids": (0,)}
    return untrained(pattern, vocab_size, **(fixed | changes))


@pytest.fixture(scope="module")
def hybrid():
    return build(shape("M-*M"), seed=3)


@pytest.fixture(scope="module")
def dense():
    return build(shape("*-*-"), seed=3)


@pytest.fixture(scope="module")
def window():
    return build(shape("*-*-", **WINDOW), seed=3)


def tokens(count: int, seed: int = 0) -> list[int]:
    dice = random.Random(seed)
    return [dice.randrange(40) for _ in range(count)]


def test_a_shared_prefix_is_computed_once_and_counted(hybrid):
    engine = Engine(hybrid, slots=2, capacity=700)
    cold = Engine(hybrid, slots=2, capacity=700, caching=Caching(prefixes=False))
    prefix = tokens(300)
    prompts = [
        prefix + tokens(20, 1),
        prefix + tokens(20, 2),
        prefix[:150] + tokens(20, 3),
        prefix[:150] + tokens(20, 4),
    ]
    for prompt in prompts:
        assert engine.generate([prompt], GREEDY) == cold.generate([prompt], GREEDY)
    counts = engine.load.reuse
    # 300 tokens are 18 pages, and a state was kept at 256. The branch at 150 shares 9 pages, and
    # the state at 64 (256 before the end); where it parts, at 144, one is kept for the next.
    assert counts.keys_matched == 288 + 144 + 144
    assert counts.state_matched == 256 + 64 + 144
    assert counts.replayed == counts.keys_matched - counts.state_matched
    assert counts.hits == 3
    assert cold.load.reuse.hits == 0


def test_a_dense_model_needs_no_states(dense):
    engine = Engine(dense, slots=2, capacity=700)
    prefix = tokens(300)
    engine.generate([prefix + tokens(20, 1)], GREEDY)
    engine.generate([prefix + tokens(20, 2)], GREEDY)
    counts = engine.load.reuse
    assert (counts.keys_matched, counts.state_matched, counts.replayed) == (288, 288, 0)
    assert engine.load.states_kept == 0


def test_a_conversation_goes_on_from_the_end_of_the_turn(hybrid):
    engine = Engine(hybrid, slots=2, capacity=700)
    turn = tokens(100)
    for number in range(3):
        (answer,) = engine.generate([turn], GREEDY)
        turn = turn + answer.tokens + tokens(9, number)
    counts = engine.load.reuse
    assert counts.hits == 2
    # All but the last token of an answer, which is drawn and not computed.
    assert counts.state_matched == (100 + 8 - 1) + (100 + 8 + 9 + 8 - 1)


def test_completions_of_one_prompt_read_it_once(hybrid):
    engine = Engine(hybrid, slots=4, capacity=700)
    params = [SamplingParams(max_tokens=6, seed=i, ignore_eos=True) for i in range(4)]
    prompt = tokens(300)
    together = engine.generate([prompt] * 4, params)
    assert engine.load.reuse.hits == 3
    cold = Engine(hybrid, slots=4, capacity=700, caching=Caching(prefixes=False))
    assert together == cold.generate([prompt] * 4, params)
    assert engine.load.tokens_read < cold.load.tokens_read / 2


def test_changed_weights_make_cached_prefixes_unknown(hybrid):
    model = build(hybrid.config, seed=5)
    engine = Engine(model, slots=1, capacity=400)
    prompt = tokens(200)
    engine.generate([prompt], GREEDY)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.2)
    fresh = Engine(model, slots=1, capacity=400).generate([prompt], GREEDY)
    assert engine.generate([prompt], GREEDY) == fresh
    assert engine.load.reuse.hits == 0
    engine.forget()
    assert engine.load.states_kept == 0


def test_logprobs_of_a_prompt_are_computed_though_it_is_cached(hybrid):
    engine = Engine(hybrid, slots=1, capacity=400)
    prompt = tokens(200)
    params = SamplingParams(max_tokens=2, temperature=0, prompt_logprobs=0, ignore_eos=True)
    first, second = engine.generate([prompt], params)[0], engine.generate([prompt], params)[0]
    assert first == second
    assert first.prompt_logprobs is not None
    assert len(first.prompt_logprobs) == 200
    assert engine.load.reuse.hits == 0


@pytest.mark.parametrize("kind", ["hybrid", "dense", "window"])
def test_prefixes_on_disk_survive_a_restart(request, tmp_path, kind):
    model = request.getfixturevalue(kind)
    caching = Caching(disk=tmp_path)
    prompt = tokens(330)
    first = Engine(model, slots=1, capacity=700, caching=caching)
    (answer,) = first.generate([prompt], GREEDY)
    first.close()
    second = Engine(model, slots=1, capacity=700, caching=caching)
    assert second.generate([prompt], GREEDY) == [answer]
    counts = second.load.reuse
    assert counts.from_disk == counts.state_matched == 320
    other = build(model.config, seed=8)
    third = Engine(other, slots=1, capacity=700, caching=caching)
    third.generate([prompt], GREEDY)
    assert third.load.reuse.from_disk == 0, "other weights have a folder of their own"
    for one in (second, third):
        one.close()


def test_a_prefix_that_a_file_goes_on_from_is_not_written_again(hybrid, tmp_path):
    caching = Caching(disk=tmp_path)
    engine = Engine(hybrid, slots=1, capacity=1400, caching=caching)
    engine.generate([tokens(600)], GREEDY)
    engine.generate([tokens(600) + tokens(600, 1)], GREEDY)
    engine.close()
    sizes = sorted(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
    assert len(sizes) == 2
    assert sizes[1] < 1.3 * sizes[0], "the second holds its own half only"
    again = Engine(hybrid, slots=1, capacity=1400, caching=caching)
    again.generate([tokens(600) + tokens(600, 1)], GREEDY)
    assert again.load.reuse.state_matched == 1184
    again.close()


def test_of_a_sliding_window_the_disk_has_what_the_end_of_each_turn_looks_at(window, tmp_path):
    caching = Caching(disk=tmp_path)
    turns = [tokens(330), tokens(330) + tokens(17, 1), tokens(330) + tokens(217, 1)]
    cold = Engine(window, slots=1, capacity=700, caching=Caching(prefixes=False))
    expected = cold.generate(turns, GREEDY)
    matched = []
    for prompt, answer in zip(turns, expected, strict=True):
        engine = Engine(window, slots=1, capacity=700, caching=caching)  # with an empty pool
        assert engine.generate([prompt], GREEDY) == [answer]
        matched.append(engine.load.reuse.state_matched)
        engine.close()
    assert matched == [0, 320, 336]
    engine = Engine(window, slots=1, capacity=700, caching=caching)
    assert engine.generate(turns, GREEDY) == expected
    engine.close()
    page = 2 * 16 * 16 * 4  # bytes of keys and values in a layer
    (first, *_) = sorted(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))[::-1]
    assert (20 + 3) * page < first < (20 + 4) * page, "of the layer with a window three pages"


def test_files_that_are_damaged_or_torn_are_not_used(hybrid, tmp_path, caplog):
    caching = Caching(disk=tmp_path)
    prompt = tokens(330)
    engine = Engine(hybrid, slots=1, capacity=700, caching=caching)
    expected = engine.generate([prompt], GREEDY)
    engine.close()
    (path,) = tmp_path.rglob("*.safetensors")
    whole = path.read_bytes()
    told = b'skipped\\": [0'  # a text within the header's JSON
    assert told in whole
    others = whole.replace(told, told[:-1] + b"1"), b""
    for damaged in (whole[:-100], whole[: len(whole) // 2], whole[:-60] + b"\1" * 60, *others):
        path.write_bytes(damaged)
        (path.parent / ".x.safetensors.1.tmp").write_bytes(b"half")
        engine = Engine(hybrid, slots=1, capacity=700, caching=caching)
        assert not list(path.parent.glob(".*.tmp"))
        assert engine.generate([prompt], GREEDY) == expected
        assert engine.load.reuse.hits == 0
        engine.close()
    assert "is removed" in caplog.text
    assert "is not used" in caplog.text


def test_the_disk_holds_no_more_than_it_may(hybrid, tmp_path):
    caching = Caching(disk=tmp_path, disk_bytes=150_000)
    engine = Engine(hybrid, slots=1, capacity=700, caching=caching)
    for seed in range(8):
        engine.generate([tokens(300, seed)], GREEDY)
    engine.close()
    assert 0 < sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors")) <= 150_000


def test_the_self_check_compares_and_counts(hybrid, caplog):
    engine = Engine(hybrid, slots=2, capacity=400, caching=Caching(check=1))
    prompt = tokens(200)
    for _ in range(3):
        engine.generate([prompt], GREEDY)
    counts = engine.load.reuse
    assert (counts.hits, counts.checked, counts.differing) == (2, 2, 0)
    tree = engine._allocation.tree
    assert tree is not None
    for state in tree._states.values():  # a mistake in reuse, as if made somewhere
        state.copy = (state.copy[0], state.copy[1] * -3)
    engine.generate([prompt], GREEDY)
    assert engine.load.reuse.differing == 1
    assert "differs from that without" in caplog.text


def test_a_draft_model_changes_no_token(hybrid, dense):
    prompts = [tokens(30, 1), tokens(5, 2), [3, 4] * 12]
    params = [
        SamplingParams(max_tokens=20, temperature=0, ignore_eos=True),
        SamplingParams(max_tokens=20, temperature=0.8, seed=1, ignore_eos=True),
        SamplingParams(max_tokens=20, seed=2, presence_penalty=0.5, ignore_eos=True),
    ]
    expected = Engine(hybrid, slots=2, capacity=128).generate(prompts, params)
    twin = build(hybrid.config, seed=3)
    for draft in (twin, dense, build(shape("MM"), seed=9)):
        engine = Engine(hybrid, slots=2, capacity=128, speculation=Speculation(most=4, model=draft))
        assert engine.generate(prompts, params) == expected
        assert engine.load.tokens_guessed > 0
        if draft is twin:  # it guesses what the model draws
            assert engine.load.tokens_accepted == engine.load.tokens_guessed
            assert engine.load.steps < 40
    with pytest.raises(UserError, match="same tokenizer"):
        Engine(hybrid, speculation=Speculation(model=build(shape("M", vocab_size=41), seed=0)))


@pytest.mark.parametrize("wrong", [{"every": 0}, {"check": 0}, {"states": -1}, {"disk_bytes": -5}])
def test_options_that_cannot_be_are_refused(wrong):
    with pytest.raises(UserError):
        Caching(**wrong)


def test_a_self_check_without_prefixes_is_refused(hybrid):
    """There would be no hit to check; with `invariant` too, which keeps none."""
    with pytest.raises(UserError, match=r"self-check\)=3: has nothing to compare"):
        Engine(hybrid, invariant=True, caching=Caching(prefixes=False, check=3))
