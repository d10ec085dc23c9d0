"""Build the attribution index: a suffix array over the bytes of all training documents.

The text is cut into blocks of whole documents; each has its own suffix array, so that memory is
bounded and a killed run goes on. Between documents stands a byte that UTF-8 never uses, so no
match can run from one file into the next. Of documents with marks the text alone is indexed, piece
below piece.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cairn.base import UserError, Work, progress, write_json
from cairn.tokens.layouts import plain_bytes
from cairn.tokens.shards import TokenShards
from cairn.tokens.tokenizer import Tokenizer

BORDER = 0xFF  # in no UTF-8 text
TEXT, SUFFIXES, FILES, BLOCKS = "text.bin", "suffixes.bin", "files.parquet", "index.json"
COLUMNS = (
    "document",
    "ledger_row",
    "content_id",
    "repo_name",
    "path",
    "language",
    "license_type",
    "detected_licenses",
)
LARGEST_BLOCK = 2**31 - 1  # positions are int32


def index_shards(work: Work, shards_folder: Path, block_bytes: int) -> dict[str, Any]:
    """Fill `work.out` with block-00000/, ... and index.json; return the facts."""
    if not 0 < block_bytes <= LARGEST_BLOCK:
        mend = f"take at most {LARGEST_BLOCK}"
        raise UserError("block_bytes", block_bytes, "is no size for a block", mend)
    shards = TokenShards.open(shards_folder / "train", verify=False)  # make verified it just now
    tokenizer = Tokenizer.load(shards_folder)
    sizes = shards.documents["bytes"].to_numpy()
    if len(sizes) and int(sizes.max()) >= LARGEST_BLOCK:
        raise UserError(f"{shards_folder}: a document is larger than 2 GiB: leave it out")
    blocks = list(_blocks(sizes + 1, block_bytes))
    with progress("indexing", total=int(sizes.sum()), unit="bytes") as bar:
        for number, (start, stop) in enumerate(blocks):
            name = f"block-{number:05d}"
            if not work.has(name):
                with work.part(name) as folder:
                    _write_block(folder, shards, tokenizer, start, stop)
            bar.advance(int(sizes[start:stop].sum()))
    facts = {
        "blocks": len(blocks),
        "documents": len(shards),
        "bytes": int(sizes.sum()),
    }
    write_json(work.out / BLOCKS, {"version": 1, **facts})
    return facts


def _blocks(sizes: np.ndarray, block_bytes: int) -> Iterator[tuple[int, int]]:
    """Ranges of documents that fill a block; a document larger than a block has its own."""
    ends = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        before = int(ends[start - 1]) if start else 0
        stop = int(np.searchsorted(ends, before + block_bytes, side="right"))
        stop = max(stop, start + 1)
        yield start, stop
        start = stop


def _write_block(
    folder: Path, shards: TokenShards, tokenizer: Tokenizer, start: int, stop: int
) -> None:
    from pydivsufsort import divsufsort

    folder.mkdir()
    sizes = shards.documents["bytes"].to_numpy()[start:stop]
    kinds = shards.documents["kind"][start:stop].to_pylist()
    ends = np.cumsum(sizes + 1)
    text = np.full(int(ends[-1]), BORDER, np.uint8)
    for place, document in enumerate(range(start, stop)):
        raw = plain_bytes(kinds[place], shards.document(document), tokenizer)
        if len(raw) != sizes[place]:
            raise UserError(f"{shards.folder}: document {document} is not of this tokenizer")
        text[ends[place] - 1 - len(raw) : ends[place] - 1] = np.frombuffer(raw, np.uint8)
    suffixes = divsufsort(text)
    suffixes.astype("<i4", copy=False).tofile(folder / SUFFIXES)
    text.tofile(folder / TEXT)
    table = shards.documents.slice(start, stop - start).select(list(COLUMNS))
    begins = pa.array(ends - 1 - sizes, pa.int64())
    pq.write_table(table.append_column("start", begins), folder / FILES)
