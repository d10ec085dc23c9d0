"""Steps of an engine, one launched before what the last one drew is known.

The next step is scheduled and launched while the device computes; only then is it asked what it
drew before. Bookkeeping counts a token from when its draw is launched (`Sequence.ahead`), the next
step reads it on the device, and a sequence that turns out to have ended has been computed one
token further, which nobody reads. What is drawn is the same in either order.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from cairn.engine.runner import Held, Rows, Runner
from cairn.engine.sampler import Draws, begin_draw, likeliest, score
from cairn.engine.scheduler import Scheduler, Slice
from cairn.engine.verification import Drawing, verify
from cairn.ops.order import fixed_order

SCORED_AT_ONCE = 256  # prompt rows whose logits exist at the same time


@dataclass(frozen=True)
class Flight:
    """A step that was launched, whose draws are not known here yet."""

    drawing: list[Drawing]
    draws: Draws

    @property
    def waits(self) -> bool:
        """Whether a token has to be known before the next can be drawn."""
        return any(one.part.sequence.waits for one in self.drawing)


class Stepper:
    """Runs what a scheduler plans. With `overlap`, draws are read one step later where they can.

    With `fixed`, sums are taken in an order that the batch does not change (`ops.order`).
    Draws cannot be read late where a token has to be known before the next is drawn: penalties,
    grammars, thinking budgets, and guesses.
    """

    def __init__(
        self, runner: Runner, scheduler: Scheduler, overlap: bool, fixed: bool = False
    ) -> None:
        self.runner, self.scheduler, self.overlap = runner, scheduler, overlap
        self.fixed = fixed
        self.steps = self.tokens_read = self.tokens_drawn = 0
        self.tokens_guessed = self.tokens_accepted = 0
        self._flight: Flight | None = None

    @property
    def waits(self) -> bool:
        """Whether draws are still to be read."""
        return self._flight is not None

    def step(self, slices: list[Slice]) -> Iterator[list[Drawing]]:
        """Launch the slices; what has come to be known, of the step before and then of this one.

        What is given is to be booked before the next is asked for. Of a sequence that ended
        meanwhile nothing is told. Where the slices cannot be launched, draws of the step before
        are still to be read; if those cannot be read, they are lost, and those of the slices too.
        """
        before, self._flight = self._flight, None
        try:
            with fixed_order(self.fixed):
                flight = self._launch(slices) if slices else None
        except BaseException:
            self._flight = before
            raise
        if isinstance(flight, Flight) and self.overlap and not flight.waits:
            self._flight, flight = flight, None
        if before is not None:
            try:
                known = self._land(before)
            except BaseException:
                self._flight = None
                raise
            yield known
        if flight is not None:
            yield self._land(flight) if isinstance(flight, Flight) else flight

    @torch.inference_mode()
    def _launch(self, slices: list[Slice]) -> Flight | list[Drawing] | None:
        """Queue a step; with guesses, what was drawn, for they are verified at once."""
        held = self.runner.hold(slices)
        rows = self.runner.run(slices)
        self.steps += 1
        self.tokens_read += rows.tokens
        drawing: list[Drawing] = []
        for part, start in zip(slices, rows.starts, strict=True):
            if part.sequence.params.prompt_logprobs is not None:
                self._score_prompt(part, start, rows)
            if part.reaches_end:
                drawing.append(Drawing(part, start + part.stop - part.start - 1))
            else:
                self.scheduler.advance(part)
        if not drawing:
            return None
        if rows.likeliest is not None:
            draws = likeliest(*rows.likeliest)
        else:
            logits = self.runner.logits(rows, [row for one in drawing for row in one.rows])
            if any(one.part.drafts for one in drawing):
                verify(logits, drawing)
                self._settle(drawing, held)
                return drawing
            draws = begin_draw(logits, [one.part.sequence for one in drawing])
        if self.overlap:
            self.runner.remember([one.part.slot for one in drawing], draws.tokens)
        for one in drawing:
            self.scheduler.advance(one.part)
            one.part.sequence.ahead += 1
        return Flight(drawing, draws)

    def _land(self, flight: Flight) -> list[Drawing]:
        """Read what a step drew."""
        found = flight.draws.read()
        for one in flight.drawing:
            one.part.sequence.ahead -= 1
        known = []
        for one, drawn in zip(flight.drawing, found, strict=True):
            if one.part.sequence.finish_reason is None:
                one.take(drawn)
                known.append(one)
        self.tokens_drawn += sum(len(one.drawn) for one in known)
        return known

    def _settle(self, drawing: list[Drawing], held: Held | None) -> None:
        """Book what was verified; the state that saw a wrong guess is that of before again."""
        spoilt: list[int] = []
        for one in drawing:
            part = one.part
            self.tokens_guessed += len(part.drafts)
            self.tokens_accepted += one.right
            self.tokens_drawn += len(one.drawn)
            if one.right == len(part.drafts) or held is None:
                self.scheduler.advance(part, part.stop + one.right)
            else:
                spoilt.append(part.slot)
                self.scheduler.advance(part, part.start)
        if spoilt and held is not None:
            self.runner.put_back(held, spoilt)

    def _score_prompt(self, part: Slice, row: int, rows: Rows) -> None:
        """Log-probabilities of the prompt tokens that the slice's rows predict."""
        sequence = part.sequence
        top = sequence.params.prompt_logprobs or 0
        last = min(part.stop, len(sequence.prompt) - 1)  # the last token predicts the output
        del sequence.prompt_logprobs[part.start :]  # of tokens that are computed again
        for start in range(part.start, last, SCORED_AT_ONCE):
            stop = min(start + SCORED_AT_ONCE, last)
            places = [row + place - part.start for place in range(start, stop)]
            targets = sequence.prompt[start + 1 : stop + 1]
            found = score(self.runner.logits(rows, places), targets, top)
            sequence.prompt_logprobs.extend(found)
