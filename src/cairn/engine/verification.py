"""Drawing after a pass that may have run ahead: guesses are kept while they are what is drawn.

Every token is drawn from the model's own logits with its own random number (`sampling.uniform`),
as if nothing had been guessed; a guess only decides whether the logits for the next token are
there already. So completions are the same with and without speculation, whatever the sampling,
and a guess is accepted with the probability that the model gives it, which for a guess without
alternatives is what rejection sampling reaches (arXiv 2211.17192, section 2.3).
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cairn.engine.sampler import draw
from cairn.engine.scheduler import Slice
from cairn.engine.sequence import Delta, TokenLogprob


@dataclass(eq=False)
class Drawing:
    """A slice that reaches its sequence's end, and what is drawn after it."""

    part: Slice
    first: int
    """The row of the step's hidden states that predicts the next token."""
    drawn: list[TokenLogprob] = field(default_factory=list)
    text: str = ""
    right: int = 0
    """Guesses that were drawn."""

    @property
    def rows(self) -> range:
        """Rows of the step's hidden states that may be drawn from."""
        return range(self.first, self.first + 1 + len(self.part.drafts))

    def delta(self) -> Delta:
        """What is new in the sequence, with the completion if it is over."""
        sequence = self.part.sequence
        first = len(sequence.output) == len(self.drawn)
        return Delta(
            id=sequence.id,
            text=self.text,
            tokens=tuple(item.token for item in self.drawn),
            forced=tuple(item.forced for item in self.drawn),
            logprobs=tuple(self.drawn) if sequence.params.logprobs is not None else (),
            completion=None if sequence.finish_reason is None else sequence.completion(),
            prompt_logprobs=tuple(sequence.prompt_logprobs) if first else (),
        )

    def take(self, drawn: TokenLogprob) -> bool:
        """Add a drawn token to the sequence; whether the next row counts too."""
        sequence = self.part.sequence
        if sequence.limit == 0:
            sequence.finish_reason = "length"
        elif math.isnan(drawn.logprob) or sequence.problem:  # it was drawn without the grammar
            self.text += sequence.detokenizer.finish()
            sequence.finish_reason = "error"
        else:
            self.text += sequence.append(drawn)
            self.drawn.append(drawn)
        drafts = self.part.drafts
        if len(self.drawn) > len(drafts) or not self.drawn:
            return False
        if drawn.token != drafts[len(self.drawn) - 1]:
            return False
        self.right += 1
        return sequence.finish_reason is None


def verify(logits: Tensor, drawing: list[Drawing]) -> None:
    """Draw from `logits` [R, V], the rows of each in `drawing` in their order, while guesses hold.

    One round draws the next token of all that still go on, so that what a token changes (stops,
    penalties, grammars) is known before the next one is drawn.
    """
    if not any(one.part.drafts for one in drawing):
        found = draw(logits, [one.part.sequence for one in drawing])
        for one, drawn in zip(drawing, found, strict=True):
            one.take(drawn)
        return
    first, at = {}, 0
    for one in drawing:
        first[one] = at
        at += len(one.rows)
    going, number = list(drawing), 0
    while going:
        rows = torch.tensor([first[one] + number for one in going], device=logits.device)
        found = draw(logits[rows], [one.part.sequence for one in going])
        going = [one for one, drawn in zip(going, found, strict=True) if one.take(drawn)]
        number += 1
