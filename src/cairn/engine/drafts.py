"""Guesses at the next tokens by looking the last ones up in the text so far. No torch."""

from typing import Protocol

from cairn.engine.sequence import Sequence

LONGEST, SHORTEST = 4, 2  # tokens that have to be the same before the guess


class Drafter(Protocol):
    """Guesses the next tokens of sequences that draw."""

    def propose(self, sequences: list[Sequence]) -> None:
        """Set `drafts` of each sequence; none is right."""
        ...

    def forget(self, sequence: Sequence) -> None:
        """The sequence is over."""
        ...


class PromptLookup:
    """What followed the last time that the text went on as it does now (prompt lookup decoding).

    Code and edits repeat themselves; where nothing repeats, nothing is guessed.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._seen: dict[int, _Places] = {}

    def propose(self, sequences: list[Sequence]) -> None:
        """Set `drafts` of each sequence, as many as its guesses were right lately."""
        for sequence in sequences:
            room = most_drafts(sequence, self._most)
            if room < 1:
                sequence.drafts = []
                continue
            seen = self._seen.get(sequence.id)
            if seen is None:
                seen = self._seen[sequence.id] = _Places()
            sequence.drafts = seen.after(sequence, room)

    def forget(self, sequence: Sequence) -> None:
        """The sequence is over."""
        self._seen.pop(sequence.id, None)


def most_drafts(sequence: Sequence, most: int) -> int:
    """How many guesses can be of use: one token is drawn after the last that is right."""
    return min(most, sequence.trust, sequence.limit - len(sequence.output) - 1)


class _Places:
    """Where each run of a few tokens was seen last."""

    def __init__(self) -> None:
        self._ends: dict[tuple[int, ...], int] = {}
        self._known = 0

    def after(self, sequence: Sequence, most: int) -> list[int]:
        length = sequence.length
        tokens = sequence.tokens(max(0, self._known - LONGEST), length)
        offset = max(0, self._known - LONGEST)
        for end in range(max(self._known, SHORTEST), length):  # the run at the end is for asking
            for size in range(SHORTEST, LONGEST + 1):
                if end - size >= offset:
                    self._ends[tuple(tokens[end - size - offset : end - offset])] = end
        self._known = length
        for size in range(LONGEST, SHORTEST - 1, -1):
            if length < size:
                continue
            end = self._ends.get(tuple(sequence.tokens(length - size, length)))
            if end is not None:
                return self._following(sequence, end, most)
        return []

    @staticmethod
    def _following(sequence: Sequence, end: int, most: int) -> list[int]:
        """Tokens from `end` on; where they run into the end of the text, they go round."""
        length = sequence.length
        found = sequence.tokens(end, min(end + most, length))
        while len(found) < most:
            found.append(found[len(found) - (length - end)])
        return found
