"""A scheduler over memory and a model that only count: they check what each step may see."""

from dataclasses import dataclass, field

from cairn.engine.allocation import Allocation
from cairn.engine.detokenizer import Detokenizer
from cairn.engine.nodes import Demoted, Node
from cairn.engine.pages import NULL, PAGE, Pages
from cairn.engine.prefix import PrefixTree
from cairn.engine.sampling import SamplingParams
from cairn.engine.scheduler import Scheduler, Slice
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
