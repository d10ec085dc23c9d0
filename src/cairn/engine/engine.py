"""Engine: prompts in, completions out, many at a time."""

import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import torch

from cairn.base import UserError
from cairn.engine.assembly import (
    CUT,
    allocate,
    archive_of,
    closed_on_failure,
    drafter_of,
    opened,
    pool_of,
    refuse_apart,
    states_in,
    without_variation,
)
from cairn.engine.code import CodePrompt
from cairn.engine.drafts import learn
from cairn.engine.load import Load, load_of
from cairn.engine.options import Caching, Speculation
from cairn.engine.prompts import Prompts, one_each
from cairn.engine.request import sequence_of
from cairn.engine.runner import Runner
from cairn.engine.sampling import SamplingParams
from cairn.engine.scheduler import Scheduler, Slice
from cairn.engine.self_check import SelfCheck
from cairn.engine.sequence import Completion, Delta, Sequence
from cairn.engine.stepper import Stepper
from cairn.engine.verification import Drawing
from cairn.engine.warming import warm_up
from cairn.engine.watch import Watch
from cairn.engine.weights import replace_weights
from cairn.model import Decoder
from cairn.tokens.tokenizer import Tokenizer

log = logging.getLogger(__name__)
PATIENCE = 0.05  # seconds: a step that can only wait for the disk is over then
TOKEN_BUDGET = {"cpu": 512, "cuda": 4096}  # tokens a step: long prompts are cut to this


class Engine:
    """Continuous batching over one model. Not thread-safe: one thread drives an engine.

    `model` is a checkpoint folder or a live model (its current weights are used, not a copy; it
    stays on its device and in its dtype; on a GPU `model.joined.join` moves its matrices). A folder
    is loaded on `device` (a GPU if there is one) in `dtype` (None: bfloat16 on a GPU; on a CPU too
    where weights are stored in it and the CPU has matrix units for it, else float32), with
    `weights` "float8" its matrices in 8 bits. At most `slots` sequences run at a time, each of up
    to `capacity` tokens, prompt and completion together; None fits them to the memory, and where
    memory is short sequences wait or are preempted: nothing is refused. One step carries at most
    `token_budget` tokens. Recurrent states are in `state_dtype`: float32, or float16 or int8,
    rounded at random. `caching` says what is kept of prefixes, `speculation` how tokens are guessed
    ahead (None: they are not); neither changes what is drawn. `memory` is how many bytes keys,
    values and states may take (None: a share of what is free). `graphs` captures steps of few
    tokens, and `overlap` launches a step before what the last one drew is known; both are for GPUs
    and on there (None). `invariant` gives every request the bits that it has alone, whatever the
    batch, log-probabilities included; it is slower and keeps no prefixes. With `ranks`, so many
    processes share the model of a folder, one a GPU (tensor parallelism): the others are started
    here, and end with `close`; `memory` is then that of each.
    """

    @torch.inference_mode(False)  # or its memory could be written in that mode alone
    def __init__(
        self,
        model: str | Path | Decoder,
        tokenizer: Tokenizer | None = None,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        slots: int | None = None,
        capacity: int | None = None,
        token_budget: int | None = None,
        weights: Literal["float8"] | None = None,
        state_dtype: str | torch.dtype | None = None,
        caching: Caching | None = None,
        speculation: Speculation | None = None,
        memory: int | None = None,
        graphs: bool | None = None,
        overlap: bool | None = None,
        invariant: bool = False,
        ranks: int = 1,
    ) -> None:
        if invariant:
            caching = without_variation(caching, speculation)
        self._caching = caching or Caching()
        if ranks != 1:
            refuse_apart(ranks, self._caching, invariant)
        own = opened(model, tokenizer, device, dtype, weights, ranks)
        self.model, self.tokenizer, self._team = own.model, own.tokenizer, own.team
        wanted = token_budget or TOKEN_BUDGET[own.model.device.type]
        with closed_on_failure(own.team):
            pool = pool_of(
                own.model, own.team, slots, capacity, memory, wanted, states_in(state_dtype),
                keeps=self._caching.prefixes, graphs=graphs,
            )  # fmt: skip
            self._runner = Runner(own.model, pool, graphs, own.team)
            self._archive = archive_of(own.model, self._caching, pool)
            self._drafter = drafter_of(speculation, own.model, pool.sizes)
        self.slots, self.capacity = pool.sizes.slots, pool.sizes.capacity
        self._prompts = Prompts(own.tokenizer, own.model.config, own.ends)
        self._allocation = allocate(pool, self._caching, self._archive, own.ranks)
        self._check = SelfCheck(self._caching.check)
        pieces = CUT[own.model.device.type] if invariant else None
        least = self.slots + (pieces or 0)
        budget = wanted if token_budget and not pieces else max(wanted, least)
        self._scheduler = Scheduler(self.slots, budget, self._allocation, every=pieces)
        ahead = own.model.device.type == "cuda" if overlap is None else overlap
        ahead = ahead and speculation is None
        self._stepper = Stepper(self._runner, self._scheduler, ahead, invariant)
        self._most_drafts = speculation.most if speculation else 0
        self._weights = Watch(own.model)
        self._sequences: dict[int, Sequence] = {}
        self._watched: dict[int, deque[Delta]] = {}
        self._ids = itertools.count()

    @property
    def busy(self) -> bool:
        """Whether there is anything left to do."""
        return bool(self._sequences)

    @property
    def lost(self) -> str | None:
        """Why a rank is lost, if one is: then nothing can be computed any more."""
        return None if self._team is None else self._team.lost

    def when_lost(self, hears: Callable[[str], None]) -> None:
        """Have somebody told, in any thread, why a rank is lost, as soon as it is."""
        if self._team is not None:
            self._team.when_lost(hears)

    @property
    def load(self) -> Load:
        """How busy the engine is, and what it did since it was made."""
        return load_of(self._scheduler, self._stepper)

    def warm_up(self) -> float:
        """Compile kernels and capture graphs that requests would wait for; seconds that it took."""
        return warm_up(self._runner, self._scheduler.token_budget, self._stepper.fixed, self.busy)

    def generate(
        self,
        prompts: str | list[str] | list[list[int]] | list[str | list[int]] | list[CodePrompt],
        params: SamplingParams | list[SamplingParams] | None = None,
        *,
        suffix: str | list[str] | None = None,
    ) -> list[Completion]:
        """One completion for each prompt (text or token ids), in their order.

        `params` and `suffix` (the text after the gap, for fill-in-the-middle) are one for all or
        one for each. Raises UserError, before anything is computed, for a prompt that is empty
        of meaning or does not fit.
        """
        if isinstance(prompts, str):
            prompts = [prompts]
        every = one_each("params", params or SamplingParams(), len(prompts))
        each = zip(prompts, every, one_each("suffix", suffix, len(prompts)), strict=True)
        sequences = [self.prepare(prompt, own, suffix=after) for prompt, own, after in each]
        try:
            for sequence in sequences:
                self.enter(sequence)
            while any(sequence.finish_reason is None for sequence in sequences):
                self._step_for(sequences)
            while self._check.pending:
                self.step()
        finally:
            for sequence in sequences:
                self.abort(sequence.id)
        return [sequence.completion() for sequence in sequences]

    def stream(
        self,
        prompt: str | list[int] | CodePrompt,
        params: SamplingParams | None = None,
        *,
        suffix: str | None = None,
    ) -> Iterator[Delta]:
        """The completion of one prompt while it comes; closing the iterator aborts it."""
        return self._follow(self.prepare(prompt, params, suffix=suffix))

    def add(
        self,
        prompt: str | list[int] | CodePrompt,
        params: SamplingParams | None = None,
        *,
        suffix: str | None = None,
        priority: int = 0,
    ) -> int:
        """Queue a request for whoever calls `step`; returns the id that its deltas carry.

        `priority` above 0 goes before those that came a little earlier, below 0 after those that
        come a little later; see `Scheduler`.
        """
        sequence = self.prepare(prompt, params, suffix=suffix)
        sequence.priority = priority
        return self.enter(sequence)

    def prepare(
        self,
        prompt: str | list[int] | CodePrompt,
        params: SamplingParams | None = None,
        *,
        suffix: str | None = None,
    ) -> Sequence:
        """Read a request without queueing it; UserError if it cannot run here.

        Safe in any thread, so that long texts are encoded beside the running step.
        """
        params, number = params or SamplingParams(), next(self._ids)
        return sequence_of(self._prompts, self.capacity, number, prompt, params, suffix)

    def enter(self, sequence: Sequence) -> int:
        """Queue what `prepare` gave; returns the id that its deltas carry."""
        if self._weights.changed():
            self._changed()
        self._scheduler.add(sequence)
        self._sequences[sequence.id] = sequence
        return sequence.id

    def __contains__(self, request: int) -> bool:
        """Whether a request is here and not over."""
        return request in self._sequences

    def forget(self) -> None:
        """Throw cached prefixes away, as must be when weights changed.

        Changes in place are noticed when the next request enters; those that hide from autograd's
        version counters (`weight.data`) are not, and want this call.
        """
        if self._allocation.tree is not None:
            self._allocation.tree.clear()
        if self._archive is not None:
            self._archive.close()
        try:
            archive = archive_of(self.model, self._caching, self._runner.pool)
        except UserError as error:  # a disk that fails is no reason to stop serving
            log.warning("prefixes stay in memory: %s", error)
            archive = None
        self._archive = self._allocation.archive = archive

    def close(self) -> None:
        """Wait until what is to survive is on disk; end the other ranks."""
        if self._archive is not None:
            self._archive.close()
        if self._team is not None:
            self._team.close()

    def abort(self, request: int) -> Completion | None:
        """Take a request back and free its slot; what it drew so far, or None if it is over."""
        self._watched.pop(request, None)
        sequence = self._sequences.pop(request, None)
        if sequence is None:
            return None
        self._scheduler.remove(request)
        self._check.hides(request, over=True)
        if self._drafter is not None:
            self._drafter.forget(sequence)
        sequence.detokenizer.finish()
        sequence.finish_reason = "abort"
        return sequence.completion()

    def load_weights(self, folder: str | Path) -> int:
        """Go on with the weights of another checkpoint of this model's configuration.

        How many tensors. UserError, and nothing changed, for a folder that does not fit and while
        requests run: what they remember was made with the old weights.
        """
        if self.busy:
            raise UserError("weights are changed between requests: wait for those that run")
        replace = replace_weights if self._team is None else self._team.replace_weights
        count = replace(self.model, Path(folder))
        self._changed()
        return count

    def _changed(self) -> None:
        """Other weights than before: what was made with them is of no use."""
        self._weights.changed()  # what they are now is what is watched
        self._runner.check()
        self.forget()

    def step(self) -> list[Delta]:
        """Take every running request one step further; what is new, request by request.

        With `overlap`, that is what the step before this one drew. Whatever is raised is raised
        on when the requests that it spoilt are aborted: one that could not be let in or given
        memory, or, where the model raises, all that were computed. Others go on (`in`).
        """
        slices = self._schedule()
        if not slices and not self._stepper.waits:
            reads = self._archive is not None and self._archive.wait(PATIENCE)
            assert reads or not self._sequences, "requests are left and none of them can go on"
            return []
        told: list[Drawing] = []
        deltas: list[Delta] = []
        try:
            for drawing in self._stepper.step(slices):
                told += drawing
                deltas += [self._delta(one) for one in drawing]
            if self._team is not None:
                self._team.check()  # what was drawn since a rank was lost is not to be trusted
        except BaseException as error:
            lost = [] if self._stepper.waits else [s for s in self._sequences.values() if s.ahead]
            self._spoil(
                [*lost, *(p.sequence for p in (*slices, *(one.part for one in told)))], error
            )
            self._tell(deltas)
            raise
        return self._tell(deltas)

    def _tell(self, deltas: list[Delta]) -> list[Delta]:
        """Those that are anybody's news, which streams now have."""
        if self._check.pending:
            deltas = [d for d in deltas if not self._check.hides(d.id, d.completion is not None)]
        for delta in deltas:
            if delta.id in self._watched:
                self._watched[delta.id].append(delta)
        return deltas

    def _schedule(self) -> list[Slice]:
        """The slices of the next step; what that raises costs the request that it was about."""
        drawing = [] if self._drafter is None else self._scheduler.drawing()
        try:
            if self._drafter is not None:
                self._drafter.propose(drawing)
        except BaseException as error:
            self._spoil(drawing, error)
            raise
        try:
            return self._scheduler.schedule()
        except BaseException as error:
            at = self._scheduler.at
            hidden = at is not None and self._check.hides(at.id, over=False)
            self._spoil([at] if at is not None else [*self._sequences.values()], error)
            if not hidden or not isinstance(error, Exception):
                raise
            log.warning("the self-check of an answer was given up: %s", error)
            return self._schedule()

    def _spoil(self, sequences: list[Sequence], error: BaseException) -> None:
        """Take requests back that an error has spoilt."""
        for sequence in sequences:
            if sequence.id in self:
                sequence.failure = error
                self.abort(sequence.id)

    def _step_for(self, own: list[Sequence]) -> None:
        """A step for some requests; what it raises over others alone is raised where they are."""
        before = len(self._sequences)
        try:
            self.step()
        except Exception as error:
            if len(self._sequences) == before or any(one.failure is error for one in own):
                raise
            log.warning("requests of others were aborted: %s", error)
        for one in own:
            if one.failure is not None:
                raise one.failure

    def _delta(self, one: Drawing) -> Delta:
        """What is new in a sequence; it leaves if that was its last."""
        sequence = one.part.sequence
        sequence.drafts = []
        if one.part.drafts:
            learn(sequence, len(one.part.drafts), one.right, self._most_drafts)
        if not sequence.sound and sequence.finish_reason != "error":
            self._scheduler.confirm(sequence)
        if sequence.finish_reason is not None:
            sound = sequence.finish_reason != "error"
            sequence.sound = sequence.sound and sound
            self._scheduler.remove(sequence.id, finished=sound)
            counts = self._allocation.counts
            again = self._check.finished(sequence, counts, self._prompts, self._ids)
            if again is not None:
                self.enter(again)
            if self._drafter is not None:
                self._drafter.forget(sequence)
            del self._sequences[sequence.id]
        return one.delta()

    def _follow(self, sequence: Sequence) -> Iterator[Delta]:
        self.enter(sequence)
        news = self._watched[sequence.id] = deque()
        try:
            while sequence.finish_reason is None or news:
                if not news:
                    self._step_for([sequence])
                while news:
                    yield news.popleft()
            if sequence.failure is not None:  # in a step that somebody else took
                raise sequence.failure
        finally:
            self.abort(sequence.id)
