"""Pre-training: shards in, checkpoint out."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cairn.base import UserError, Work
from cairn.model import ModelConfig
from cairn.tokens.sentinels import END_OF_TEXT
from cairn.tokens.tokenizer import Tokenizer
from cairn.train.checkpoint import write_checkpoint
from cairn.train.data import blend_of, folders_of, open_blend, told
from cairn.train.heldout import evaluator
from cairn.train.loop import train
from cairn.train.objective import NextToken
from cairn.train.parallel.ranks import join
from cairn.train.parallel.shard import fresh

if TYPE_CHECKING:
    from cairn.train import Pretrain


def pretrain(recipe: "Pretrain", work: Work) -> dict[str, Any]:
    """Fill `work.out`; returns facts."""
    blend = blend_of(recipe.shards, recipe.blend, recipe.formats)
    folders = folders_of(blend, work)
    tokenizer = Tokenizer.load(next(iter(folders.values())))
    settings = recipe.settings
    config = shape_of(recipe, work, tokenizer)
    stream = open_blend(blend, folders, tokenizer, settings)
    ranks = join(settings.parallel, settings.device)
    model = fresh(config, settings.seed, ranks)
    evaluate = evaluator(folders, recipe.heldout_files)
    name = work.out.name
    facts = train(
        model, NextToken(), stream, settings, work.out, ranks=ranks, evaluate=evaluate, label=name
    )
    write_checkpoint(model, tokenizer, work.out, ranks)
    return {"parameters": config.parameters} | facts | {"data": told(stream)}


def shape_of(recipe: "Pretrain", work: Work, tokenizer: Tokenizer) -> ModelConfig:
    """The configuration, with the tokenizer's vocabulary and sentinels."""
    if recipe.like is not None:
        config = ModelConfig.from_folder(work.input(recipe.like))
    else:
        assert recipe.model is not None
        config = recipe.model
    if config.vocab_size not in (0, tokenizer.vocab_size):
        raise UserError(
            "model.vocab_size",
            config.vocab_size,
            f"is not the tokenizer's {tokenizer.vocab_size}",
            "set it to 0 to take the tokenizer's",
        )
    end = tokenizer.id(END_OF_TEXT)
    return replace(
        config,
        vocab_size=tokenizer.vocab_size,
        bos_token_id=end,
        eos_token_ids=(end,),
        pad_token_id=end,
    )
