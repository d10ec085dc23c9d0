"""Scheduling as bookkeeping: order, budgets, priorities, and nobody who starves."""

import subprocess
import sys

import pytest

from cairn.base import UserError
from cairn.engine.scheduler import AGING, Scheduler

from .fixtures.counting_world import alone, given, plain, sequence


def test_first_tokens_come_in_order_of_arrival():
    world = plain(3, 4)
    everyone = [sequence(number, prompt=5, limit=6) for number in range(9)]
    for one in everyone:
        world.scheduler.add(one)
    firsts: list[int] = []
    while world.scheduler.waiting or world.scheduler.running:
        world.step()
        firsts += [one.id for one in everyone if one.output and one.id not in firsts]
    assert firsts == sorted(firsts)


def test_a_decode_waits_for_no_prompt_and_a_prompt_for_no_decode():
    world = plain(3, 3)
    for number in range(2):
        world.scheduler.add(sequence(number, prompt=1, limit=30))
    world.step()
    long = sequence(2, prompt=20, limit=1)
    world.scheduler.add(long)
    for done in range(1, 6):
        slices = world.step()
        assert [part.sequence.id for part in slices] == [0, 1, 2]
        assert long.computed == done


def test_a_prompt_is_cut_to_the_budget_and_mixed_with_decodes():
    world = plain(2, 8)
    world.scheduler.add(sequence(0, prompt=3, limit=50))
    world.scheduler.add(sequence(1, prompt=20, limit=50))
    spans = [(part.sequence.id, part.start, part.stop) for part in world.step()]
    assert spans == [(0, 0, 3), (1, 0, 5)]
    spans = [(part.sequence.id, part.start, part.stop) for part in world.step()]
    assert spans == [(0, 3, 4), (1, 5, 12)]


def test_removing_frees_the_slot_for_the_next():
    world = plain(1, 4)
    first, second = sequence(0), sequence(1)
    world.scheduler.add(first)
    world.scheduler.add(second)
    world.step()
    assert (first.slot, second.slot) == (0, None)
    world.scheduler.remove(first.id)
    assert first.slot is None
    assert [part.sequence.id for part in world.step()] == [1]
    assert world.scheduler.remove(77) is None


def test_priority_goes_first_and_takes_a_running_place():
    world = plain(1, 4)
    low, high = sequence(0, limit=50), given(1, [5, 6], 3, priority=1)
    world.scheduler.add(low)
    world.step()
    world.scheduler.add(sequence(2))
    world.scheduler.add(high)
    assert [part.sequence.id for part in world.step()] == [1]
    assert low.slot is None
    while not high.finish_reason:
        world.step()
    assert [part.sequence.id for part in world.step()] == [0], "who was first goes on"
    while world.scheduler.waiting or world.scheduler.running:
        world.step()
    assert low.output == alone(low)
    world.finish()


def test_nobody_starves_under_a_stream_of_higher_priority():
    world = plain(1, 4)
    low = sequence(0, prompt=2, limit=5)
    world.scheduler.add(given(1, [7], 4, priority=2))
    world.scheduler.add(low)
    steps = 0
    while not low.finish_reason:
        if world.scheduler.waiting < 3:
            world.scheduler.add(given(100 + steps, [steps], 4, priority=2))
        world.step()
        steps += 1
        assert steps < 4 * AGING, "2 levels count as 2 * AGING steps, and no more"


def test_a_sequence_is_added_once():
    world = plain(1, 4)
    world.scheduler.add(sequence(0))
    with pytest.raises(ValueError, match="before"):
        world.scheduler.add(sequence(0))


@pytest.mark.parametrize(("slots", "budget"), [(0, 4), (4, 3)])
def test_sizes_that_cannot_work_are_refused(slots, budget):
    with pytest.raises(UserError):
        Scheduler(slots, budget, plain(1, 1).allocation)


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
        "import cairn.engine.prefix, cairn.engine.drafts, cairn.engine.options\n"
        "assert 'torch' not in sys.modules and 'fastapi' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
