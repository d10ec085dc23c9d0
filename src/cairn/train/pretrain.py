"""Pre-training: shards in, checkpoint out."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cairn.base import UserError, Work
from cairn.model import ModelConfig, build
from cairn.tokens.contexts import Formats
from cairn.tokens.sentinels import END_OF_TEXT
from cairn.tokens.shards import TokenShards
from cairn.tokens.stream import PretrainingStream
from cairn.tokens.tokenizer import Tokenizer
from cairn.train.checkpoint import write_checkpoint
from cairn.train.heldout import evaluator
from cairn.train.loop import train
from cairn.train.objective import NextToken
from cairn.train.precision import pick_device

if TYPE_CHECKING:
    from cairn.train import Pretrain, TrainSettings


def pretrain(recipe: "Pretrain", work: Work) -> dict[str, Any]:
    """Fill `work.out`; returns facts."""
    folder = work.input(recipe.shards)
    tokenizer = Tokenizer.load(folder)
    settings = recipe.settings
    config = shape_of(recipe, work, tokenizer)
    model = build(config, settings.seed, pick_device(settings.device))
    stream = open_stream(folder, tokenizer, settings, recipe.formats)
    evaluate = evaluator(folder, recipe.heldout_files)
    name = work.out.name
    facts = train(model, NextToken(), stream, settings, work.out, evaluate=evaluate, label=name)
    write_checkpoint(model, tokenizer, work.out)
    return {"parameters": config.parameters} | facts


def open_stream(
    shards: Path, tokenizer: Tokenizer, settings: "TrainSettings", formats: Formats
) -> PretrainingStream:
    """The stream of a shards artifact's training part, as the settings cut it."""
    training = TokenShards.open(shards / "train")
    return PretrainingStream(training, tokenizer, settings.sequence_length, settings.seed, formats)


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
