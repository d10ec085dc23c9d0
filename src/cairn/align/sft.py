"""A stream of packed conversations: what the one training loop eats in supervised fine-tuning."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from cairn.base import UserError
from cairn.tokens.batch import Batch, Window, assemble, pack
from cairn.tokens.epochs import Epochs

OPEN_WINDOWS = 32  # that a conversation may still be put into: more packs tighter, and slower


@dataclass(frozen=True)
class Conversation:
    """Token ids, the weight of each as a target, and the ledger row of the file it is from."""

    ids: Sequence[int]
    weights: Sequence[float]
    ledger_row: int | None = None


class ConversationStream:
    """Windows of `sequence_length` tokens, each of whole conversations, numbered through epochs.

    Every conversation is a span of its own: none sees another. Loss falls on what the assistant
    says alone. Each epoch shuffles and packs anew (first fit); a window is a pure function of
    (seed, number). Conversations that are longer than a window are left out: `left_out` of them.
    """

    def __init__(
        self,
        conversations: Sequence[Conversation],
        sequence_length: int,
        seed: int,
        padding: int,
    ) -> None:
        if sequence_length < 2:
            raise UserError("sequence_length", sequence_length, "is too small", "take more")
        if seed < 0:
            raise UserError("seed", seed, "is negative", "take 0 or more")
        self.conversations = [
            one for one in conversations if len(one.ids) <= sequence_length and any(one.weights)
        ]
        self.left_out = len(conversations) - len(self.conversations)
        if not self.conversations:
            raise UserError(
                "sequence_length",
                sequence_length,
                f"holds none of the {len(conversations)} conversations whole",
                "take a longer one, or more data",
            )
        self.sequence_length = sequence_length
        self.seed, self.padding = seed, padding
        self._planned: dict[int, list[list[int]]] = {}
        self.epochs = Epochs(self.windows)

    def windows(self, epoch: int) -> int:
        """Windows in an epoch; epochs differ a little, for they are packed anew."""
        return len(self._plan(epoch))

    def window(self, sample: int) -> Window:
        """The window of a number: 0, 1, 2, ... through epoch after epoch."""
        epoch, place = self.epochs.place(sample)
        chosen = [self.conversations[number] for number in self._plan(epoch)[place]]
        texts = [(one.ids, one.weights, one.ledger_row) for one in chosen]
        return pack(texts, self.sequence_length, self.padding)

    def batch(self, samples: Iterable[int]) -> Batch:
        """The windows of these numbers, end to end."""
        return assemble([self.window(sample) for sample in samples])

    def _plan(self, epoch: int) -> list[list[int]]:
        """Conversations of each window of an epoch; the two used last are kept."""
        if epoch not in self._planned:
            order = np.random.default_rng([self.seed, epoch]).permutation(len(self.conversations))
            lengths = [len(one.ids) for one in self.conversations]
            while len(self._planned) > 1:
                self._planned.pop(next(iter(self._planned)))
            self._planned[epoch] = first_fit(order.tolist(), lengths, self.sequence_length)
        return self._planned[epoch]


def first_fit(order: Sequence[int], lengths: Sequence[int], size: int) -> list[list[int]]:
    """Items put one by one into the first open window with room, in the order of windows."""
    windows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (window, free tokens) of those still open
    for item in order:
        need = lengths[item]
        for place, (window, free) in enumerate(room):
            if need <= free:
                windows[window].append(item)
                room[place] = (window, free - need)
                break
        else:
            windows.append([item])
            room.append((len(windows) - 1, size - need))
            if len(room) > OPEN_WINDOWS:  # close the fullest; it is the least likely to be used
                room.remove(min(room, key=lambda entry: (entry[1], entry[0])))
    return windows
