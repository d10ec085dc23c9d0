"""The report: scores with their conditions, as JSON for machines and a table for people."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cairn.base import find_manifest, write_json, write_text
from cairn.base.config import digest_of
from cairn.base.files import sha256_of
from cairn.evaluate.task import Result, Sampling

VERSION = 1


def checkpoint_digest(folder: Path) -> str:
    """The manifest's digest; of a folder without one, a digest over configuration and weights."""
    manifest = find_manifest(folder)
    if manifest is not None:
        return manifest.digest
    names = [path.name for path in sorted(folder.glob("*.safetensors"))]
    names += [name for name in ("config.json", "tokenizer.json") if (folder / name).is_file()]
    return digest_of({name: sha256_of(folder / name) for name in names})


def plain_result(result: Result) -> dict[str, Any]:
    """Scores and conditions of one task as JSON values."""
    return {
        "scores": [asdict(score) for score in result.scores],
        "conditions": json.loads(json.dumps(result.conditions)),
    }


def assemble(
    checkpoint: dict[str, Any],
    results: dict[str, dict[str, Any]],
    sampling: Sampling,
    limit: int | None,
) -> dict[str, Any]:
    """report.json: the scores of all tasks in one list, and the conditions of each task."""
    return {
        "version": VERSION,
        "checkpoint": checkpoint,
        "scores": [score for result in results.values() for score in result["scores"]],
        "tasks": {name: result["conditions"] for name, result in results.items()},
        "sampling": asdict(sampling),
        "limit": limit,
        "seen_in_corpus": {
            name: result["seen_in_corpus"]
            for name, result in results.items()
            if "seen_in_corpus" in result
        },
    }


def write_records(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """One JSON object for each example, a line each."""
    lines = [json.dumps(record, ensure_ascii=False, sort_keys=True) for record in records]
    write_text(path, "".join(line + "\n" for line in lines))


def write_report(folder: Path, report: dict[str, Any]) -> None:
    """report.json and report.md."""
    write_text(folder / "report.md", as_markdown(report))
    write_json(folder / "report.json", report)


def as_markdown(report: dict[str, Any]) -> str:
    """The report as a page."""
    made = report["checkpoint"]
    lines = [f"# Evaluation of {made['name']}", "", f"Checkpoint digest `{made['digest']}`.", ""]
    lines += [
        "| task | metric | value | n | standard error | better |",
        "|---|---|---:|---:|---:|---|",
    ]
    for score in report["scores"]:
        error = score["standard_error"]
        shown = "" if error is None else f"{error:.4f}"
        better = "higher" if score["higher_is_better"] else "lower"
        lines.append(
            f"| {score['task']} v{score['version']} | {score['metric']} | {score['value']:.4f} "
            f"| {score['n']} | {shown} | {better} |"
        )
    lines += ["", "## Conditions", ""]
    if report["limit"] is not None:
        lines += [f"At most {report['limit']} examples of each task.", ""]
    for name, conditions in report["tasks"].items():
        kept = {key: value for key, value in conditions.items() if key != "stop"}
        lines.append(f"- `{name}`: " + ", ".join(f"{k} {_brief(v)}" for k, v in kept.items()))
    for name, found in report["seen_in_corpus"].items():
        ids = ", ".join(found["found"]) or "none"
        lines.append(
            f"- `{name}`: of {found['checked']} reference answers these stand in the training "
            f"corpus, white space aside: {ids}"
        )
    return "\n".join(lines) + "\n"


def _brief(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{key} {_brief(item)}" for key, item in value.items()) + ")"
    text = str(value)
    is_digest = len(text) == 64 and set(text) <= set("0123456789abcdef")
    return f"`{text[:12]}`" if is_digest else text
