"""Prefixes that were computed before: a tree over pages of tokens, with sparse states. No torch.

Keys and values can be reused up to any page; the state of a recurrent layer only where a copy of
it was kept. A hit is therefore the deepest kept state on the longest path of cached pages, and
what lies between the two is computed again. Both are evicted by last use.
"""

import heapq
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from cairn.engine.nodes import Demoted, Match, Node, State
from cairn.engine.pages import NULL, PAGE, Pages


class PrefixTree:
    """Cached pages and states, over allocators that running sequences share with it.

    `groups` are the allocators of the groups of attention layers, `windows` how far each looks
    back (None: to the beginning). `states` is how many states may be kept; None says that the
    model has none and needs none. `demote` turns a node that is evicted into a block outside the
    pools, of which `blocks` are kept, or returns None.
    """

    def __init__(
        self,
        groups: Sequence[Pages],
        windows: Sequence[int | None],
        states: int | None,
        demote: Callable[[Node], Demoted | None] | None = None,
        blocks: int = 0,
    ) -> None:
        self._groups, self._windows = tuple(groups), tuple(windows)
        self._demote, self._most_blocks = demote if blocks else None, blocks
        self.most_states = states
        self._root = Node(None, (), 0, [NULL] * len(groups))
        self._states: OrderedDict[int, State] = OrderedDict()
        self._blocks: OrderedDict[int, Node] = OrderedDict()
        self._leaves: list[tuple[int, int, Node]] = []  # a heap; stale entries are skipped
        self._ticks = itertools.count(1)
        self._entries = itertools.count()
        self.nodes = 0
        self.epoch = 0
        """Counts how often everything was forgotten: what was computed before is of no use."""
        self.evicted = 0
        """Pages and states that were thrown out for others."""

    @property
    def states(self) -> int:
        """States that are kept."""
        return len(self._states)

    @property
    def blocks(self) -> int:
        """Nodes with a copy in the lower tier."""
        return len(self._blocks)

    def match(self, tokens: Sequence[int], most: int) -> Match:
        """The longest usable prefix of `tokens`, at most `most` tokens long."""
        path: list[Node] = []
        node = self._root
        for start in range(0, len(tokens) - PAGE + 1, PAGE):
            found = node.children.get(tuple(tokens[start : start + PAGE]))
            if found is None:
                break
            path.append(found)
            node = found
        if self.most_states is None:
            usable = min(len(path), most // PAGE)
            while usable and not self._reaches(path, usable):
                usable -= 1
            return Match(tuple(path), None, usable * PAGE)
        for depth in range(len(path), -1, -1):
            node = path[depth - 1] if depth else self._root
            state = self._deepest(node, tokens[depth * PAGE : (depth + 1) * PAGE], most)
            if state is not None and self._reaches(path, depth):
                return Match(tuple(path), state, state.position)
        return Match(tuple(path), None, 0)

    def touch(self, match: Match) -> None:
        """The match is used: what it rests on is evicted last."""
        tick = next(self._ticks)
        for node in reversed(match.path):  # the deepest first, as eviction goes
            node.used = tick
            if id(node) in self._blocks:
                self._blocks.move_to_end(id(node))
        if match.path:
            self._offer(match.path[-1])
        if match.state is not None:
            self._states.move_to_end(id(match.state))

    def insert(self, tokens: Sequence[int], pages: Sequence[Sequence[int]]) -> Node:
        """Cache the whole pages of `tokens`; the tree becomes a holder of those that are new.

        `pages[group][i]` holds tokens i * PAGE on. Returns the node of the last whole page.
        """
        node, tick = self._root, next(self._ticks)
        for number in range(len(tokens) // PAGE):
            key = tuple(tokens[number * PAGE : (number + 1) * PAGE])
            child = node.children.get(key)
            if child is None:
                child = Node(node, key, node.depth + 1, [NULL] * len(self._groups))
                node.children[key] = child
                self.nodes += 1
            for group, allocator in enumerate(self._groups):
                page = pages[group][number]
                if page != NULL and child.pages[group] == NULL:
                    allocator.cache(page)
                    child.pages[group] = page
            child.used = tick
            node = child
        if node is not self._root:
            self._offer(node)
        return node

    def keep(self, tokens: Sequence[int], pages: Sequence[Sequence[int]], copy: Any) -> bool:
        """Keep the state after `tokens`, whose keys and values are in `pages`; False if it is not.

        It is not where one is kept already, or none may be.
        """
        whole = len(tokens) // PAGE
        node, tail = self.insert(tokens, pages), tuple(tokens[whole * PAGE :])
        if not self.most_states or tail in node.states:
            if tail in node.states:
                self._states.move_to_end(id(node.states[tail]))
            return False
        begun = [NULL] * len(self._groups)
        if tail:
            for group, allocator in enumerate(self._groups):
                begun[group] = pages[group][whole]
                allocator.cache(begun[group])
        state = node.states[tail] = State(node, tail, begun, copy)
        self._states[id(state)] = state
        while len(self._states) > self.most_states:
            self._forget(next(iter(self._states.values())))
            self.evicted += 1
        return True

    def kept(self, tokens: Sequence[int]) -> bool:
        """Whether the state after `tokens` is kept."""
        node = self._root
        whole = len(tokens) // PAGE
        for number in range(whole):
            found = node.children.get(tuple(tokens[number * PAGE : (number + 1) * PAGE]))
            if found is None:
                return False
            node = found
        return tuple(tokens[whole * PAGE :]) in node.states

    def evict(self) -> bool:
        """Give back the pages of the node that was used longest ago; False if none can be."""
        busy: list[Node] = []  # offered again afterwards: sequences leave without telling
        try:
            while self._leaves:
                used, _, node = heapq.heappop(self._leaves)
                if used != node.used or not self._is_leaf(node):
                    continue
                if self._in_use(node):
                    busy.append(node)
                    continue
                self._evict(node)
                return True
            return self._evict_tail() or self._evict_inside()
        finally:
            for node in busy:
                self._offer(node)

    def settle(self, node: Node, pages: list[int]) -> None:
        """The node's block was read into these pages, which the tree now holds too."""
        for allocator, page in zip(self._groups, pages, strict=True):
            if page != NULL:
                allocator.cache(page)
        node.pages = list(pages)
        self._offer(node)

    def lose(self, node: Node) -> None:
        """The node's block cannot be read: it goes, with everything below it."""
        self._remove(node)

    def clear(self) -> None:
        """Forget everything."""
        for child in list(self._root.children.values()):
            self._remove(child)
        for state in list(self._root.states.values()):
            self._forget(state)
        self._leaves.clear()
        self.epoch += 1

    def walk(self) -> Iterator[Node]:
        """Every node, parents first."""
        below = list(self._root.children.values())
        while below:
            node = below.pop()
            yield node
            below += node.children.values()

    def _deepest(self, node: Node, after: Sequence[int], most: int) -> State | None:
        fitting = [
            state
            for tail, state in node.states.items()
            if tail == tuple(after[: len(tail)]) and 0 < state.position <= most
        ]
        return max(fitting, key=lambda state: state.position, default=None)

    def _reaches(self, path: Sequence[Node], depth: int) -> bool:
        """Whether every group has the pages that a token after `depth` of them looks at."""
        for group, window in enumerate(self._windows):
            first = 0 if window is None else max(0, depth * PAGE - window + 1) // PAGE
            if not all(node.holds(group) for node in path[first:depth]):
                return False
        return True

    def _is_leaf(self, node: Node) -> bool:
        """Whether it has pages and nothing below it has."""
        alive = node.parent is not None and node.parent.children.get(node.tokens) is node
        return alive and node.resident and not any(n.resident for n in node.children.values())

    def _in_use(self, node: Node) -> bool:
        return any(
            page != NULL and allocator.used(page)
            for allocator, page in zip(self._groups, node.pages, strict=True)
        )

    def _offer(self, node: Node) -> None:
        if self._is_leaf(node):
            heapq.heappush(self._leaves, (node.used, next(self._entries), node))

    def _evict(self, node: Node) -> None:
        self.evicted += 1
        if self._demote is not None and node.block is None:
            try:
                node.block = self._demote(node)
            except BaseException:
                self._remove(node)  # else nothing would offer it to be evicted again
                raise
        if node.block is None:
            self._remove(node)
            return
        for state in list(node.states.values()):
            if state.tail:  # its begun page lies beyond the node: no tier holds it
                self._forget(state)
        self._leave(node.pages)
        node.pages = [NULL] * len(self._groups)
        self._blocks[id(node)] = node
        self._blocks.move_to_end(id(node))
        if node.parent is not None:
            self._offer(node.parent)
        while len(self._blocks) > self._most_blocks:
            oldest = next(iter(self._blocks.values()))
            if oldest.resident:
                self._drop_block(oldest)
            else:
                self._remove(oldest)

    def _evict_tail(self) -> bool:
        """Give back a begun page that only a kept state holds."""
        for state in self._states.values():
            if any(
                page != NULL and not allocator.used(page)
                for allocator, page in zip(self._groups, state.pages, strict=True)
            ):
                self._forget(state)
                self.evicted += 1
                return True
        return False

    def _evict_inside(self) -> bool:
        """Give back a page above nodes that are in use: with it, all below is forgotten.

        Of a node that is in use itself, pages go that no sequence uses: those of layers with a
        window that has passed.
        """
        for node in self.walk():
            idle = [
                group
                for group, allocator in enumerate(self._groups)
                if node.pages[group] != NULL and not allocator.used(node.pages[group])
            ]
            if not idle:
                continue
            self.evicted += 1
            if self._in_use(node):
                for group in idle:
                    self._groups[group].uncache(node.pages[group])
                    node.pages[group] = NULL
            else:
                self._remove(node)
            return True
        return False

    def _remove(self, node: Node) -> None:
        """Take a node out, with all that is below it."""
        parent = node.parent
        if parent is not None and parent.children.get(node.tokens) is node:
            del parent.children[node.tokens]
        below = [node]
        while below:
            gone = below.pop()
            below += gone.children.values()
            gone.children = {}
            for state in list(gone.states.values()):
                self._forget(state)
            self._leave(gone.pages)
            gone.pages = [NULL] * len(self._groups)
            self._drop_block(gone)
            gone.parent = None
            self.nodes -= 1
        if parent is None or parent is self._root:
            return
        if parent.children or parent.states or parent.resident or parent.block is not None:
            self._offer(parent)
        else:  # its pages fell out of the window that all its layers have
            self._remove(parent)

    def _drop_block(self, node: Node) -> None:
        self._blocks.pop(id(node), None)
        node.block = None

    def _forget(self, state: State) -> None:
        del self._states[id(state)]
        del state.node.states[state.tail]
        self._leave(state.pages)

    def _leave(self, pages: list[int]) -> None:
        for allocator, page in zip(self._groups, pages, strict=True):
            if page != NULL:
                allocator.uncache(page)
