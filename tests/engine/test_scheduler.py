"""Scheduling as bookkeeping: a model that only remembers tokens stands in for the real one."""

import random
import subprocess
import sys
from dataclasses import dataclass, field

import pytest

from cairn.base import UserError
from cairn.engine.allocation import Allocation
from cairn.engine.detokenizer import Detokenizer
from cairn.engine.nodes import Demoted, Node
from cairn.engine.pages import NULL, PAGE, Pages
from cairn.engine.prefix import PrefixTree
from cairn.engine.sampling import SamplingParams
from cairn.engine.scheduler import AGING, Scheduler, Slice
from cairn.engine.sequence import Sequence, TokenLogprob

STOP = 99
STALE = -7


def sequence(number: int, prompt: int = 4, limit: int = 3, priority: int = 0) -> Sequence:
    return given(number, [number * 1000 + place for place in range(prompt)], limit, priority)


def given(number: int, prompt: list[int], limit: int, priority: int = 0) -> Sequence:
    return Sequence(
        id=number,
        prompt=prompt,
        params=SamplingParams(),
        seed=0,
        stop_tokens=frozenset({STOP}),
        limit=limit,
        detokenizer=Detokenizer(lambda token: b""),
        priority=priority,
    )


class CountingMemory:
    """Pages hold tokens, states hold all tokens that they saw."""

    def __init__(self, slots: int, pages: list[int]) -> None:
        self.pages = [[[STALE] * PAGE for _ in range(count + 1)] for count in pages]
        self.tables: list[list[list[int]]] = [[[] for _ in pages] for _ in range(slots)]
        self.states: list[list[int]] = [[STALE] for _ in range(slots)]
        self.unreadable = 0

    def assign(self, slot: int, group: int, first: int, pages: list[int]) -> None:
        table = self.tables[slot][group]
        table += [NULL] * (first + len(pages) - len(table))
        table[first : first + len(pages)] = pages

    def copy(self, group: int, sources: list[int], targets: list[int]) -> None:
        assert NULL not in sources
        assert NULL not in targets
        for source, target in zip(sources, targets, strict=True):
            self.pages[group][target] = list(self.pages[group][source])

    def scrub(self, group: int, pages: list[int]) -> None:
        for page in pages:
            self.pages[group][page] = [STALE] * PAGE

    def clear(self, slot: int) -> None:
        self.states[slot] = []

    def save(self, slot: int) -> tuple[int, ...]:
        return tuple(self.states[slot])

    def restore(self, slot: int, copy: tuple[int, ...]) -> None:
        self.states[slot] = list(copy)

    def fetch(self, pages: list[list[int]]) -> list[list[list[int]]]:
        return [[list(self.pages[group][page]) for page in own] for group, own in enumerate(pages)]

    def store(self, block: list[list[list[int]]], pages: list[list[int]]) -> bool:
        if self.unreadable:
            self.unreadable -= 1
            return False
        for group, own in enumerate(pages):
            for page, tokens in zip(own, block[group], strict=True):
                self.pages[group][page] = list(tokens)
        return True


@dataclass
class CountingModel:
    """Checks that memory holds exactly the tokens before each slice; draws a digest of them."""

    memory: CountingMemory
    windows: list[int | None]
    recurrent: bool
    late: bool = False
    """Whether what is drawn is told after the next step, as with `Stepper.overlap`."""
    drawn: dict[int, tuple[Sequence, int]] = field(default_factory=dict)
    """By slot, what is on the device alone."""

    def run(self, slices: list[Slice], scheduler: Scheduler) -> None:
        assert len({part.slot for part in slices}) == len(slices), "one slice per slot"
        before, self.drawn = self.drawn, {}
        for part in slices:
            self._run(part, scheduler, before)
        for one, token in before.values():
            one.ahead -= 1
            if one.id in scheduler and one.finish_reason is None:
                one.append(TokenLogprob(token, 0.0))
                self._booked(one, scheduler)

    def _run(
        self, part: Slice, scheduler: Scheduler, before: dict[int, tuple[Sequence, int]]
    ) -> None:
        one = part.sequence
        known = one.tokens(0, part.stop)
        if len(known) < part.stop:
            owner, token = before[part.slot]
            assert owner is one
            known.append(token)
        assert len(known) == part.stop
        self._check(part, known)
        state = self.memory.save(part.slot)
        for place in range(part.start, part.stop + len(part.drafts)):
            token = [*known, *part.drafts][place]
            for group in range(len(self.windows)):
                page = self.memory.tables[part.slot][group][place // PAGE]
                assert page != NULL
                self.memory.pages[group][page][place % PAGE] = token
            self.memory.states[part.slot].append(token)
        if not part.reaches_end:
            scheduler.advance(part)
            return
        if self.late:
            assert not part.drafts
            scheduler.advance(part)
            one.ahead += 1
            self.drawn[part.slot] = (one, next_token(known))
            return
        good = 0
        for draft in (*part.drafts, None):
            drawn = next_token(one.tokens(0, one.length))
            one.append(TokenLogprob(drawn, 0.0))
            if one.finish_reason or drawn != draft:
                break
            good += 1
        if good < len(part.drafts) and self.recurrent:
            self.memory.restore(part.slot, state)
            scheduler.advance(part, part.start)
        else:
            scheduler.advance(part, part.stop + good)
        one.drafts = []
        self._booked(one, scheduler)

    def _booked(self, one: Sequence, scheduler: Scheduler) -> None:
        if one.finish_reason:
            assert scheduler.remove(one.id, finished=True) is one
        elif not one.sound:
            scheduler.confirm(one)

    def _check(self, part: Slice, known: list[int]) -> None:
        if self.recurrent:
            state = self.memory.states[part.slot]
            assert state == known[: part.start], "the state has seen other tokens"
        for group, window in enumerate(self.windows):
            first = 0 if window is None else max(0, part.start - window + 1)
            for place in range(first, part.start):
                page = self.memory.tables[part.slot][group][place // PAGE]
                assert self.memory.pages[group][page][place % PAGE] == known[place]


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


@dataclass
class World:
    """A scheduler over counting memory."""

    slots: int
    budget: int
    pages: list[int]
    windows: list[int | None]
    recurrent: bool = True
    states: int | None = 4
    cached: bool = True
    swap: bool | None = None
    swap_pages: int = 0
    blocks: int = 0
    consecutive: bool = False
    late: bool = False

    def __post_init__(self) -> None:
        self.memory = CountingMemory(self.slots, self.pages)
        self.model = CountingModel(self.memory, self.windows, self.recurrent, self.late)
        self.groups = [Pages(count, self.slots if self.consecutive else 0) for count in self.pages]
        states = self.states if self.recurrent else None
        self.tree = PrefixTree(self.groups, self.windows, states, self._demote, self.blocks)
        self.allocation = Allocation(
            self.memory,
            self.groups,
            self.windows,
            self.recurrent,
            self.tree if self.cached else None,
            self.swap_pages,
        )
        self.scheduler = Scheduler(self.slots, self.budget, self.allocation, self.swap)

    def _demote(self, node: Node) -> Demoted:
        held = [[page] if page != NULL else [] for page in node.pages]
        return Demoted(tuple(page != NULL for page in node.pages), self.memory.fetch(held))

    def step(self) -> list[Slice]:
        slices = self.scheduler.schedule()
        assert sum(part.size for part in slices) <= self.budget
        self.model.run(slices, self.scheduler)
        assert self.scheduler.running + self.scheduler.free_slots == self.slots
        return slices

    def finish(self) -> None:
        """Nothing is left: all slots are free, and all pages free or only cached."""
        assert self.scheduler.free_slots == self.slots
        assert self.scheduler.running == self.scheduler.waiting == 0
        assert self.allocation._swap_left == self.swap_pages
        assert all(group.busy == 0 for group in self.groups)
        self.tree.clear()
        assert self.tree.nodes == self.tree.states == self.tree.blocks == 0
        assert [group.free for group in self.groups] == self.pages


def plain(slots: int, budget: int) -> World:
    """Pages in plenty, nothing cached."""
    return World(slots, budget, [64 * slots], [None], cached=False)


def random_world(dice: random.Random, longest: int) -> World:
    slots = dice.randint(1, 5)
    windows = dice.choice([[None], [None], [24], [None, 40], []])
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
