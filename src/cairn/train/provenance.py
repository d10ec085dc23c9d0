"""Which files a training step saw: its samples follow from the recipe."""

from pathlib import Path
from typing import Any

from cairn.base import Metrics, Ref, UserError, read_manifest
from cairn.base.artifact import Manifest, lineage
from cairn.base.config import from_plain
from cairn.tokens.batch import Batch
from cairn.tokens.blend import Blend
from cairn.tokens.contexts import Formats
from cairn.tokens.mixing import BlendStream
from cairn.tokens.provenance import files_in_batch
from cairn.tokens.tokenizer import Tokenizer
from cairn.train import TrainSettings
from cairn.train.batches import micro_batches
from cairn.train.data import blend_of, open_blend

STREAMED = ("Pretrain", "Extend", "Distill")  # recipes that read shards through a stream


def files_of_step(folder: Path, step: int) -> list[dict[str, Any]]:
    """The files in the batches of a step of a checkpoint, with tokens, SWHIDs and licences.

    Where several shards were blended, `shards` names each file's. UserError for a step that was
    not trained, or an artifact that read no shards.
    """
    manifest = read_manifest(folder)
    if manifest.kind not in STREAMED:
        raise UserError(
            f"{folder} is made by {manifest.kind}, which reads no shards step by step: "
            f"give a checkpoint of {', '.join(STREAMED)}"
        )
    lineage(folder)  # refuses where the shards were made anew since
    check_step(folder, step)
    settings = from_plain(TrainSettings, manifest.recipe["settings"])
    stream = stream_of(folder, manifest, settings)
    found: list[dict[str, Any]] = []
    for number, samples in enumerate(micro_batches(settings, step)):
        batch = stream.batch(samples)
        for component, part in enumerate(stream.parts):
            files = files_in_batch(_of(batch, component), part.shards)
            origin = {"shards": stream.names[component]} if len(stream.parts) > 1 else {}
            found += [{"micro_batch": number, **origin, **file} for file in files]
    return found


def check_step(folder: Path, step: int) -> None:
    """UserError where the metrics of a checkpoint do not have the step."""
    rows = {row["step"] for row in Metrics(folder / "metrics.jsonl").read() if "step" in row}
    if step not in rows:
        mend = f"give one from 1 to {max(rows, default=0)}"
        raise UserError("step", step, f"was not trained in {folder}", mend)


def stream_of(folder: Path, manifest: Manifest, settings: TrainSettings) -> BlendStream:
    """The stream that a checkpoint was trained on."""
    recipe, runs = manifest.recipe, folder.resolve().parent
    blend = blend_of(
        from_plain(Ref | None, recipe.get("shards")),
        from_plain(Blend | None, recipe.get("blend")),
        from_plain(Formats, recipe["formats"]),
    )
    folders = {one.shards.name: runs / one.shards.name for one in blend.components}
    tokenizer = Tokenizer.load(next(iter(folders.values())))
    return open_blend(blend, folders, tokenizer, settings)


def _of(batch: Batch, component: int) -> Batch:
    """The batch with the rows of one component alone."""
    size = len(batch.tokens) // len(batch.sources)
    rows = [row for row in batch.rows if batch.sources[row[1] // size] == component]
    return Batch(batch.tokens, batch.targets, batch.weights, batch.bounds, rows)
