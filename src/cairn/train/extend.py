"""The long-context phase: a checkpoint goes on at a longer sequence."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cairn.base import UserError, Work
from cairn.model import ModelConfig
from cairn.model.checkpoint import stored_config
from cairn.tokens.tokenizer import Tokenizer
from cairn.train.checkpoint import write_checkpoint
from cairn.train.data import blend_of, folders_of, open_blend, told
from cairn.train.heldout import evaluator
from cairn.train.loop import train
from cairn.train.objective import NextToken
from cairn.train.parallel.ranks import join
from cairn.train.parallel.shard import loaded

if TYPE_CHECKING:
    from cairn.train import Extend


def extend(recipe: "Extend", work: Work) -> dict[str, Any]:
    """Fill `work.out`; returns facts."""
    blend = blend_of(recipe.shards, recipe.blend, recipe.formats)
    folders, start = folders_of(blend, work), work.input(recipe.start)
    tokenizer = Tokenizer.load(start)
    settings = recipe.settings
    stream = open_blend(blend, folders, tokenizer, settings)
    config = extended(stored_config(start), recipe.served, recipe.rope_theta)
    ranks = join(settings.parallel, settings.device)
    model = loaded(start, ranks, config)
    evaluate = evaluator(folders, recipe.heldout_files)
    name = work.out.name
    facts = train(
        model, NextToken(), stream, settings, work.out, ranks=ranks, evaluate=evaluate, label=name
    )
    write_checkpoint(model, tokenizer, work.out, ranks)
    own = {"parameters": config.parameters, "served": recipe.served}
    return own | facts | {"data": told(stream)}


def extended(config: ModelConfig, served: int, rope_theta: float | None) -> ModelConfig:
    """The configuration for a longer context. UserError for rotary positions that are not there."""
    if rope_theta is not None and config.rope_theta is None:
        raise UserError("rope_theta", rope_theta, "turns nothing", "the model has no positions")
    theta = rope_theta if rope_theta is not None else config.rope_theta
    return replace(config, max_positions=served, rope_theta=theta)
