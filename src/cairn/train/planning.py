"""What a plan's training takes, before anything of it is made: tokens, steps, FLOPs. No torch."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cairn.base import Recipe, Ref
from cairn.base.config import refs_in
from cairn.model import counts
from cairn.model.config import ModelConfig
from cairn.train import Extend, TrainSettings
from cairn.train.batches import samples_of, stages, total_samples, total_steps

Plan = Mapping[str, Recipe]

KEEPING = ("Extend", "FineTune")  # recipes that leave a checkpoint's shape as it is


def shape(plan: Plan, name: str) -> ModelConfig | None:
    """The model that an artifact of the plan will be; None where only making it tells."""
    recipe = plan[name]
    model = getattr(recipe, "model", None)
    if isinstance(model, ModelConfig):
        return model if model.vocab_size else replace(model, vocab_size=vocabulary(plan, name))
    before = getattr(recipe, "like", None)
    if type(recipe).__name__ in KEEPING:
        before = getattr(recipe, "start", None)
    found = shape(plan, before.name) if isinstance(before, Ref) else None
    if found is not None and isinstance(recipe, Extend):
        theta = recipe.rope_theta or found.rope_theta
        return replace(found, max_positions=recipe.served, rope_theta=theta)
    return found


def vocabulary(plan: Plan, name: str) -> int:
    """The size that the tokenizer behind an artifact is to have."""
    sizes = [getattr(plan[name], "vocab_size", 0)]
    for ref in refs_in(plan[name]):
        sizes.append(vocabulary(plan, ref.name))
    return max(sizes)


def trainings(plan: Plan, names: list[str] | None = None) -> dict[str, dict[str, Any]]:
    """What each training among the artifacts takes; those whose shape is not known are left out.

    flops: 3 x forward of every token (`counts.training_flops`). flops_6nd: 6 x parameters x tokens.
    """
    found = {}
    for name in names or list(plan):
        settings = getattr(plan[name], "settings", None)
        model = shape(plan, name) if isinstance(settings, TrainSettings) else None
        if model is None or not isinstance(settings, TrainSettings):
            continue
        tokens = total_samples(settings) * settings.sequence_length
        steps = total_steps(settings)
        found[name] = {
            "parameters": model.parameters,
            "tokens": tokens,
            "steps": steps,
            "sequence_length": settings.sequence_length,
            "sequences_per_step": len(samples_of(settings, steps)),
            "tokens_per_step": len(samples_of(settings, steps)) * settings.sequence_length,
            "ramp_steps": stages(settings)[-1].step,
            "flops": tokens * counts.training_flops(model, settings.sequence_length),
            "flops_6nd": 6 * model.parameters * tokens,
        }
    return found
