"""The one loop: pre-training, fine-tuning and distillation differ in objective and stream alone."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from cairn.base import UserError, note, progress
from cairn.model import Decoder
from cairn.tokens.batch import Batch
from cairn.train import TrainSettings, resume
from cairn.train.batches import micro_batches, total_steps
from cairn.train.objective import Objective, Tokens, told
from cairn.train.optimizer import make_optimizer
from cairn.train.precision import autocast, pick_precision, scaled
from cairn.train.recorder import Recorder
from cairn.train.schedule import learning_rate


class Stream(Protocol):
    """Samples by number: a pure function of the stream and the number."""

    def batch(self, samples: Sequence[int]) -> Batch:
        """The windows of these numbers, end to end."""
        ...


@dataclasses.dataclass
class Progress:
    """What a save holds beside tensors."""

    step: int = 0
    tokens: int = 0
    counted: float = 0.0
    last_loss: float = math.nan


def train(
    model: Decoder,
    objective: Objective,
    stream: Stream,
    settings: TrainSettings,
    out: Path,
    *,
    evaluate: Callable[[Decoder], dict[str, float]] | None = None,
    label: str = "train",
) -> dict[str, Any]:
    """Train `model` in place, from where `out/resume` left off; returns facts without timings.

    Writes out/metrics.jsonl and saves to out/resume. `evaluate` gives figures of the model; they
    are taken before the first step (name + `_before`) and after the last. UserError where the loss
    or the gradient stops being finite: the last save is kept.
    """
    out.mkdir(parents=True, exist_ok=True)
    optimizer = make_optimizer(model, settings)
    saved = resume.load(out / "resume", model, optimizer)
    if saved is None:
        at = Progress()
        before = {f"{k}_before": v for k, v in (evaluate(model) if evaluate else {}).items()}
    else:
        at = Progress(**saved["progress"])
        before = saved["before"]
    precision = pick_precision(settings.precision, model.device)
    recorder = Recorder(out, model.config, settings.sequence_length, model.device, precision)
    recorder.begin(at.step)
    steps = total_steps(settings)
    note(f"{label}: {steps - at.step} steps on {model.device} in {precision}")
    with (
        progress(label, total=steps, unit="steps") as bar,
        scaled(model, precision) as statistics,
    ):
        bar.advance(at.step)
        while at.step < steps:
            begin, before_step = time.monotonic(), at.tokens
            row = _step(model, objective, stream, settings, optimizer, precision, at)
            row |= statistics.take() if statistics else {}
            recorder.write(row, at.tokens - before_step, time.monotonic() - begin)
            bar.advance(1, detail=f"loss {row['loss']:.3f}")
            if at.step % settings.save_every == 0 and at.step < steps:
                _save(out, model, optimizer, at, before)
    recorder.close()
    _save(out, model, optimizer, at, before)  # evaluation may be long: do not train twice
    after = evaluate(model) if evaluate else {}
    facts = {"steps": at.step, "tokens": at.tokens, "loss": at.last_loss, "precision": precision}
    return facts | before | after


def _step(
    model: Decoder,
    objective: Objective,
    stream: Stream,
    settings: TrainSettings,
    optimizer: torch.optim.Optimizer,
    precision: str,
    at: Progress,
) -> dict[str, Any]:
    """One optimizer step; advances `at`. Returns the metrics of the step."""
    step = at.step + 1
    total, count, tokens = 0.0, 0.0, 0
    facts: dict[str, float] = {}
    for samples in micro_batches(settings, step):
        batch = stream.batch(samples)
        given = Tokens.of(batch, model.device)
        with autocast(precision, model.device):
            loss = objective(model, given)
        if loss.total.requires_grad:
            loss.total.backward()
        total, count = total + loss.total.item(), count + loss.count
        tokens += len(batch.tokens)
        for key, value in loss.facts.items():
            facts[key] = facts.get(key, 0.0) + value
    divisor = max(count, 1e-12)  # a step in which nothing counts has no gradient
    norm = _scale_gradients(model, 1.0 / divisor, settings.clip)
    mean = total / divisor
    if not (math.isfinite(mean) and math.isfinite(norm)):
        raise UserError(
            f"step {step}: loss {mean:g}, gradient norm {norm:g}: training diverged; the last "
            f"save is kept; take a lower lr than {settings.lr:g} or a longer warmup"
        )
    rate = learning_rate(settings, step)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    at.step, at.tokens, at.counted = step, at.tokens + tokens, at.counted + count
    at.last_loss = mean
    row = {"step": step, "loss": mean, "lr": rate, "grad_norm": norm, "tokens": at.tokens}
    return row | told({key: value / divisor for key, value in facts.items()})


def _scale_gradients(model: Decoder, scale: float, clip: float) -> float:
    """Scale all gradients, then clip their norm; returns the norm before clipping."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    if not gradients:
        return 0.0
    norm = torch.nn.utils.get_total_norm(gradients).item() * scale
    if clip and norm > clip:
        scale *= clip / norm
    for gradient in gradients:
        gradient.mul_(scale)
    return norm


def _save(
    out: Path,
    model: Decoder,
    optimizer: torch.optim.Optimizer,
    at: Progress,
    before: dict[str, float],
) -> None:
    resume.save(
        out / "resume",
        model,
        optimizer,
        {
            "step": at.step,
            "progress": dataclasses.asdict(at),
            "before": before,
        },
    )
