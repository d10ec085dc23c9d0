"""A release folder: weights and tokenizer as they are, cards, credits, checksums."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from cairn.base import UserError, Work, write_text
from cairn.base.artifact import Manifest, lineage
from cairn.base.files import sha256_of
from cairn.release.cards import data_card, model_card
from cairn.release.verify import verify_with_transformers

if TYPE_CHECKING:
    from cairn.release import Release

CARRIED = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)
ORIGIN_COLUMNS = ["content_id", "repo_name", "path", "language", "license_type"]


def release(recipe: "Release", work: Work) -> dict[str, Any]:
    """Fill `work.out`; returns facts. UserError where the checkpoint lacks a file or fails."""
    checkpoint = work.input(recipe.checkpoint)
    weights = sorted(path.name for path in checkpoint.glob("model*.safetensors*"))
    for name in (*CARRIED, *(weights or ["model.safetensors"])):
        if not (checkpoint / name).is_file():
            raise UserError(f"{checkpoint} lacks {name}: it is no checkpoint that can be released")
        shutil.copyfile(checkpoint / name, work.out / name)
    documents = pq.read_table(work.input(recipe.shards) / "train" / "documents.parquet")
    _write_identifiers(documents, work.out)
    ancestry = _ancestry(checkpoint)
    _refuse_other_shards(ancestry, recipe.shards.name)
    scores = None
    if recipe.report is not None:
        _refuse_foreign_report(work.manifest(recipe.report), recipe.checkpoint.name)
        scores = json.loads((work.input(recipe.report) / "report.json").read_text())
    licences = licence_table(documents)
    config = json.loads((work.out / "config.json").read_text())
    verified, difference = verify_with_transformers(work.out, recipe.verify_tolerance)
    facts = {
        "parameters": work.manifest(recipe.checkpoint).facts.get("parameters"),
        "files": documents.num_rows,
        "bytes": sum(documents["bytes"].to_pylist()),
        "verified": verified,
        "largest_logit_difference": difference,
    }
    card = model_card(recipe.title, config, ancestry, scores, licences, facts)
    write_text(work.out / "README.md", card)
    write_text(work.out / "DATA.md", data_card(recipe.title, documents, licences, ancestry))
    _write_checksums(work.out)
    return facts


def licence_table(documents: pa.Table) -> list[dict[str, Any]]:
    """Files and bytes by licence as detected, most bytes first."""
    files: Counter[tuple[str, str]] = Counter()
    size: Counter[tuple[str, str]] = Counter()
    columns = ["detected_licenses", "license_type", "bytes"]
    for row in documents.select(columns).to_pylist():
        key = (" AND ".join(sorted(row["detected_licenses"])) or "none", row["license_type"])
        files[key] += 1
        size[key] += row["bytes"]
    order = sorted(files, key=lambda key: (-size[key], key))
    return [
        {
            "licence": licence,
            "type": kind,
            "files": files[licence, kind],
            "bytes": size[licence, kind],
        }
        for licence, kind in order
    ]


def _ancestry(checkpoint: Path) -> list[Manifest]:
    """Manifests from the checkpoint down to the corpus, nearest first."""
    return [manifest for _, _, manifest in lineage(checkpoint) if manifest is not None]


def _refuse_other_shards(ancestry: list[Manifest], shards: str) -> None:
    """Credit must name all that was learned from, and nothing else."""
    learned = sorted({made.name for made in ancestry if made.kind == "Tokenize"})
    if learned != [shards]:
        names = ", ".join(learned) or "none"
        raise UserError("shards", shards, f"is not what it learned from ({names})", "name that")


def _refuse_foreign_report(report: Manifest, checkpoint: str) -> None:
    if checkpoint not in report.parents:
        scored = ", ".join(report.parents)
        raise UserError(
            f"report: it scores {scored}, not {checkpoint}: evaluate {checkpoint} first"
        )


def _write_identifiers(documents: pa.Table, out: Path) -> None:
    """swhids.txt: one qualified identifier a line, sorted; origins.parquet: the same as a table."""
    rows = documents.select(ORIGIN_COLUMNS).to_pylist()
    lines = sorted({f"swh:1:cnt:{row['content_id']}" for row in rows})
    write_text(out / "swhids.txt", "\n".join(lines) + "\n")
    kept = [*ORIGIN_COLUMNS, "detected_licenses", "bytes"]
    pq.write_table(documents.select(kept), out / "origins.parquet", compression="zstd")


def _write_checksums(out: Path) -> None:
    names = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
    lines = [f"{sha256_of(out / name)}  {name}" for name in names if name != "SHA256SUMS"]
    write_text(out / "SHA256SUMS", "\n".join(lines) + "\n")
