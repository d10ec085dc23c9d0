"""Pages of keys and values: who uses which, counted. Pure bookkeeping, no torch."""

import numpy as np

PAGE = 16  # tokens: small, so that a short prefix can be shared and little of a page stays empty
NULL = 0  # the page that is nobody's: it holds zeros, and stands for what was given back


class Pages:
    """Numbers 1 to `count`; a page is free unless sequences use it or the prefix cache holds it.

    With `homes`, sequences begin in so many places at equal distances, or else in the middle of
    the longest run of free pages, so that a growing sequence finds the next page free: where
    attention reads through views, as on a CPU, consecutive pages need no copy. Without, any free
    page is as good.
    """

    def __init__(self, count: int, homes: int = 0) -> None:
        self.count = count
        self.consecutive = homes > 0
        self._apart = count // homes if homes else 0
        self.busy = 0
        """Pages that sequences use; all others are free or can be made free."""
        self._free: dict[int, None] = dict.fromkeys(range(count, 0, -1))
        self._users = [0] * (count + 1)
        self._cached = bytearray(count + 1)
        self._taken = np.ones(count + 2, dtype=bool)  # page 0 and the one past the end bound runs
        self._taken[1 : count + 1] = False

    @property
    def free(self) -> int:
        """Pages that hold nothing."""
        return len(self._free)

    def home(self, slot: int) -> int:
        """Where the sequence in a slot best begins; NULL if that is all the same."""
        return 1 + slot * self._apart if self.consecutive else NULL

    def used(self, page: int) -> bool:
        """Whether a sequence uses the page."""
        return self._users[page] > 0

    def exclusive(self, page: int) -> bool:
        """Whether one sequence alone has the page."""
        return self._users[page] == 1 and not self._cached[page]

    def take(self, wanted: int = NULL) -> int:
        """A free page for one user: `wanted` if it is free. ValueError when none is left."""
        if not self._free:
            raise ValueError("no page is free")
        if wanted in self._free:
            del self._free[wanted]
            page = wanted
        elif self.consecutive:
            page = self._roomy()
            del self._free[page]
        else:
            page, _ = self._free.popitem()
        self._users[page] = 1
        self._taken[page] = True
        self.busy += 1
        return page

    def share(self, page: int) -> None:
        """One user more of a page that is not free."""
        assert self._taken[page], f"page {page} is free"
        self._users[page] += 1
        self.busy += self._users[page] == 1

    def leave(self, page: int) -> None:
        """One user less."""
        assert self._users[page] > 0, f"page {page} has no user"
        self._users[page] -= 1
        if self._users[page] == 0:
            self.busy -= 1
            self._release(page)

    def cache(self, page: int) -> None:
        """The prefix cache holds the page, whoever else uses it."""
        assert self._users[page], f"page {page} holds nothing"
        assert not self._cached[page], f"page {page} is cached twice"
        self._cached[page] = True

    def uncache(self, page: int) -> None:
        """The prefix cache lets go of the page."""
        assert self._cached[page], f"page {page} is not cached"
        self._cached[page] = False
        self._release(page)

    def _release(self, page: int) -> None:
        if self._users[page] == 0 and not self._cached[page]:
            self._free[page] = None
            self._taken[page] = False

    def _roomy(self) -> int:
        """A page with as much free space behind it as can be had without crowding others."""
        edges = np.flatnonzero(self._taken)
        widths = np.diff(edges)
        longest = int(widths.argmax())
        first, width = int(edges[longest]) + 1, int(widths[longest]) - 1
        return first if first == 1 else first + width // 2
