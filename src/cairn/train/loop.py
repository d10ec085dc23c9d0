"""The one loop: pre-training, fine-tuning and distillation differ in objective and stream alone."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from cairn.base import UserError, note, progress
from cairn.base.errors import Stopped
from cairn.model import Decoder
from cairn.tokens.batch import Batch
from cairn.train import TrainSettings
from cairn.train.batches import micro_batches, total_steps
from cairn.train.faults import Progress, Watchdog, leaving
from cairn.train.objective import Objective, told
from cairn.train.optimizer import make_optimizer
from cairn.train.parallel.gradients import Gradients
from cairn.train.parallel.ranks import Ranks
from cairn.train.precision import autocast, pick_precision, scaled
from cairn.train.recorder import Recorder
from cairn.train.resume import Saves
from cairn.train.schedule import learning_rate


class Stream(Protocol):
    """Samples by number: a pure function of the stream and the number."""

    def batch(self, samples: Sequence[int]) -> Batch:
        """The windows of these numbers, end to end."""
        ...


def train(
    model: Decoder,
    objective: Objective,
    stream: Stream,
    settings: TrainSettings,
    out: Path,
    *,
    ranks: Ranks | None = None,
    evaluate: Callable[[Decoder], dict[str, float]] | None = None,
    label: str = "train",
) -> dict[str, Any]:
    """Train `model` in place, from where `out/resume` left off; returns facts without timings.

    With `ranks`, `model` is this rank's share (`parallel.shard`), and all ranks come here alike.
    Writes out/metrics.jsonl and saves to out/resume. `evaluate` gives figures of the model; they
    are taken before the first step (name + `_before`) and after the last. UserError where the loss
    or the gradient stays a fault (`settings.skips`, `settings.rewinds`): the last save is kept.
    Stopped after a SIGTERM, once the run is saved.
    """
    ranks = ranks or Ranks(model.device)
    out.mkdir(parents=True, exist_ok=True)
    optimizer = make_optimizer(model, settings)
    precision = pick_precision(settings.precision, model.device)
    model.recompute(settings.recompute)
    if settings.compile:
        model.compile_parts()
    with Saves(out / "resume", model, optimizer, ranks) as saves:
        saved = saves.load()
        if saved is None:
            at = Progress()
            before = {f"{k}_before": v for k, v in (evaluate(model) if evaluate else {}).items()}
        else:
            at, before = Progress(**saved["progress"]), saved["before"]
        gradients = Gradients.of(model, ranks)
        run = _Run(
            model, objective, stream, settings, precision, ranks, optimizer, gradients, saves,
            at, before,
        )  # fmt: skip
        _steps(run, _recorder(run, out), label)
    after = evaluate(model) if evaluate else {}
    facts = {"steps": at.step, "tokens": at.tokens, "loss": at.last_loss, "precision": precision}
    facts |= {"skipped": at.skipped, "rewinds": at.rewinds}
    return facts | before | after


@dataclasses.dataclass(frozen=True)
class _Run:
    """All that a step needs."""

    model: Decoder
    objective: Objective
    stream: Stream
    settings: TrainSettings
    precision: str
    ranks: Ranks
    optimizer: torch.optim.Optimizer
    gradients: Gradients
    saves: Saves
    at: Progress
    before: dict[str, float]


def _recorder(run: _Run, out: Path) -> Recorder | None:
    """Of the lead rank: metrics are of all ranks together."""
    if not run.ranks.lead:
        return None
    config, length = run.model.config, run.settings.sequence_length
    recorder = Recorder(out, config, length, run.model.device, run.precision, run.ranks.world)
    recorder.begin(run.at.step)
    return recorder


def _steps(run: _Run, recorder: Recorder | None, label: str) -> None:
    """All steps that are left, and the last save: evaluation may be long, do not train twice."""
    at, settings, ranks = run.at, run.settings, run.ranks
    steps = total_steps(settings)
    watchdog = Watchdog(settings.watchdog)
    if ranks.lead:
        there = f"{run.model.device} in {run.precision}"
        on = there if ranks.world == 1 else f"{ranks.world} ranks, {there}"
        note(f"{label}: {steps - at.step} steps on {on}")
    with (
        leaving() as leave,
        progress(label, total=steps, unit="steps", shown=ranks.lead) as bar,
        scaled(run.model, run.precision, ranks.tensor) as statistics,
        watchdog,
    ):
        bar.advance(at.step)
        while at.step < steps:
            watchdog.step()
            begin, before_step = time.monotonic(), at.tokens
            row = _step(run)
            row |= statistics.take(ranks.everywhere) if statistics else {}
            if recorder:
                recorder.write(row, at.tokens - before_step, time.monotonic() - begin)
            bar.advance(1, detail=f"loss {row['loss']:.3f}")
            if ranks.any(leave.asked):
                _save(run)
                run.saves.wait()
                raise Stopped(
                    f"{label}: asked to end, saved at step {at.step}; the same command goes on"
                )
            if at.step % settings.save_every == 0 and at.step < steps and not at.in_a_row:
                _save(run)
        if recorder:
            recorder.close()
        _save(run)
        run.saves.wait()


def _step(run: _Run) -> dict[str, Any]:
    """One optimizer step; advances `run.at`. Returns the metrics of the step."""
    at, settings, ranks = run.at, run.settings, run.ranks
    step = at.step + 1
    total, count, tokens = 0.0, 0.0, 0
    facts: dict[str, float] = {}
    for samples in micro_batches(settings, step, ranks.reader, ranks.readers):
        given = ranks.tokens(run.stream.batch(samples))
        with autocast(run.precision, run.model.device):
            loss = run.objective(run.model, given)
        if loss.total.requires_grad:
            loss.total.backward()
        total, count = total + loss.total.item(), count + loss.count
        tokens += len(given.tokens)
        for key, value in loss.facts.items():
            facts[key] = facts.get(key, 0.0) + value
    total, count, tokens, *sums = ranks.total([total, count, tokens, *facts.values()])
    divisor = max(count, 1e-12)  # a step in which nothing counts has no gradient
    norm = run.gradients.scale(1.0 / divisor, settings.clip)
    mean = total / divisor
    at.step, at.tokens, at.counted = step, at.tokens + int(tokens), at.counted + count
    at.last_loss = mean
    rate = learning_rate(settings, step)
    row = {"step": step, "loss": mean, "lr": rate, "grad_norm": norm, "tokens": at.tokens}
    row |= told({key: value / divisor for key, value in zip(facts, sums, strict=True)})
    problem = at.fault(settings, mean, norm)
    if problem:
        row |= _pass_over(run, problem)
    else:
        for group in run.optimizer.param_groups:
            group["lr"] = rate
        run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    return row


def _pass_over(run: _Run, problem: str) -> dict[str, Any]:
    """Leave the weights as they are, or after too many such steps as the last save has them.

    Neither the data nor the schedule goes back: what led astray is not met again (as in PaLM,
    arXiv 2204.02311, section 5.1). Returns what the metrics tell of it.
    """
    at, settings, lead = run.at, run.settings, run.ranks.lead
    if at.in_a_row <= settings.skips:
        if lead:
            note(f"step {at.step}: {problem}: passed over")
        return {"fault": problem}
    saved = None
    if at.rewinds < settings.rewinds:
        _settle(run)
        saved = run.saves.load()
    if saved is None:
        raise UserError(
            f"step {at.step}: {problem}: training diverged; the last "
            f"save is kept; take a lower lr than {settings.lr:g} or a longer warmup"
        )
    at.rewinds, at.in_a_row = at.rewinds + 1, 0
    if lead:
        note(f"step {at.step}: {problem}: weights go back to step {saved['step']}")
    return {"fault": problem, "rewound_to": saved["step"]}


def _save(run: _Run) -> None:
    """Begin to save, once the save before is done or has failed."""
    _settle(run)
    state = {"step": run.at.step, "progress": dataclasses.asdict(run.at), "before": run.before}
    run.saves.save(state)


def _settle(run: _Run) -> None:
    """A disk that is full now may not be later, and the save before is there."""
    try:
        run.saves.wait()
    except OSError as problem:
        if run.ranks.lead:
            note(f"{problem}: going on; the save before it is kept")
