"""Whatever call of the memory, the disk or the model raises: one request hears, nothing leaks."""

import contextlib
import random

import pytest

from cairn.engine import Engine, SamplingParams
from cairn.engine.assembly import allocate
from cairn.engine.options import Caching, Speculation
from cairn.engine.pool import Pool, Sizes
from cairn.engine.runner import Runner
from cairn.engine.scheduler import Scheduler
from cairn.engine.stepper import Stepper
from cairn.model import build

from ..fixtures.shapes import untrained

GREEDY = SamplingParams(max_tokens=9, temperature=0, ignore_eos=True)
CAPACITY, PAGES = 176, 17


class InjectedError(Exception):
    """What a GPU without memory would raise."""


@pytest.fixture(scope="module")
def hybrid():
    return build(
        untrained("M-*M", 40, chunk_size=16, initializer_range=0.3, eos_token_ids=(0,)),
        seed=3,
    )


def tokens(count: int, seed: int = 0) -> list[int]:
    dice = random.Random(seed)
    return [dice.randrange(40) for _ in range(count)]


PROMPTS = [
    tokens(150),
    tokens(150)[:100] + tokens(30, 1),
    tokens(90, 2),
    [5, 6, 7] * 30,
    tokens(150)[:140] + tokens(5, 3),
    tokens(120, 4),
    tokens(90, 2) + tokens(40, 5),
]


@pytest.fixture(scope="module")
def expected(hybrid):
    engine = Engine(hybrid, slots=1, capacity=CAPACITY, caching=Caching(prefixes=False))
    return [one.tokens for one in engine.generate(PROMPTS, GREEDY)]


def crowded(model, folder, overlap: bool = False, guesses: int = 0, swap: bool | None = None):
    """An engine in which everything happens: chunks, hits, eviction, both preemptions, files."""
    caching = Caching(disk=folder, host_bytes=2**15, swap_bytes=2**16)
    engine = Engine(
        model,
        slots=3,
        capacity=CAPACITY,
        token_budget=40,
        caching=caching,
        overlap=overlap,
        speculation=Speculation(most=guesses) if guesses else None,
    )
    sizes = Sizes(3, CAPACITY, (PAGES,), 5)
    engine._runner = Runner(model, Pool(model.config, sizes, model.device, model.dtype))
    engine._allocation = allocate(engine._runner.pool, caching, engine._archive)
    engine._scheduler = Scheduler(3, 40, engine._allocation, swap)
    engine._stepper = Stepper(engine._runner, engine._scheduler, engine._stepper.overlap)
    return engine


def raising_at(engine: Engine, call: str, count: int) -> list[int]:
    """Have the `count`-th call of something raise; the list gets an item when it did."""
    part, method = call.split(".")
    parts = {"pool": engine._runner.pool, "runner": engine._runner, "archive": engine._archive}
    owner = parts[part]
    real, calls, happened = getattr(owner, method), 0, []

    def counted(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == count:
            happened.append(count)
            raise InjectedError(call)
        return real(*args, **kwargs)

    setattr(owner, method, counted)
    return happened


def settled(engine: Engine) -> None:
    """Nothing is left, and what is cached can be given back."""
    scheduler, allocation = engine._scheduler, engine._allocation
    assert not engine.busy
    assert not engine._watched
    assert not engine._archive._reads
    assert (scheduler.running, scheduler.waiting, scheduler.free_slots) == (0, 0, engine.slots)
    page = engine._runner.pool.page_bytes
    assert allocation._swap_left == engine._caching.swap_bytes // page
    assert all(group.busy == 0 for group in allocation.groups)
    assert allocation.tree is not None
    for _ in allocation.tree.walk():
        pass
    while allocation.tree.evict():
        pass
    allocation.tree.clear()
    assert [group.free for group in allocation.groups] == [PAGES]


CALLS = [
    *(f"pool.{name}" for name in ("restore", "save", "store", "fetch", "copy", "clear")),
    *(f"pool.{name}" for name in ("assign", "scrub", "hold", "put_back")),
    *(f"runner.{name}" for name in ("run", "logits", "remember")),
    *(f"archive.{name}" for name in ("read", "find", "write", "reach")),
]


@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_raises_costs_nobody_else_anything(hybrid, expected, tmp_path, call):
    first = crowded(hybrid, tmp_path)
    first.generate(PROMPTS[:4], GREEDY)
    first.close()
    happened = [
        disturbed(hybrid, expected, tmp_path, call, count, random.Random(f"{call} {count}"))
        for count in (1, 2, 4, 9)
    ]
    assert any(happened), "it is called in none"


def disturbed(model, expected, folder, call: str, count: int, order: random.Random) -> bool:
    """A history in which one call raises; whether it came to it."""
    guesses = 3 if call in {"pool.hold", "pool.put_back"} else order.choice([0, 3])
    overlap, swap = order.choice([True, False]), order.choice([None, True, False])
    engine = crowded(model, folder, overlap, guesses, swap)
    happened = raising_at(engine, call, count)
    coming = [*range(len(PROMPTS)), *range(len(PROMPTS))]
    order.shuffle(coming)
    who: dict[int, int] = {}
    failures = 0
    while coming or engine.busy:
        for _ in range(min(len(coming), order.choice([0, 1, 3]))):
            which = coming.pop()
            who[engine.add(PROMPTS[which], GREEDY, priority=order.choice([0, 0, 2]))] = which
        if who and order.random() < 0.05:
            engine.abort(order.choice(sorted(who)))
        running = engine._scheduler.running + engine._scheduler.waiting
        try:
            deltas = engine.step()
        except InjectedError:
            failures += 1
            gone = running - engine._scheduler.running - engine._scheduler.waiting
            assert gone >= 1, "somebody has to hear of it"
            if call == "pool.restore":
                assert gone == 1, "only the one that was let in"
            continue
        for delta in deltas:
            if delta.completion is not None and delta.completion.finish_reason == "length":
                assert delta.completion.tokens == expected[who[delta.id]]
    if call == "archive.read":  # in the background: of several that begin alike, or of nobody yet
        with contextlib.suppress(InjectedError):
            engine.generate(PROMPTS, GREEDY)
    else:
        assert failures == (len(happened) if call != "pool.scrub" else 0)
    found = engine.generate(PROMPTS, GREEDY)
    assert [one.tokens for one in found] == expected
    engine.close()
    settled(engine)
    return bool(happened)


def test_a_request_that_cannot_be_let_in_fails_alone(hybrid, expected, tmp_path):
    """A state that cannot be restored; the one that streams beside it hears nothing of it."""
    engine = crowded(hybrid, tmp_path)
    engine.generate(PROMPTS[:1], GREEDY)
    beside = engine.stream(PROMPTS[2], GREEDY)
    came = list(next(beside).tokens)
    raising_at(engine, "pool.restore", 1)
    with pytest.raises(InjectedError):
        engine.generate(PROMPTS[:1], GREEDY)
    failing = engine.stream(PROMPTS[0], GREEDY)
    raising_at(engine, "pool.restore", 1)
    for delta in beside:
        came += delta.tokens
    assert came == expected[2]
    with pytest.raises(InjectedError):
        list(failing)
    assert engine.generate(PROMPTS, GREEDY)
    engine.close()
    settled(engine)


def test_a_self_check_that_cannot_be_let_in_is_given_up(hybrid, expected, caplog):
    """Nobody asked for it: nobody hears of it, and nothing else is lost."""
    engine = Engine(hybrid, slots=2, capacity=CAPACITY, caching=Caching(check=1))
    engine.generate(PROMPTS[:1], GREEDY)
    clear = raising_at(engine, "pool.clear", 1)  # what begins without a prefix is the check
    assert [one.tokens for one in engine.generate(PROMPTS[:1], GREEDY)] == expected[:1]
    assert clear
    assert "the self-check of an answer was given up: pool.clear" in caplog.text
    assert [one.tokens for one in engine.generate(PROMPTS[:1], GREEDY)] == expected[:1]
    assert engine.load.reuse.checked == 1
