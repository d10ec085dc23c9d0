"""Which files a training step saw: its samples follow from the recipe."""

from pathlib import Path
from typing import Any, TypeVar

from cairn.base import Metrics, UserError, read_manifest
from cairn.base.artifact import lineage
from cairn.tokens.contexts import Formats
from cairn.tokens.provenance import files_in_batch
from cairn.tokens.tokenizer import Tokenizer
from cairn.train import TrainSettings
from cairn.train.batches import micro_batches
from cairn.train.pretrain import open_stream

Fields = TypeVar("Fields", TrainSettings, Formats)

STREAMED = ("Pretrain", "Distill")  # recipes that read shards through a PretrainingStream


def files_of_step(folder: Path, step: int) -> list[dict[str, Any]]:
    """The files in the batches of a step of a checkpoint, with tokens, SWHIDs and licences.

    UserError for a step that was not trained, or an artifact that read no shards.
    """
    manifest = read_manifest(folder)
    if manifest.kind not in STREAMED:
        raise UserError(
            f"{folder} is made by {manifest.kind}, which reads no shards step by step: "
            f"give a checkpoint of {' or '.join(STREAMED)}"
        )
    lineage(folder)  # refuses where the shards were made anew since
    rows = {row["step"]: row for row in Metrics(folder / "metrics.jsonl").read() if "step" in row}
    if step not in rows:
        mend = f"give one from 1 to {max(rows, default=0)}"
        raise UserError("step", step, f"was not trained in {folder}", mend)
    shards = folder.resolve().parent / manifest.recipe["shards"]["ref"]
    settings = rebuilt(TrainSettings, manifest.recipe["settings"])
    formats = rebuilt(Formats, manifest.recipe["formats"])
    stream = open_stream(shards, Tokenizer.load(shards), settings, formats)
    found: list[dict[str, Any]] = []
    for number, samples in enumerate(micro_batches(settings, step)):
        batch = stream.batch(samples)
        found += [{"micro_batch": number, **file} for file in files_in_batch(batch, stream.shards)]
    return found


def rebuilt(kind: type[Fields], plain: dict[str, Any]) -> Fields:
    """A group of fields from its form in a manifest."""
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in plain.items()
        if key != "kind"
    }
    return kind(**values)
