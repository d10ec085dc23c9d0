"""The third stage: what is costly and only worth doing for files that stay.

Decontamination, malware and redaction (StarCoder2, section 3). RecordBatch in, RecordBatch out.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from cairn.curate.malware import Scanner
from cairn.curate.pieces import from_content, plain_text, to_content
from cairn.curate.redact import EMAIL, KEY, redact
from cairn.sources.record import ANSWERS, DOCUMENTATION

# What the report says of its own sets (its Table 3): neither is done to documentation, and no
# malware is looked for in answers. Plain text sets are looked through: nobody knows what they hold.
NOT_SCANNED = frozenset({DOCUMENTATION, ANSWERS})
NOT_DECONTAMINATED = frozenset({DOCUMENTATION})
# Of documentation, the report redacts no more than these; of the other kinds here, all.
REDACTED = {DOCUMENTATION: frozenset({"name", KEY, EMAIL})}

FINISHED = pa.schema(
    [
        ("content", pa.string()),
        ("redactions", pa.string()),  # e.g. "email 2, key 1"
        ("rule", pa.string()),
        ("reason", pa.string()),
    ]
)


@dataclass(frozen=True)
class Finishing:
    """What the third stage needs of the recipe.

    model: the folder of the classifier that redact="model" asks besides the rules.
    benchmarks: the folder of test sets whose items no training file may hold.
    """

    redact: str
    model: str | None
    benchmarks: str | None
    malware: bool


def finish(batch: pa.RecordBatch, wanted: Finishing) -> pa.RecordBatch:
    """Rows with `content`, `kind`, `src_encoding` of files that stay, to FINISHED, row by row."""
    rows = batch.to_pylist()
    infected = _scan(rows) if wanted.malware else {}
    found = [_finish(row, infected.get(place), wanted) for place, row in enumerate(rows)]
    return pa.RecordBatch.from_pylist(found, schema=FINISHED)


def _scan(rows: list[dict[str, Any]]) -> dict[int, str]:
    """Places of rows that ClamAV knows, with the names of what it found."""
    scanner = Scanner.find()
    if scanner is None:  # it was there when the run began
        raise OSError("ClamAV has gone: start it again, and then this run")
    places = [place for place, row in enumerate(rows) if row["kind"] not in NOT_SCANNED]
    found = scanner.scan([_bytes(rows[place]) for place in places])
    return {place: name for place, name in zip(places, found, strict=True) if name is not None}


def _bytes(row: dict[str, Any]) -> bytes:
    """The file's bytes again, for signatures that look for other encodings."""
    content = plain_text(row["kind"], row["content"])
    try:
        return content.encode(row["src_encoding"] or "utf-8")
    except (LookupError, UnicodeError):
        return content.encode("utf-8")


def _finish(row: dict[str, Any], signature: str | None, wanted: Finishing) -> dict[str, Any]:
    if signature is not None:
        return {"rule": "malware", "reason": signature}
    kind, content = row["kind"], row["content"]
    if wanted.benchmarks is not None and kind not in NOT_DECONTAMINATED:
        item = contamination(wanted.benchmarks).find(plain_text(kind, content))
        if item is not None:
            return {"rule": "contaminated", "reason": item}
    if wanted.redact == "off":
        return {"content": content, "redactions": ""}
    counts: dict[str, int] = {}
    pieces = []
    for mark, text in from_content(kind, content):
        clean, found = _redact(text, REDACTED.get(kind), wanted)
        pieces.append((mark, clean))
        for name, count in found.items():
            counts[name] = counts.get(name, 0) + count
    shown = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    return {"content": to_content(kind, pieces), "redactions": shown}


def _redact(
    text: str, kinds: frozenset[str] | None, wanted: Finishing
) -> tuple[str, dict[str, int]]:
    if wanted.redact != "model":
        return redact(text, kinds)
    from cairn.curate.recognition import recogniser, redact_with

    return redact_with(text, recogniser(wanted.model or ""), kinds)


@lru_cache(maxsize=1)
def contamination(benchmarks: str) -> Any:
    """The search for a folder's benchmarks, built once a process."""
    from cairn.curate.decontamination import Contamination

    return Contamination.build(Path(benchmarks).expanduser())
