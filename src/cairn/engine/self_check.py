"""Whether cached prefixes change answers: some are computed again without, and compared. No torch.

A silent mistake in reuse looks like a model that got worse. The check runs on the requests that
really come, behind all others, and counts what differs.
"""

import logging
from dataclasses import replace

from cairn.engine.counts import Counts
from cairn.engine.sequence import Sequence

log = logging.getLogger(__name__)

LAST = -1  # priority: a request that waits goes first


class SelfCheck:
    """Every `every`-th answer that began with cached tokens; None checks none."""

    def __init__(self, every: int | None) -> None:
        self._every = every
        self._hits = 0
        self._expected: dict[int, Sequence] = {}

    @property
    def pending(self) -> bool:
        """Whether something is still to be compared."""
        return bool(self._expected)

    def hides(self, request: int, over: bool) -> bool:
        """Whether a request is one of the check's own, of which nobody should hear."""
        if over:
            return self._expected.pop(request, None) is not None
        return request in self._expected

    def finished(self, sequence: Sequence, counts: Counts) -> Sequence | None:
        """Take a finished sequence; what is to be computed for it now, if anything.

        The caller gives that an id, a detokenizer and steering of its own, and calls `expect`.
        """
        if self._every is None:
            return None
        first = self._expected.get(sequence.id)
        if first is not None:
            self._compare(first, sequence, counts)
            return None
        if not sequence.matched[1]:
            return None
        self._hits += 1
        if self._hits % self._every:
            return None
        return Sequence(
            id=-1,
            prompt=sequence.prompt,
            params=replace(sequence.params, logprobs=None),
            seed=sequence.seed,
            stop_tokens=sequence.stop_tokens,
            limit=sequence.limit,
            detokenizer=sequence.detokenizer,
            priority=LAST,
            reuse=False,
        )

    def expect(self, request: int, first: Sequence) -> None:
        """A request is the repetition of `first`."""
        self._expected[request] = first

    def _compare(self, first: Sequence, again: Sequence, counts: Counts) -> None:
        counts.checked += 1
        if first.output == again.output:
            return
        counts.differing += 1
        pairs = zip(first.output, again.output, strict=False)
        place = next((i for i, (a, b) in enumerate(pairs) if a != b), -1)
        log.warning(
            "an answer after %d cached tokens (prompt of %d) differs from that without at token %d",
            first.matched[1],
            len(first.prompt),
            place,
        )
