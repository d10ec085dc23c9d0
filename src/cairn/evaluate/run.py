"""evaluate(): a checkpoint and tasks to a report; and the same as an artifact."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cairn.base import UserError, Work, find_manifest, write_json
from cairn.base.artifact import lineage
from cairn.evaluate.exposure import corpus_texts, exposure
from cairn.evaluate.heldout import HeldOut
from cairn.evaluate.report import (
    assemble,
    checkpoint_digest,
    plain_result,
    write_records,
    write_report,
)
from cairn.evaluate.speaker import Speaker
from cairn.evaluate.task import Sampling, Setting
from cairn.evaluate.tasks import find_tasks

if TYPE_CHECKING:
    from cairn.evaluate import Evaluate

HELDOUT_TASKS = ("bits_per_byte", "infilling", "needle")  # how their names begin


def evaluate(
    checkpoint: str | Path,
    tasks: tuple[str, ...],
    *,
    data: str | Path | None = None,
    limit: int | None = None,
    shards: str | Path | None = None,
    sampling: Sampling | None = None,
    out: str | Path | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """Scores of a checkpoint folder, as report.json has them (see `report.assemble`).

    `data`: folder of public benchmarks. `shards`: where held-out files are; None looks for the
    shards in the checkpoint's own history. `out`: a folder for report and records. Raises
    UserError for an unknown task, a missing folder, or data that is not there.
    """
    folder = Path(checkpoint)
    chosen = find_tasks(tuple(tasks))
    if not (folder / "config.json").is_file():
        raise UserError("checkpoint", str(folder), "has no config.json", "name a checkpoint folder")
    if data is not None and not Path(data).is_dir():
        raise UserError("--data", str(data), "no such folder", "name the folder of benchmark files")
    held = None
    if any(task.name.startswith(HELDOUT_TASKS) for task in chosen):
        held = _held_out(folder, shards)
    setting = Setting(
        speaker=Speaker.load(folder, device),
        heldout=held,
        data=None if data is None else Path(data),
        limit=limit,
        sampling=sampling,
    )
    results = {task.name: task.run(setting) for task in chosen}
    report = assemble(
        {"name": folder.resolve().name, "digest": checkpoint_digest(folder)},
        {name: plain_result(result) for name, result in results.items()},
        setting.sampling,
        limit,
    )
    if out is not None:
        Path(out).mkdir(parents=True, exist_ok=True)
        for name, result in results.items():
            write_records(Path(out) / f"{name}.jsonl", result.records)
        write_report(Path(out), report)
    return report


def _held_out(checkpoint: Path, shards: str | Path | None) -> HeldOut | None:
    """Held-out files of the shards given, or of those that the checkpoint was made from."""
    if shards is not None:
        return HeldOut.open(Path(shards))
    if find_manifest(checkpoint) is None:
        return None
    for _, folder, _ in lineage(checkpoint.resolve()):
        if (folder / "heldout" / "index.json").is_file():
            return HeldOut.open(folder)
    return None


def make_report(recipe: "Evaluate", work: Work) -> dict[str, Any]:
    """Run `Evaluate`: one part for each task, then the report; returns the facts."""
    chosen = find_tasks(recipe.tasks)
    sampling = Sampling(
        samples=recipe.samples,
        temperature=recipe.temperature,
        top_p=recipe.top_p,
        seed=recipe.seed,
    )
    setting: Setting | None = None
    for task in chosen:
        if not work.has(f"tasks/{task.name}"):
            setting = setting or _setting(recipe, work, sampling)
            result = task.run(setting)
            plain = plain_result(result)
            if recipe.corpus is not None and result.references:
                texts = corpus_texts(work.input(recipe.corpus))
                plain["seen_in_corpus"] = exposure(result.references, texts)
            with work.part(f"tasks/{task.name}") as folder:
                folder.mkdir()
                write_records(folder / "records.jsonl", result.records)
                write_json(folder / "result.json", plain)
    results = {
        task.name: json.loads((work.out / "tasks" / task.name / "result.json").read_text("utf-8"))
        for task in chosen
    }
    checkpoint = {
        "name": recipe.checkpoint.name,
        "digest": work.manifest(recipe.checkpoint).digest,
    }
    report = assemble(checkpoint, results, sampling, recipe.limit)
    write_report(work.out, report)
    facts: dict[str, Any] = {
        f"{score['task']}/{score['metric']}": round(score["value"], 6) for score in report["scores"]
    }
    return {"scores": facts, "seen_in_corpus": report["seen_in_corpus"]}


def _setting(recipe: "Evaluate", work: Work, sampling: Sampling) -> Setting:
    return Setting(
        speaker=Speaker.load(work.input(recipe.checkpoint)),
        heldout=None if recipe.shards is None else HeldOut.open(work.input(recipe.shards)),
        data=None if recipe.data is None else Path(recipe.data),
        limit=recipe.limit,
        sampling=sampling,
    )
