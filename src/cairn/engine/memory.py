"""What bookkeeping asks of the memory that a model reads: a protocol, so that none needs torch."""

from collections.abc import Sequence
from typing import Any, Protocol


class Memory(Protocol):
    """Pages of keys and values, and slots of recurrent state, on whatever device."""

    def assign(self, slot: int, group: int, first: int, pages: list[int]) -> None:
        """The slot's pages `first` on, in one group of attention layers, are now `pages`."""
        ...

    def copy(self, group: int, sources: list[int], targets: list[int]) -> None:
        """Copy keys and values page by page."""
        ...

    def scrub(self, group: int, pages: list[int]) -> None:
        """Fill pages with zeros: what they hold may be no numbers."""
        ...

    def clear(self, slot: int) -> None:
        """The slot begins a new sequence: its recurrent state is that before the first token."""
        ...

    def save(self, slot: int) -> Any:
        """A copy of the slot's recurrent state."""
        ...

    def restore(self, slot: int, copy: Any) -> None:
        """Put a copy back, into any slot."""
        ...

    def fetch(self, pages: list[list[int]]) -> Any:
        """A copy of the keys and values in `pages` of every group, outside the pool."""
        ...

    def store(self, block: Any, pages: list[list[int]]) -> bool:
        """Put a copy back, into any pages; False if it cannot be read any more."""
        ...


class Stored(Protocol):
    """A run of pages outside the pools."""

    @property
    def start(self) -> int:
        """Tokens before it."""
        ...

    @property
    def position(self) -> int:
        """Tokens to its end."""
        ...

    @property
    def skipped(self) -> list[int]:
        """For each group, how many of its first pages are not in it; empty for none."""
        ...


class Ahead(Protocol):
    """Runs that are being read."""

    @property
    def ready(self) -> bool:
        """Whether all are read; a read that has to wait for others begins when this is asked."""
        ...

    def has(self, entry: Any) -> bool:
        """Whether a run is among them."""
        ...

    def take(self, entry: Any) -> tuple[Any, Any] | None:
        """What `Store.read` gives, or raises."""
        ...

    def drop(self) -> None:
        """It is used, or not wanted any more."""
        ...


class Store(Protocol):
    """Where prefixes outlive the process; see `cairn.engine.archive.Archive`."""

    def find(self, tokens: list[int], most: int) -> Sequence[Any]:
        """`Stored` runs that together hold the longest prefix of at most `most` tokens."""
        ...

    def reach(self, tokens: list[int]) -> int:
        """How many of the tokens are kept already, or soon will be."""
        ...

    def read(self, entry: Any) -> tuple[Any, Any] | None:
        """What `Memory.store` and `Memory.restore` take (None without state), or None."""
        ...

    def ahead(self, entries: Sequence[Any]) -> "Ahead":
        """Have runs read while others compute."""
        ...

    def write(
        self, tokens: list[int], start: int, block: Any, state: Any, skipped: list[int]
    ) -> None:
        """Keep what `Memory.fetch` gave of tokens `start` to the end, and the state after them.

        Of each group without its first `skipped` pages.
        """
        ...
