"""Ten thousand random histories of requests: all end, give what each gives alone, leak nothing."""

import random

import pytest

from cairn.engine.pages import PAGE
from cairn.engine.sequence import Sequence

from .fixtures.counting_world import World, alone, given, next_token


def random_world(dice: random.Random, longest: int) -> World:
    slots = dice.randint(1, 5)
    choices: list[list[int | None]] = [[None], [None], [24], [None, 40], []]
    windows = dice.choice(choices)
    budget = slots + dice.choice([0, 1, 3, 20, 70])
    pages = []
    for window in windows:
        least = -(-longest // PAGE) + 2
        if window is not None:
            least = 2 * ((window + budget) // PAGE + 3)
        pages.append(least + dice.choice([0, 1, 5, 40]))
    return World(
        slots,
        budget,
        pages,
        windows,
        recurrent=not windows or dice.random() < 0.6,
        states=dice.choice([0, 1, 3, 20]),
        cached=dice.random() < 0.8,
        swap=dice.choice([None, True, False]),
        swap_pages=dice.choice([0, 3, 100]),
        blocks=dice.choice([0, 0, 3, 100]),
        consecutive=dice.random() < 0.5,
        late=dice.random() < 0.5,
    )


def random_requests(dice: random.Random) -> list[Sequence]:
    """Some share a beginning with others, some come twice."""
    made: list[list[int]] = []
    for number in range(dice.randint(1, 10)):
        prompt = [number * 1000 + place for place in range(dice.choice([1, 5, 17, 70, 150, 290]))]
        if made and dice.random() < 0.6:
            other = dice.choice(made)
            prompt = other[: dice.randint(1, len(other))] + prompt[: dice.choice([0, 3, 40])]
        made.append(prompt)
    return [
        given(number, prompt, dice.randint(1, 40), dice.choice([0, 0, 0, 1, 5]))
        for number, prompt in enumerate(made)
    ]


def histories(start: int, count: int) -> None:
    for history in range(start, start + count):
        dice = random.Random(history)
        coming = random_requests(dice)
        longest = max(len(one.prompt) + one.limit for one in coming)
        world = random_world(dice, longest)
        living, everyone, aborted, steps = [], list(coming), set(), 0
        while coming or world.scheduler.waiting or world.scheduler.running:
            for _ in range(min(len(coming), dice.choice([0, 1, 1, 4]))):
                living.append(coming.pop(0))
                world.scheduler.add(living[-1])
            if living and dice.random() < 0.03:
                victim = dice.choice(living)
                if world.scheduler.remove(victim.id) is not None:
                    aborted.add(victim.id)
                assert world.scheduler.remove(victim.id) is None
            if dice.random() < 0.01:
                world.tree.clear()
            for one in [] if world.late else world.scheduler.drawing():
                if dice.random() < 0.3:
                    one.drafts = random_drafts(dice, one)
            if world.blocks and dice.random() < 0.02 and world.swap is False:
                world.memory.unreadable = 1
            world.step()
            steps += 1
            assert steps < 5000, "a history that does not end"
        for one in everyone:
            if one.id not in aborted:
                assert one.output == alone(one), history
                assert one.finish_reason in {"stop", "length"}
            assert one.slot is None
            assert not one.pages
        world.finish()


def random_drafts(dice: random.Random, one: Sequence) -> list[int]:
    """Guesses that are right for a while."""
    room = one.limit - len(one.output) - 1
    tokens, found = one.tokens(0, one.length), []
    for _ in range(min(room, dice.randint(1, 5))):
        found.append(next_token(tokens + found) if dice.random() < 0.7 else 1)
    return found


@pytest.mark.parametrize("part", range(10))
def test_ten_thousand_random_histories_end_and_leak_nothing(part):
    histories(part * 1000, 1000)
