"""The first stage: what can be said of a file by itself. RecordBatch in, RecordBatch out."""

import codecs
import posixpath
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from cairn.curate import languages, licences, near, rules
from cairn.curate.encodings import guess
from cairn.curate.pieces import Document, plain_text, to_content
from cairn.curate.rendering import Rendering, documents, is_rendered
from cairn.sources.record import ANSWERS, LINK, ORIGIN_FIELDS, SOURCE_SCHEMA, TEXT

NOT_DEDUPLICATED = frozenset({ANSWERS, TEXT})  # near duplicates of them stay (Table 3)
# Python's encodings in which nobody writes files; the first takes quadratic time.
NO_TEXTS = frozenset({"punycode", "idna", "unicode-escape", "raw-unicode-escape", "undefined"})
KEPT_COLUMNS = (*ORIGIN_FIELDS, "path", "content_id", "blob_id", "length_bytes", "kind")

ANNOTATED = pa.schema(
    [
        field
        for field in SOURCE_SCHEMA
        if field.name not in {"raw", "mode", "src_encoding", "problem", "detected_licenses"}
    ]
    + [
        ("src_encoding", pa.string()),
        ("language", pa.string()),
        ("extension", pa.string()),
        ("is_vendor", pa.bool_()),
        ("is_generated", pa.bool_()),
        ("said_here", pa.list_(pa.string())),  # licences that the file's own text names
        ("carrier_of", pa.string()),  # the directory that a licence file speaks for; else null
        ("link_to", pa.string()),  # where a link with a licence file's name leads, in this tree
        ("bands", pa.list_(pa.int64())),  # near-duplicate bucket keys; null: too short
        ("signature", pa.binary(near.PERMUTATIONS)),  # compact, to verify near duplicates
        ("content", pa.string()),  # null where dropped already
        ("verdict", pa.string()),
        ("rule", pa.string()),
        ("reason", pa.string()),
        ("quality_rule", pa.string()),  # what drops the file after the search for duplicates
        ("quality_reason", pa.string()),
    ]
)


@dataclass(frozen=True)
class Annotation:
    """What the first stage needs of the recipe."""

    max_bytes: int
    thresholds: rules.Thresholds
    rendering: Rendering
    licence_tool: str = "templates"
    near: bool = True
    quality: bool = True


def annotate(batch: pa.RecordBatch, wanted: Annotation) -> pa.RecordBatch:
    """SOURCE_SCHEMA to ANNOTATED: every file that was seen keeps its row.

    A notebook becomes two rows, one for each form in which it is told.
    """
    rows = [found for row in batch.to_pylist() for found in _annotate(row, wanted)]
    return pa.RecordBatch.from_pylist(rows, schema=ANNOTATED)


def _annotate(row: dict[str, Any], wanted: Annotation) -> list[dict[str, Any]]:
    path, raw = row["path"], row["raw"]
    told = licences.told(row["detected_licenses"])
    found: dict[str, Any] = {name: row[name] for name in KEPT_COLUMNS}
    found |= {
        "extension": languages.extension_of(path),
        "is_vendor": languages.is_vendored(path),
        "is_generated": False,
        "said_here": sorted(told),
        "language": "",
    }
    if row["problem"] is not None:
        return [found | _dropped("unreadable", row["problem"])]
    if row["mode"] == LINK:
        target = _link_target(path, raw) if licences.is_carrier(path) else None
        dropped = _dropped("link", "a symbolic link has no content of its own")
        return [found | dropped | {"link_to": target}]
    if raw is None or len(raw) >= wanted.max_bytes:
        return [found | _dropped("size", f"{row['length_bytes']:,} bytes")]
    if is_rendered(row["kind"], path):
        made = documents(row["kind"], path, raw, wanted.rendering)
        return [found | _rendered(document, wanted) for document in made]
    if b"\0" in raw:
        return [found | _dropped("binary", "holds a NUL byte")]
    text, encoding = decode(raw, row["src_encoding"])
    found |= {"src_encoding": encoding} | _source(path, text, wanted)
    found["said_here"] = sorted({*found["said_here"], *told})
    return [found]


def _source(path: str, text: str, wanted: Annotation) -> dict[str, Any]:
    """A file of source code or prose, as it lies in its repository."""
    language = languages.language_of(path, text)
    is_generated = languages.is_generated(path, text)
    found: dict[str, Any] = {"language": language, "is_generated": is_generated}
    found |= _licences(path, text, wanted.licence_tool)
    if not text.strip():
        return found | _dropped("empty", "holds no text")
    if not language:
        extension = languages.extension_of(path)
        shown = f".{extension}" if extension else "a name without an extension"
        return found | _dropped("language", f"no known language for {shown}")
    verdict = rules.KEEP
    if wanted.quality and is_generated:
        verdict = rules.Verdict(False, "generated", "looks written by a program, by linguist")
    elif wanted.quality:
        verdict = rules.judge(text, language, path, wanted.thresholds)
    return found | {
        "content": text,
        **_near(text, wanted.near),
        "verdict": "keep",
        "quality_rule": verdict.rule or None,
        "quality_reason": verdict.reason or None,
    }


def _rendered(document: Document, wanted: Annotation) -> dict[str, Any]:
    """A thread, a notebook, a page: its own rules have judged it already."""
    found: dict[str, Any] = {
        "kind": document.kind,
        "language": document.language,
        "src_encoding": "utf-8",
    }
    if not document.verdict.keep:
        return found | _dropped(document.verdict.rule, document.verdict.reason)
    content = to_content(document.kind, document.pieces)
    text = plain_text(document.kind, content)
    return found | {
        "content": content,
        **_near(text, wanted.near and document.kind not in NOT_DEDUPLICATED),
        "verdict": "keep",
    }


def _near(text: str, wanted: bool) -> dict[str, Any]:
    sketch = near.sketch(text) if wanted else None
    return {} if sketch is None else {"bands": sketch.keys, "signature": sketch.compact()}


def _licences(path: str, text: str, tool: str) -> dict[str, Any]:
    if tool == "off":
        return {"said_here": []}
    if not licences.is_carrier(path):
        return {"said_here": sorted(licences.header(text))}
    if tool == "scancode":
        from cairn.curate.licences.scancode import scancode_detect

        said = sorted(scancode_detect(text))
    else:
        said = sorted(licences.detect(text))
    return {"said_here": said, "carrier_of": licences.base_of(path) if said else None}


def _link_target(path: str, raw: bytes | None) -> str | None:
    """The path in the tree that a link leads to; None where it leaves the tree."""
    if not raw or raw.startswith(b"/"):
        return None
    target = posixpath.join(posixpath.dirname(path), raw.decode("utf-8", "replace"))
    inside = posixpath.normpath(target)
    return None if inside.startswith("..") else inside


def _dropped(rule: str, reason: str) -> dict[str, Any]:
    return {"verdict": "drop", "rule": rule, "reason": reason}


def decode(raw: bytes, said: str | None = None) -> tuple[str, str]:
    """(text, encoding): as the origin says, UTF-8, UTF-16 with its mark, what `guess` tells by the
    letters, Windows-1252, or Latin-1.

    The first that fits, so every file has a text. A byte-order mark is no part of it. Line ends
    stay as they are.
    """
    if said is not None:
        try:
            if codecs.lookup(said).name not in NO_TEXTS:
                text = raw.decode(said)
                text.encode("utf-8")  # UTF-7 can spell halves of characters, which Parquet cannot
                return text, said
        except (LookupError, ValueError):  # no such encoding, or another one
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
    for encoding in ("utf-8", None, "cp1252"):
        try:
            name = encoding or guess(raw)
            if name is not None:
                return raw.decode(name), name
        except UnicodeDecodeError:
            continue
    return raw.decode("latin-1"), "latin-1"
