"""Whether cached prefixes change answers: some are computed again without, and compared. No torch.

A silent mistake in reuse looks like a model that got worse. The check runs on the requests that
really come, behind all others, and counts what differs.
"""

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from cairn.engine.counts import Counts
from cairn.engine.detokenizer import Detokenizer
from cairn.engine.sequence import Sequence

if TYPE_CHECKING:
    from cairn.engine.prompts import Prompts

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

    def finished(
        self, sequence: Sequence, counts: Counts, prompts: "Prompts", ids: Iterator[int]
    ) -> Sequence | None:
        """Take a finished sequence; what is to be computed for it now, if anything."""
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
        again = Sequence(
            id=next(ids),
            prompt=sequence.prompt,
            params=replace(sequence.params, logprobs=None),
            seed=sequence.seed,
            stop_tokens=sequence.stop_tokens,
            limit=sequence.limit,
            detokenizer=Detokenizer(prompts.token_bytes, sequence.params.stop),
            steering=prompts.steering(sequence.params),
            priority=LAST,
            reuse=False,
        )
        self._expected[again.id] = sequence
        return again

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
