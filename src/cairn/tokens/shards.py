"""Shards: tokens in one flat file, and a table that says what each run of them is."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cairn.base import UserError
from cairn.base.files import sha256_of

TOKENS, DOCUMENTS, INDEX = "tokens.bin", "documents.parquet", "index.json"
VERSION = 2  # 1 had no kinds

DOCUMENT_SCHEMA = pa.schema(
    [
        ("document", pa.int64()),  # 0, 1, 2, ...
        ("offset", pa.int64()),  # of its first token in tokens.bin, in tokens
        ("length", pa.int64()),  # in tokens
        ("path_tokens", pa.int32()),  # of its path and a line end, for planning contexts
        ("ledger_row", pa.int64()),
        ("content_id", pa.string()),
        ("repo_name", pa.string()),
        ("path", pa.string()),
        ("language", pa.string()),
        ("license_type", pa.string()),
        ("detected_licenses", pa.list_(pa.string())),
        ("bytes", pa.int64()),  # of its text in UTF-8, without marks
        ("kind", pa.string()),  # of record, as in a corpus
    ]
)


def token_type(vocab_size: int) -> np.dtype:
    """Two bytes a token where they suffice, else four; little endian."""
    return np.dtype("<u2") if vocab_size <= 65_536 else np.dtype("<u4")


class TokenShards:
    """One split of a shards folder, memory-mapped.

    Document i is one file's code without marks, or a document of another kind with its own.
    """

    def __init__(
        self, folder: Path, index: dict[str, Any], tokens: np.ndarray, documents: pa.Table
    ) -> None:
        self.folder, self.index = folder, index
        self.tokens, self.documents = tokens, documents
        self.offsets: np.ndarray = documents["offset"].to_numpy()  # int64 [documents]
        self.lengths: np.ndarray = documents["length"].to_numpy()  # int64 [documents], in tokens

    @classmethod
    def open(cls, folder: str | Path, *, verify: bool = True) -> "TokenShards":
        """Map `folder` (a shards artifact's train/ or heldout/).

        `verify` also reads every byte and compares SHA-256 (about 1 GB/s); sizes and the table are
        always checked. UserError names the file that is missing, truncated or corrupt.
        """
        folder = Path(folder)
        index = _read_index(folder)
        dtype = np.dtype(index["dtype"])
        size = _size(folder / TOKENS)
        if size != index["tokens"] * dtype.itemsize:
            expected = index["tokens"] * dtype.itemsize
            raise _broken(folder / TOKENS, f"has {size} bytes instead of {expected}")
        _size(folder / DOCUMENTS)
        if verify:
            for name in (TOKENS, DOCUMENTS):
                if sha256_of(folder / name) != index["sha256"][name]:
                    raise _broken(folder / name, "differs from its SHA-256 in index.json")
        documents = _read_documents(folder / DOCUMENTS, index)
        # an empty file cannot be mapped
        tokens = np.memmap(folder / TOKENS, dtype, "r") if size else np.empty(0, dtype)
        return cls(folder, index, tokens, documents)

    def __len__(self) -> int:
        """Documents."""
        return self.documents.num_rows

    def document(self, index: int) -> np.ndarray:
        """Tokens of one document, uint16 or uint32 [length], a view of the mapped file."""
        start = self.offsets[index]
        return self.tokens[start : start + self.lengths[index]]

    @property
    def vocab_size(self) -> int:
        """Of the tokenizer that wrote the tokens."""
        return self.index["vocab_size"]


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    if not path.is_file():
        inside = [name for name in ("train", "heldout") if (folder / name / INDEX).is_file()]
        mend = f"name {folder / inside[0]}" if inside else "name a shards artifact's train/"
        raise UserError("shards", str(folder), f"has no {INDEX}", mend)
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(index, dict) and index.get("version") == 1:
            raise _broken(path, "was written by an earlier version of cairn")
        whole = (
            np.dtype(index["dtype"]) == token_type(index["vocab_size"])
            and index["version"] == VERSION
            and all(isinstance(index["sha256"][name], str) for name in (TOKENS, DOCUMENTS))
            and all(type(index[name]) is int for name in ("tokens", "documents"))
        )
    except UserError:
        raise
    except (ValueError, KeyError, TypeError):
        whole = False
        index = {}
    if not whole:
        raise _broken(path, "is no index of this version of cairn")
    return index


def _read_documents(path: Path, index: dict[str, Any]) -> pa.Table:
    try:
        documents = pq.read_table(path, schema=DOCUMENT_SCHEMA)
    except (pa.ArrowException, OSError) as error:
        raise _broken(path, f"cannot be read ({error})") from None
    if documents.num_rows != index["documents"]:
        found = documents.num_rows
        raise _broken(path, f"lists {found} documents instead of {index['documents']}")
    lengths = documents["length"].to_numpy()
    ends = np.cumsum(lengths)
    contiguous = np.array_equal(documents["offset"].to_numpy(), ends - lengths)
    if not contiguous or (ends[-1] if len(ends) else 0) != index["tokens"]:
        raise _broken(path, f"does not fit the {index['tokens']} tokens of {TOKENS}")
    return documents


def _size(path: Path) -> int:
    if not path.is_file():
        raise _broken(path, "is missing")
    return path.stat().st_size


def _broken(path: Path, problem: str) -> UserError:
    return UserError(f"{path} {problem}: delete {path.parent.parent} and make it again")
