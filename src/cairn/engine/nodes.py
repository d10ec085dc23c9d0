"""What the tree of cached prefixes is made of. No torch."""

from dataclasses import dataclass, field
from typing import Any

from cairn.engine.pages import NULL, PAGE

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Demoted:
    """The keys and values of an evicted page."""

    groups: tuple[bool, ...]
    """Which groups of layers it has."""
    copy: Any
    """What the memory stores back."""


@dataclass(eq=False, slots=True)
class Node:
    """One page of tokens after those of its parents."""

    parent: "Node | None"
    tokens: Tokens
    depth: int
    """Pages from the root, this one included."""
    pages: list[int]
    """Where its keys and values are, for each group of layers; NULL where they are not."""
    children: dict[Tokens, "Node"] = field(default_factory=dict)
    states: dict[Tokens, "State"] = field(default_factory=dict)
    """Kept states at the end of this page and up to a page later, by the tokens between."""
    block: Demoted | None = None
    """A copy of its keys and values in a lower tier, or None."""
    used: int = 0

    @property
    def position(self) -> int:
        """Tokens up to the end of this page."""
        return self.depth * PAGE

    @property
    def resident(self) -> bool:
        """Whether keys and values of any group are in pages."""
        return any(self.pages)

    def holds(self, group: int) -> bool:
        """Whether the keys and values of a group are in a page, or can be brought back to one."""
        if self.pages[group] != NULL or self.resident or self.block is None:
            return self.pages[group] != NULL
        return self.block.groups[group]


@dataclass(eq=False, slots=True)
class State:
    """A kept state, and the page that holds keys and values of the tokens past its node."""

    node: Node
    tail: Tokens
    pages: list[int]
    """The begun page of `tail`, for each group; NULL where the tail is empty."""
    copy: Any
    """What restores the state."""

    @property
    def position(self) -> int:
        """Tokens that the state has seen."""
        return self.node.position + len(self.tail)


@dataclass(frozen=True)
class Match:
    """What the tree knows of a list of tokens."""

    path: tuple[Node, ...]
    """Nodes whose pages begin the list."""
    state: State | None
    """The kept state to go on from, if states are needed and there is one."""
    position: int
    """Tokens that need not be computed."""

    @property
    def keys(self) -> int:
        """Tokens whose keys and values are cached."""
        return max(PAGE * len(self.path), self.position)
