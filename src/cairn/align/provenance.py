"""Which files the conversations of a fine-tuning step came from."""

from pathlib import Path
from typing import Any

from cairn.align.finetuning import PAIRS, read_pairs, stream_of
from cairn.base import UserError, read_manifest
from cairn.base.config import from_plain
from cairn.tokens import Tokenizer, TokenShards
from cairn.tokens.provenance import files_in_batch
from cairn.train import TrainSettings
from cairn.train.batches import micro_batches
from cairn.train.provenance import check_step


def files_of_step(folder: Path, step: int) -> list[dict[str, Any]]:
    """The files in the batches of a step of a `FineTune` checkpoint, as `files_in_batch` tells.

    UserError for a step that was not trained, or an artifact of another kind.
    """
    manifest = read_manifest(folder)
    if manifest.kind != "FineTune":
        raise UserError(f"{folder} is made by {manifest.kind}: give a checkpoint of FineTune")
    check_step(folder, step)
    settings = from_plain(TrainSettings, manifest.recipe["settings"])
    stream = stream_of(
        read_pairs(folder / PAIRS / "train.parquet"),
        Tokenizer.load(folder),
        settings.sequence_length,
        settings.seed,
    )
    shards = TokenShards.open(folder.parent / manifest.recipe["shards"]["ref"] / "train")
    found: list[dict[str, Any]] = []
    for number, samples in enumerate(micro_batches(settings, step)):
        batch = stream.batch(samples)
        found += [{"micro_batch": number, **file} for file in files_in_batch(batch, shards)]
    return found
