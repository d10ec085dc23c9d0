"""Scheduling as bookkeeping: a model that only counts stands in for the real one."""

import random
import subprocess
import sys

import pytest

from cairn.base import UserError
from cairn.engine.detokenizer import Detokenizer
from cairn.engine.sampling import SamplingParams
from cairn.engine.scheduler import Scheduler, Slice
from cairn.engine.sequence import Sequence, TokenLogprob

STOP = 99


def sequence(number: int, prompt: int = 4, limit: int = 3) -> Sequence:
    return Sequence(
        id=number,
        prompt=[number * 1000 + place for place in range(prompt)],
        params=SamplingParams(),
        seed=0,
        stop_tokens=frozenset({STOP}),
        limit=limit,
        detokenizer=Detokenizer(lambda token: b""),
    )


class CountingModel:
    """Remembers per slot the tokens it read; the next token is a digest of all of them."""

    def __init__(self, slots: int) -> None:
        self.memory: list[list[int]] = [[-1, -2, -3] for _ in range(slots)]  # stale on purpose

    def run(self, slices: list[Slice]) -> dict[int, int]:
        drawn = {}
        assert len({part.slot for part in slices}) == len(slices), "one slice per slot"
        for part in slices:
            if part.start == 0:
                self.memory[part.slot] = []
            memory = self.memory[part.slot]
            assert len(memory) == part.start, "the slot remembers another prefix"
            memory.extend(part.sequence.tokens(part.start, part.stop))
            if part.reaches_end:
                drawn[part.sequence.id] = next_token(memory)
        return drawn


def next_token(tokens: list[int]) -> int:
    return hash(tuple(tokens)) % 100


def alone(one: Sequence) -> list[int]:
    """What the sequence gives when nothing else exists."""
    tokens, output = list(one.prompt), []
    while len(output) < one.limit:
        output.append(next_token(tokens + output))
        if output[-1] == STOP:
            break
    return output


def step(scheduler: Scheduler, model: CountingModel) -> list[Slice]:
    slices = scheduler.schedule()
    drawn = model.run(slices)
    scheduler.advance(slices)
    for part in slices:
        one = part.sequence
        if one.id in drawn:
            one.append(TokenLogprob(drawn[one.id], 0.0))
            if one.finish_reason:
                assert scheduler.remove(one.id) is one
    return slices


def test_two_thousand_random_histories_end_and_leak_nothing():
    for history in range(2000):
        dice = random.Random(history)
        slots = dice.randint(1, 5)
        scheduler = Scheduler(slots, slots + dice.choice([0, 1, 3, 20]))
        model = CountingModel(slots)
        coming = [
            sequence(number, dice.randint(1, 12), dice.randint(1, 8))
            for number in range(dice.randint(1, 12))
        ]
        living, everyone, aborted, steps = [], list(coming), set(), 0
        while coming or scheduler.waiting or scheduler.running:
            for _ in range(min(len(coming), dice.choice([0, 1, 1, 4]))):
                living.append(coming.pop(0))
                scheduler.add(living[-1])
            if living and dice.random() < 0.05:
                victim = dice.choice(living)
                if scheduler.remove(victim.id) is not None:
                    aborted.add(victim.id)
                assert scheduler.remove(victim.id) is None
            slices = step(scheduler, model)
            assert sum(part.stop - part.start for part in slices) <= scheduler.token_budget
            assert scheduler.running + scheduler.free_slots == slots
            steps += 1
            assert steps < 3000, "a history that does not end"
        assert scheduler.free_slots == slots
        for one in everyone:
            if one.id not in aborted:
                assert one.output == alone(one)
                assert one.finish_reason in {"stop", "length"}
            assert one.slot is None


def test_first_tokens_come_in_order_of_arrival():
    scheduler, model = Scheduler(3, 4), CountingModel(3)
    everyone = [sequence(number, prompt=5, limit=6) for number in range(9)]
    for one in everyone:
        scheduler.add(one)
    firsts: list[int] = []
    while scheduler.waiting or scheduler.running:
        step(scheduler, model)
        firsts += [one.id for one in everyone if one.output and one.id not in firsts]
    assert firsts == sorted(firsts)


def test_a_decode_waits_for_no_prompt_and_a_prompt_for_no_decode():
    scheduler, model = Scheduler(3, 3), CountingModel(3)
    for number in range(2):
        scheduler.add(sequence(number, prompt=1, limit=30))
    step(scheduler, model)
    long = sequence(2, prompt=20, limit=1)
    scheduler.add(long)
    for done in range(1, 6):
        slices = step(scheduler, model)
        assert [part.sequence.id for part in slices] == [0, 1, 2]
        assert long.computed == done


def test_a_prompt_is_cut_to_the_budget_and_mixed_with_decodes():
    scheduler, model = Scheduler(2, 8), CountingModel(2)
    scheduler.add(sequence(0, prompt=3, limit=50))
    scheduler.add(sequence(1, prompt=20, limit=50))
    spans = [(part.sequence.id, part.start, part.stop) for part in step(scheduler, model)]
    assert spans == [(0, 0, 3), (1, 0, 5)]
    spans = [(part.sequence.id, part.start, part.stop) for part in step(scheduler, model)]
    assert spans == [(0, 3, 4), (1, 5, 12)]


def test_removing_frees_the_slot_for_the_next():
    scheduler, model = Scheduler(1, 4), CountingModel(1)
    first, second = sequence(0), sequence(1)
    scheduler.add(first)
    scheduler.add(second)
    step(scheduler, model)
    assert (first.slot, second.slot) == (0, None)
    scheduler.remove(first.id)
    assert first.slot is None
    assert [part.sequence.id for part in step(scheduler, model)] == [1]
    assert scheduler.remove(77) is None


def test_a_sequence_is_added_once():
    scheduler = Scheduler(1, 4)
    scheduler.add(sequence(0))
    with pytest.raises(ValueError, match="before"):
        scheduler.add(sequence(0))


@pytest.mark.parametrize(("slots", "budget"), [(0, 4), (4, 3)])
def test_sizes_that_cannot_work_are_refused(slots, budget):
    with pytest.raises(UserError):
        Scheduler(slots, budget)


def test_tokens_crosses_from_the_prompt_into_the_output():
    one = sequence(0, prompt=3, limit=9)
    one.output.extend([7, 8, 9])
    whole = one.prompt + one.output
    for start in range(7):
        for stop in range(start, 7):
            assert one.tokens(start, stop) == whole[start:stop]


def test_bookkeeping_needs_no_torch():
    code = (
        "import sys, cairn.engine, cairn.serve\n"
        "import cairn.engine.scheduler, cairn.engine.sequence, cairn.engine.sampling\n"
        "assert 'torch' not in sys.modules and 'fastapi' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
