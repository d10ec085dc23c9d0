"""Corpus to shards: encode every file once, part by part, so that a killed run goes on."""

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cairn.base import UserError, Work, note, progress, write_json
from cairn.base.files import sha256_of
from cairn.tokens.layouts import encode_documents, kinds_of
from cairn.tokens.shards import (
    DOCUMENT_SCHEMA,
    DOCUMENTS,
    INDEX,
    TOKENS,
    VERSION,
    token_type,
)
from cairn.tokens.tokenizer import Tokenizer

SPLITS = ("train", "heldout")
PART_BYTES = 64_000_000  # of text; what a killed run loses at most
ROW_GROUP = 65_536  # documents
COLUMNS = [
    "ledger_row",
    "content_id",
    "repo_name",
    "path",
    "language",
    "license_type",
    "detected_licenses",
    "content",
    "kind",
]


def is_held_out(content_id: str, share: float) -> bool:
    """Whether a file is kept out of training: decided by its content alone, so copies agree."""
    digest = hashlib.sha256(b"held out\0" + content_id.encode("utf-8")).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def tokenize(
    work: Work, corpus: Path, tokenizer: Tokenizer, heldout: float, part_bytes: int = PART_BYTES
) -> dict[str, Any]:
    """Fill `work.out` with train/, heldout/ and the tokenizer; return the facts."""
    if not 0 <= heldout < 1:
        raise UserError("heldout", heldout, "is no share", "take a number from 0 to below 1")
    note(f"encoding with {tokenizer.backend}")
    parts = _write_parts(work, corpus, tokenizer, heldout, part_bytes)
    facts: dict[str, Any] = {"vocab_size": tokenizer.vocab_size}
    for split in SPLITS:
        with work.part(split) as folder:
            found = _join(parts, split, folder, tokenizer)
        prefix = "" if split == "train" else "heldout_"
        facts.update({prefix + key: value for key, value in found.items()})
    if not facts["documents"] or (heldout and not facts["heldout_documents"]):
        total = facts["documents"] + facts["heldout_documents"]
        problem = f"leaves one side empty: the corpus has {total} files"
        raise UserError("heldout", heldout, problem, "change the share or enlarge the corpus")
    tokenizer.save(work.out)
    return facts


def _write_parts(
    work: Work, corpus: Path, tokenizer: Tokenizer, heldout: float, part_bytes: int
) -> list[Path]:
    parts: list[Path] = []
    done = _rows_done(work)
    with progress("tokenizing", unit="files") as bar:
        for rows in _grouped(corpus, part_bytes):
            name = f"resume/part-{len(parts):05d}"
            parts.append(work.out / name)
            if len(parts) <= len(done):
                if done[len(parts) - 1] != rows.num_rows:
                    raise UserError(f"{parts[-1]} is of another corpus: delete {work.out}")
            else:
                with work.part(name) as folder:
                    _write_part(folder, rows, tokenizer, heldout)
            bar.advance(rows.num_rows)
    return parts


def _rows_done(work: Work) -> list[int]:
    """Rows of each part that an earlier, killed run finished."""
    done = []
    while work.has(name := f"resume/part-{len(done):05d}"):
        tables = [work.out / name / f"{split}.parquet" for split in SPLITS]
        done.append(sum(pq.read_metadata(table).num_rows for table in tables))
    return done


def _grouped(corpus: Path, part_bytes: int) -> Iterator[pa.Table]:
    """The corpus's rows in tables of at least `part_bytes` of text, the last one less."""
    from cairn.curate.corpus import read_files

    waiting: list[pa.RecordBatch] = []
    size = 0
    for batch in read_files(corpus, columns=COLUMNS):
        waiting.append(batch)
        size += batch.nbytes
        if size >= part_bytes:
            yield pa.Table.from_batches(waiting)
            waiting, size = [], 0
    if waiting:
        yield pa.Table.from_batches(waiting)


def _write_part(folder: Path, rows: pa.Table, tokenizer: Tokenizer, heldout: float) -> None:
    folder.mkdir()
    kinds = kinds_of(rows)
    paths = tokenizer.encode_arrays([f"{path}\n" for path in rows["path"].to_pylist()])
    encoded, sizes = encode_documents(kinds, rows["content"].to_pylist(), tokenizer)
    out = np.array([is_held_out(key, heldout) for key in rows["content_id"].to_pylist()], bool)
    count = rows.num_rows
    table = pa.table(
        {
            "document": np.zeros(count, np.int64),  # numbers and offsets are given when joined
            "offset": np.zeros(count, np.int64),
            "length": np.array([len(ids) for ids in encoded], np.int64),
            "path_tokens": np.array([len(ids) for ids in paths], np.int32),
            **{name: rows[name] for name in COLUMNS if name not in ("content", "kind")},
            "bytes": np.array(sizes, np.int64),
            "kind": pa.array(kinds, pa.string()),
        }
    ).cast(DOCUMENT_SCHEMA)
    dtype = token_type(tokenizer.vocab_size)
    for split, chosen in zip(SPLITS, (~out, out), strict=True):
        pq.write_table(table.filter(pa.array(chosen)), folder / f"{split}.parquet")
        with (folder / f"{split}.bin").open("wb") as file:
            for place in np.flatnonzero(chosen):
                file.write(encoded[place].astype(dtype).tobytes())


def _join(parts: list[Path], split: str, folder: Path, tokenizer: Tokenizer) -> dict[str, Any]:
    """All parts of a split as one tokens.bin and one documents.parquet."""
    folder.mkdir()
    with (folder / TOKENS).open("wb") as file:
        for part in parts:
            with (part / f"{split}.bin").open("rb") as source:
                shutil.copyfileobj(source, file, 1 << 20)
    tables = (pq.read_table(part / f"{split}.parquet", schema=DOCUMENT_SCHEMA) for part in parts)
    counts = write_documents(folder, tables)
    return write_index(folder, counts, tokenizer)


def write_documents(folder: Path, tables: Iterable[pa.Table]) -> dict[str, Any]:
    """documents.parquet of tables in DOCUMENT_SCHEMA: numbered, with offsets, in equal row groups.

    Returns documents, tokens, bytes, and documents by kind.
    """
    documents = tokens = size = 0
    kinds: Counter[str] = Counter()
    with pq.ParquetWriter(folder / DOCUMENTS, DOCUMENT_SCHEMA, compression="zstd") as writer:
        for table in _regrouped(tables):
            lengths = table["length"].to_numpy()
            ends = tokens + np.cumsum(lengths)
            numbers = np.arange(documents, documents + len(lengths), dtype=np.int64)
            table = table.set_column(0, "document", pa.array(numbers))
            table = table.set_column(1, "offset", pa.array(ends - lengths, pa.int64()))
            writer.write_table(table.combine_chunks(), row_group_size=ROW_GROUP)
            documents += len(lengths)
            kinds.update(table["kind"].to_pylist())
            tokens = int(ends[-1]) if len(ends) else tokens
            size += int(table["bytes"].to_numpy().sum())
    found = {"documents": documents, "tokens": tokens, "bytes": size}
    return {**found, "kinds": dict(sorted(kinds.items()))}


def _regrouped(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of ROW_GROUP rows, so that no parts show in the file."""
    held = DOCUMENT_SCHEMA.empty_table()
    for table in tables:
        held = pa.concat_tables([held, table])
        while held.num_rows >= ROW_GROUP:
            yield held.slice(0, ROW_GROUP)
            held = held.slice(ROW_GROUP)
    if held.num_rows:
        yield held


def write_index(folder: Path, counts: dict[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    """index.json of a split whose other files stand; returns its facts."""
    index = {
        "version": VERSION,
        "dtype": token_type(tokenizer.vocab_size).str,
        **counts,
        "vocab_size": tokenizer.vocab_size,
        "tokenizer_sha256": tokenizer.digest,
        "sha256": {name: sha256_of(folder / name) for name in (TOKENS, DOCUMENTS)},
    }
    write_json(folder / INDEX, index)
    tokens, size = counts["tokens"], counts["bytes"]
    return {**counts, "bytes_per_token": round(size / tokens, 4) if tokens else 0.0}
