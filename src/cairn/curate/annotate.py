"""The first stage: what can be said of a file by itself. RecordBatch in, RecordBatch out."""

import codecs
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from cairn.curate import languages, licences, near, rules
from cairn.curate.redact import redact
from cairn.sources.record import LINK, ORIGIN_FIELDS, SOURCE_SCHEMA

KIND = "source"

ANNOTATED = pa.schema(
    [field for field in SOURCE_SCHEMA if field.name not in {"raw", "mode", "src_encoding"}]
    + [
        ("src_encoding", pa.string()),
        ("language", pa.string()),
        ("extension", pa.string()),
        ("is_vendor", pa.bool_()),
        ("is_generated", pa.bool_()),
        ("kind", pa.string()),
        ("said_here", pa.list_(pa.string())),  # licences that the file's own text names
        ("carrier_of", pa.string()),  # the directory that a licence file speaks for; else null
        ("redactions", pa.string()),  # e.g. "email 2, key 1"
        ("bands", pa.list_(pa.int64())),  # near-duplicate bucket keys; null: too short
        ("content", pa.string()),  # redacted; null where dropped already
        ("verdict", pa.string()),
        ("rule", pa.string()),
        ("reason", pa.string()),
    ]
)


@dataclass(frozen=True)
class Rules:
    """What the first stage needs of the recipe."""

    max_bytes: int
    thresholds: rules.Thresholds
    redact: bool


def annotate(batch: pa.RecordBatch, wanted: Rules) -> pa.RecordBatch:
    """SOURCE_SCHEMA to ANNOTATED, row by row: every file that was seen keeps its row."""
    rows = [_annotate(row, wanted) for row in batch.to_pylist()]
    return pa.RecordBatch.from_pylist(rows, schema=ANNOTATED)


def _annotate(row: dict[str, Any], wanted: Rules) -> dict[str, Any]:
    path, raw = row["path"], row["raw"]
    kept = (*ORIGIN_FIELDS, "path", "content_id", "blob_id", "length_bytes")
    found: dict[str, Any] = {name: row[name] for name in kept}
    found |= {
        "extension": languages.extension_of(path),
        "is_vendor": languages.is_vendored(path),
        "is_generated": languages.is_generated(path),
        "kind": KIND,
        "said_here": [],
        "language": "",
    }
    if row["mode"] == LINK:
        return found | _dropped("link", "a symbolic link has no content of its own")
    if raw is None or len(raw) >= wanted.max_bytes:
        return found | _dropped("size", f"{row['length_bytes']:,} bytes")
    if b"\0" in raw:
        return found | _dropped("binary", "holds a NUL byte")
    text, encoding = decode(raw, row["src_encoding"])
    language = languages.language_of(path, text)
    found |= {"src_encoding": encoding, "language": language}
    found |= _licences(path, text)
    if not raw.strip():
        return found | _dropped("empty", "holds no text")
    if not language:
        return found | _dropped("language", f"no known language for .{found['extension']}")
    if found["is_generated"]:
        return found | _dropped("generated", "has a name that programs write")
    verdict = rules.judge(text, language, path, wanted.thresholds)
    if not verdict.keep:
        return found | _dropped(verdict.rule, verdict.reason)
    content, counts = redact(text) if wanted.redact else (text, {})
    shown = ", ".join(f"{kind} {count}" for kind, count in counts.items())
    return found | {
        "content": content,
        "redactions": shown,
        "bands": near.band_keys(text),
        "verdict": "keep",
    }


def _licences(path: str, text: str) -> dict[str, Any]:
    if licences.is_carrier(path):
        said = sorted(licences.detect(text))
        return {"said_here": said, "carrier_of": licences.base_of(path) if said else None}
    return {"said_here": sorted(licences.detect(text[: licences.HEADER]))}


def _dropped(rule: str, reason: str) -> dict[str, Any]:
    return {"verdict": "drop", "rule": rule, "reason": reason}


def decode(raw: bytes, said: str | None = None) -> tuple[str, str]:
    """(text, encoding): as the origin says, UTF-8, UTF-16 with its mark, Windows-1252, or Latin-1.

    The first that fits, so every file has a text. A byte-order mark is no part of it. Line ends
    stay as they are.
    """
    if said is not None:
        try:
            text = raw.decode(said)
            text.encode("utf-8")  # UTF-7 can spell halves of characters, which Parquet cannot
            return text, said
        except (LookupError, UnicodeError):  # no such encoding, or another one
            pass
    for mark, encoding in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if raw.startswith(mark):
            try:
                return raw.decode(encoding), encoding
            except UnicodeDecodeError:
                continue
    for encoding in ("utf-8", "cp1252"):
        try:
            return raw.decode(encoding), encoding
        except UnicodeDecodeError:
            continue
    return raw.decode("latin-1"), "latin-1"
