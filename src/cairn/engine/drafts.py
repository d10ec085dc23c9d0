"""Guesses at the next tokens by looking the last ones up in the text so far. No torch."""

from typing import Protocol

from cairn.engine.sequence import Sequence

LONGEST, SHORTEST = 4, 2  # tokens that have to be the same before the guess
WORTH = 0.6  # of guesses: below, guessing costs more than it gains (bench/guesses.py)
KEEN = 0.3  # how much the last guesses count among all before
FIRST_PAUSE, LAST_PAUSE = 4, 64  # tokens without a guess


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


def learn(sequence: Sequence, guessed: int, right: int, most: int) -> None:
    """Guess at most so many next time, and not for a while where guesses do not pay.

    A wrong guess costs more than its row: its step is no decode of one token, and where there are
    states, what it computed is put back and computed again. So guesses must be right more often
    than not; while they are not, the pause after each wrong one doubles.
    """
    sequence.trust = min(sequence.trust * 2 if right == guessed else max(1, right), most)
    sequence.worth += KEEN * (right / guessed - sequence.worth)
    if right == guessed:
        sequence.pause //= 4
    elif sequence.worth < WORTH:
        sequence.pause = min(max(FIRST_PAUSE, 2 * sequence.pause), LAST_PAUSE)
        sequence.rests_to = sequence.length + sequence.pause


def most_drafts(sequence: Sequence, most: int) -> int:
    """How many guesses can be of use: one token is drawn after the last that is right."""
    if sequence.length < sequence.rests_to:
        return 0
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
