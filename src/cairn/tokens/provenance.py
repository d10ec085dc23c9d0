"""From what a model saw or said, back to files: repository, path, SWHID and licence."""

from pathlib import Path
from typing import Any

import numpy as np

from cairn.base import UserError, find_manifest, read_manifest
from cairn.base.artifact import lineage
from cairn.tokens.attribution import Attribution
from cairn.tokens.batch import Batch
from cairn.tokens.shards import TokenShards

INDEX_KIND = "IndexAttribution"


def files_in_batch(batch: Batch, shards: TokenShards) -> list[dict[str, Any]]:
    """The files that a batch was made from, in order of appearance, each once.

    Keys: repo_name, path, swhid, license_type, detected_licenses, tokens (of the batch, that came
    from the file), ledger_row.
    """
    tokens: dict[int, int] = {}
    for row, start, stop in batch.rows:
        tokens[row] = tokens.get(row, 0) + stop - start
    known = shards.documents["ledger_row"].to_numpy()
    order = np.argsort(known, kind="stable")
    wanted = np.fromiter(tokens, np.int64, len(tokens))
    places = np.searchsorted(known, wanted, sorter=order)
    numbers = order[np.minimum(places, len(order) - 1)]
    if (known[numbers] != wanted).any():
        raise UserError(f"the batch is not of {shards.folder}: it names other ledger rows")
    columns = ["repo_name", "path", "content_id", "license_type", "detected_licenses", "ledger_row"]
    files = shards.documents.select(columns).take(numbers).to_pylist()
    return [
        {
            "repo_name": file["repo_name"],
            "path": file["path"],
            "swhid": swhid_of(file["content_id"]),
            "license_type": file["license_type"],
            "detected_licenses": file["detected_licenses"] or [],
            "tokens": tokens[file["ledger_row"]],
            "ledger_row": file["ledger_row"],
        }
        for file in files
    ]


def swhid_of(content_id: str) -> str:
    """The Software Heritage identifier of a content, from its SHA-1 (git) in hex."""
    return content_id if content_id.startswith("swh:") else f"swh:1:cnt:{content_id}"


def origins_of_text(
    folder: str | Path, text: str, *, minimum: int = 24, top: int = 5
) -> list[dict[str, Any]]:
    """Where runs of the text stand in the data that an artifact was trained on.

    `folder` is an attribution index, or any artifact whose shards have one in the same run.
    UserError where there is none.
    """
    index = Attribution.open(find_index(Path(folder)))
    return [match.plain() for match in index.matches(text, minimum=minimum, top=top)]


def find_index(folder: Path) -> Path:
    """The attribution index over an artifact's training data: itself, or beside it."""
    folder = folder.resolve()
    if read_manifest(folder).kind == INDEX_KIND:
        return folder
    ancestors = {(path.name, made.digest) for _, path, made in lineage(folder) if made}
    for beside in sorted(folder.parent.iterdir()):
        manifest = find_manifest(beside) if beside.is_dir() else None
        if manifest is None or manifest.kind != INDEX_KIND:
            continue
        if any((p["name"], p["digest"]) in ancestors for p in manifest.parents.values()):
            return beside
    raise UserError(
        f"{folder} has no attribution index beside it: "
        "add IndexAttribution(shards=...) to the plan and make it"
    )
