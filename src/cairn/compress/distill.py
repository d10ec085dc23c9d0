"""Distillation: the one loop with a teacher in the objective (Nano 2, section 4.3)."""

from typing import TYPE_CHECKING, Any

import torch

from cairn.base import UserError, Work
from cairn.model import Decoder, load
from cairn.ops import linear_cross_entropy, linear_kl
from cairn.tokens.tokenizer import Tokenizer
from cairn.train.checkpoint import write_checkpoint
from cairn.train.data import blend_of, open_blend
from cairn.train.heldout import evaluator
from cairn.train.loop import train
from cairn.train.objective import Loss, Tokens
from cairn.train.parallel.ranks import join
from cairn.train.parallel.shard import loaded

if TYPE_CHECKING:
    from cairn.compress import Distill


class Distillation:
    """KL(teacher || student) of the next token's distribution, in slices of the vocabulary's rows.

    The teacher is asked without gradients and never changes.
    """

    def __init__(self, teacher: Decoder, temperature: float = 1.0, cross_entropy: float = 0.0):
        self.teacher = teacher.eval().requires_grad_(False)
        self.temperature, self.cross_entropy = temperature, cross_entropy

    def __call__(self, model: Decoder, batch: Tokens) -> Loss:
        """Sum over T of weight * (KL + cross_entropy * -log p(target)), in nats."""
        with torch.no_grad():
            asked = self.teacher.hidden(batch.tokens, batch.spans)
        hidden = model.hidden(batch.tokens, batch.spans)
        weight, teacher_weight = model.lm_head.weight, self.teacher.lm_head.weight
        kl = linear_kl(hidden, weight, asked, teacher_weight, batch.weights, self.temperature)
        total, facts = kl, {"kl": kl.item()}
        if self.cross_entropy:
            own = linear_cross_entropy(hidden, weight, batch.targets, batch.weights)
            total, facts["cross_entropy"] = kl + self.cross_entropy * own, own.item()
        return Loss(total, batch.count, facts)


def distill(recipe: "Distill", work: Work) -> dict[str, Any]:
    """Fill `work.out`; returns facts."""
    settings = recipe.settings
    ranks = join(settings.parallel, settings.device)
    if ranks.tensors > 1:
        problem = "would cut the student's vocabulary, which is compared with the teacher's"
        mend = "take shard and context"
        raise UserError("parallel.tensor", ranks.tensors, problem, mend)
    student = loaded(work.input(recipe.start), ranks)
    teacher = load(work.input(recipe.teacher), device=ranks.device)
    if student.config.vocab_size != teacher.config.vocab_size:
        mend = "distil between models of one tokenizer"
        sizes = f"{teacher.config.vocab_size} tokens, the student {student.config.vocab_size}"
        raise UserError("teacher", recipe.teacher.name, f"has {sizes}", mend)
    shards = work.input(recipe.shards)
    tokenizer = Tokenizer.load(shards)
    folders = {recipe.shards.name: shards}
    blend = blend_of(recipe.shards, None, recipe.formats)
    stream = open_blend(blend, folders, tokenizer, settings)
    evaluate = evaluator(folders, recipe.heldout_files)
    objective = Distillation(teacher, recipe.temperature, recipe.cross_entropy)
    name = work.out.name
    facts = train(
        student, objective, stream, settings, work.out, ranks=ranks, evaluate=evaluate, label=name
    )
    write_checkpoint(student, tokenizer, work.out, ranks)
    return {
        "parameters": student.config.parameters,
        "bits_per_byte_of_teacher": evaluate(teacher)["bits_per_byte"],
        **facts,
    }
