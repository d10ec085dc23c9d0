"""Tokens equal plain greedy generation, whatever batching, chunks, memory, reuse and guesses do."""

import random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cairn.engine import Engine, SamplingParams
from cairn.engine.assembly import allocate
from cairn.engine.options import Caching, Speculation
from cairn.engine.pool import Pool, Sizes
from cairn.engine.runner import Runner
from cairn.engine.scheduler import Scheduler
from cairn.engine.stepper import Stepper
from cairn.model import Decoder, ModelConfig, build

from ..fixtures.shapes import LIVELY, WINDOW, untrained

VOCAB = 40
COUNT = 14
PATTERNS = {"hybrid": "M-*M*-", "dense": "*-*-", "recurrent": "M-M-", "window": "*-*-"}


def config(kind: str) -> ModelConfig:
    more = LIVELY | {"initializer_range": 0.3} | (WINDOW if kind == "window" else {})
    return untrained(PATTERNS[kind], VOCAB, **more)


@pytest.fixture(scope="module")
def models() -> dict[str, Decoder]:
    return {kind: build(config(kind), seed=3) for kind in PATTERNS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Prefixes on disk, of all mixes: those of one are found by the next."""
    return tmp_path_factory.mktemp("prefixes")


def plain(model: Decoder, prompt: list[int], count: int) -> list[int]:
    """The definition: the whole sequence anew for each token."""
    tokens = list(prompt)
    with torch.inference_mode():
        for _ in range(count):
            tokens.append(int(model.logits(torch.tensor([tokens]))[0, -1].argmax()))
    return tokens[len(prompt) :]


def prompts_of(dice: random.Random) -> list[list[int]]:
    """Some share a beginning, some repeat themselves, some come twice."""
    made: list[list[int]] = []
    for _ in range(7):
        prompt = [dice.randrange(VOCAB) for _ in range(dice.choice([1, 9, 40, 110]))]
        if made and dice.random() < 0.6:
            other = dice.choice(made)
            prompt = other[: dice.randint(1, len(other))] + prompt[: dice.choice([0, 2, 30])]
        if dice.random() < 0.3:
            prompt = (prompt[:12] * 8)[:70]
        made.append(prompt)
    return made


def squeeze(engine: Engine, pages: int, states: int, caching: Caching, swap: bool | None) -> None:
    """Give an engine memory of so many pages and kept states, whatever the machine has."""
    model, slots = engine.model, engine.slots
    groups = len(dict.fromkeys(model.config.windows))
    sizes = Sizes(slots, engine.capacity, (pages,) * groups, states)
    engine._runner = Runner(model, Pool(model.config, sizes, model.device, model.dtype))
    engine._allocation = allocate(engine._runner.pool, caching, engine._archive)
    budget = engine._scheduler.token_budget
    engine._scheduler = Scheduler(slots, budget, engine._allocation, swap)
    overlap = engine._stepper.overlap
    engine._stepper = Stepper(engine._runner, engine._scheduler, overlap)


CAPACITY = 176


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    kind=st.sampled_from(sorted(PATTERNS)),
    seed=st.integers(0, 3),
    slots=st.integers(1, 5),
    budget=st.sampled_from([5, 17, 64, 512]),
    pages=st.sampled_from([14, 17, 30, 200]),
    states=st.sampled_from([0, 2, 50]),
    every=st.sampled_from([None, 16]),
    host=st.sampled_from([0, 2**16]),
    swap=st.sampled_from([None, True, False]),
    guesses=st.sampled_from([0, 1, 4]),
    overlap=st.booleans(),
    disk=st.booleans(),
    dice=st.integers(0, 2**32 - 1),
)
def test_tokens_equal_plain_generation_in_every_mix(
    models,
    folder,
    kind,
    seed,
    slots,
    budget,
    pages,
    states,
    every,
    host,
    swap,
    guesses,
    overlap,
    disk,
    dice,
):
    order = random.Random(dice)  # Hypothesis's own would be asked more or less often by the disk
    model = models[kind]
    prompts = prompts_of(random.Random(seed))
    expected = [known(model, kind, prompt) for prompt in prompts]
    caching = Caching(
        every=every,
        states=states,
        host_bytes=host,
        swap_bytes=2**16,
        disk=folder if disk else None,
    )
    guessing = Speculation(most=guesses) if guesses else None
    engine = Engine(
        model,
        slots=slots,
        capacity=CAPACITY,
        token_budget=max(budget, slots),
        caching=caching,
        speculation=guessing,
        overlap=overlap,
    )
    squeeze(engine, pages, states, caching, swap)
    params = SamplingParams(max_tokens=COUNT, temperature=0, ignore_eos=True)
    coming = [*range(len(prompts)), *range(len(prompts))]
    order.shuffle(coming)
    who: dict[int, int] = {}
    while coming or engine.busy:
        for _ in range(min(len(coming), order.choice([0, 1, 3]))):
            which = coming.pop()
            who[engine.add(prompts[which], params, priority=order.choice([0, 0, 2]))] = which
        if who and order.random() < 0.02:
            engine.abort(order.choice(sorted(who)))
        for delta in engine.step():
            if delta.completion is not None:
                assert delta.completion.tokens == expected[who[delta.id]]
    assert all(group.busy == 0 for group in engine._allocation.groups)
    engine.close()


_known: dict[tuple[str, tuple[int, ...]], list[int]] = {}


def known(model: Decoder, kind: str, prompt: list[int]) -> list[int]:
    key = (kind, tuple(prompt))
    if key not in _known:
        _known[key] = plain(model, prompt, COUNT)
    return _known[key]


@pytest.mark.parametrize("kind", sorted(PATTERNS))
def test_what_is_read_late_ends_when_it_should(models, kind):
    prompts = prompts_of(random.Random(9))
    some = [
        SamplingParams(max_tokens=1 + number, temperature=number % 2, seed=number, stop_tokens=stop)
        for number, stop in enumerate([(), (3, 4, 5, 6, 7), (), tuple(range(20)), (), (9,), ()])
    ]
    some[4] = SamplingParams(
        max_tokens=9, temperature=1, seed=1, repetition_penalty=1.2, logprobs=2
    )
    some[6] = SamplingParams(max_tokens=0, prompt_logprobs=1)
    prompts[2] = prompts[0]
    first = Engine(models[kind], slots=3, capacity=CAPACITY).generate(prompts, some)
    expected = [(one.tokens, one.finish_reason, one.text) for one in first]
    late = Engine(models[kind], slots=3, capacity=CAPACITY, overlap=True)
    for _ in range(2):  # the second time with cached prefixes
        found = late.generate(prompts, some)
        assert [(one.tokens, one.finish_reason, one.text) for one in found] == expected
    assert not late.busy
    assert all(group.busy == 0 for group in late._allocation.groups)


@pytest.mark.parametrize("kind", sorted(PATTERNS))
def test_guesses_change_no_seeded_draw(models, kind):
    prompts = [[5, 6, 7, 8] * 10, [1, 2, 3] * 9, list(range(30))]
    params = [
        SamplingParams(max_tokens=24, temperature=0.7, seed=number, repetition_penalty=1.1)
        for number in range(3)
    ]
    own = Engine(models[kind], slots=3, capacity=128)
    ahead = Engine(models[kind], slots=3, capacity=128, speculation=Speculation(most=5))
    expected = own.generate(prompts, params)
    assert ahead.generate(prompts, params) == expected
    assert ahead.load.tokens_guessed > 0
