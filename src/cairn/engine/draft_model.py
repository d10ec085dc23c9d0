"""Guesses at the next tokens by a small model, many sequences at a time."""

from pathlib import Path

import torch

from cairn.base import UserError
from cairn.engine.drafts import most_drafts
from cairn.engine.sampler import draw
from cairn.engine.sequence import Sequence, TokenLogprob
from cairn.engine.weights import join_weights
from cairn.model import Cache, Decoder, Spans, load


class DraftModel:
    """A model that runs ahead of another with the same tokens.

    It remembers each sequence in the slot that the sequence has; what it guessed is taken out of
    its state again, by going back to the copy from before. It draws as the sequence does and with
    the same random numbers, which makes right guesses likelier than independent draws would be.
    """

    def __init__(
        self, model: Decoder, target: Decoder, slots: int, capacity: int, most: int
    ) -> None:
        if model.config.vocab_size != target.config.vocab_size:
            raise UserError(
                "model",
                model.config.name or "draft",
                f"has {model.config.vocab_size} tokens and the served one "
                f"{target.config.vocab_size}",
                "give a small model with the same tokenizer",
            )
        self._model, self._most = model, most
        self._cache = Cache(model.config, slots, capacity + most, model.device, model.dtype)
        self._known: dict[int, tuple[int, int]] = {}  # of each sequence: slot, and tokens read

    @classmethod
    def of(
        cls, model: "str | Path | Decoder", target: Decoder, slots: int, capacity: int, most: int
    ) -> "DraftModel":
        """From a folder, on the target's device and in its dtype, or a live model."""
        if not isinstance(model, Decoder):
            model = load(Path(model), target.device, target.dtype, mapped=False)
        join_weights(model)
        return cls(model, target, slots, capacity, most)

    @torch.inference_mode()
    def propose(self, sequences: list[Sequence]) -> None:
        """Set `drafts` of each sequence."""
        asked = []
        for sequence in sequences:
            sequence.drafts = []
            if most_drafts(sequence, self._most) > 0:
                asked.append(sequence)
        if not asked:
            return
        logits = self._read([one.tokens(self._begin(one), one.length) for one in asked], asked)
        slots = [one.slot for one in asked]
        kept = self._cache.window[:, slots].clone(), self._cache.state[:, slots].clone()
        going = asked
        while going:
            for one, drawn in zip(going, self._draw(logits, going), strict=True):
                one.drafts.append(drawn.token)
            going = [one for one in going if len(one.drafts) < most_drafts(one, self._most)]
            if going:
                logits = self._read([one.drafts[-1:] for one in going], going)
        self._cache.window[:, slots], self._cache.state[:, slots] = kept
        for one in asked:
            assert one.slot is not None
            self._known[one.id] = (one.slot, one.length)
            self._cache.lengths[one.slot] = one.length

    def forget(self, sequence: Sequence) -> None:
        """The sequence is over."""
        self._known.pop(sequence.id, None)

    def _begin(self, sequence: Sequence) -> int:
        """How many tokens of the sequence its slot remembers; 0 for a slot that changed hands."""
        slot, known = self._known.get(sequence.id, (None, 0))
        if slot == sequence.slot and self._owner(slot) == sequence.id:
            return known
        assert sequence.slot is not None
        for other in [number for number, (held, _) in self._known.items() if held == sequence.slot]:
            del self._known[other]
        self._cache.reset([sequence.slot])
        self._known[sequence.id] = (sequence.slot, 0)
        return 0

    def _owner(self, slot: int | None) -> int | None:
        return next((number for number, (held, _) in self._known.items() if held == slot), None)

    def _read(self, tokens: list[list[int]], sequences: list[Sequence]) -> torch.Tensor:
        """Logits [R, V] after the last of each sequence's tokens."""
        lengths = [len(own) for own in tokens]
        flat = torch.tensor([token for own in tokens for token in own])
        slots = [one.slot for one in sequences if one.slot is not None]
        hidden = self._model.hidden(flat, Spans.of(lengths, slots), self._cache)
        last = torch.tensor(lengths, device=hidden.device).cumsum(0) - 1
        return self._model.head(hidden[last])

    @staticmethod
    def _draw(logits: torch.Tensor, sequences: list[Sequence]) -> list[TokenLogprob]:
        """What each sequence would draw from these logits after its guesses so far."""
        ahead = []
        for one in sequences:
            ghost = Sequence(
                id=one.id,
                prompt=one.prompt,
                params=one.params,
                seed=one.seed,
                stop_tokens=one.stop_tokens,
                limit=one.limit,
                detokenizer=one.detokenizer,
                output=[*one.output, *one.drafts],
            )
            ahead.append(ghost)
        return draw(logits, ahead)
