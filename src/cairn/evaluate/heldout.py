"""Held-out files: what the model was not trained on, byte for byte."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cairn.sources.record import SOURCE
from cairn.tokens.shards import TokenShards
from cairn.tokens.tokenizer import Tokenizer


@dataclass(frozen=True)
class File:
    """One held-out file; `content` is all of its bytes."""

    content_id: str
    repo_name: str
    path: str
    language: str
    content: bytes

    @property
    def text(self) -> str:
        """The content as text; a document of the shards was text when it was written."""
        return self.content.decode("utf-8", errors="replace")


class HeldOut:
    """The files of a shards artifact's `heldout/`, in an order that no name decides.

    They are sorted by content id, which is a hash, so that the first k are a sample of all of them:
    `take(k)` gives the same files for every model and every tokenizer.
    """

    def __init__(self, files: Sequence[File]) -> None:
        self.files = sorted(files, key=lambda file: (file.content_id, file.repo_name, file.path))

    @classmethod
    def open(cls, shards: Path) -> "HeldOut":
        """From a shards folder. UserError where it is damaged or has no tokenizer."""
        tokenizer = Tokenizer.load(shards)
        held = TokenShards.open(shards / "heldout")
        columns = ("content_id", "repo_name", "path", "language", "kind")
        table = held.documents.select(list(columns)).to_pylist()
        files = [
            File(
                content_id=row["content_id"] or "",
                repo_name=row["repo_name"] or "",
                path=row["path"] or "",
                language=row["language"] or "unknown",
                content=tokenizer.decode_bytes(held.document(number).tolist()),
            )
            for number, row in enumerate(table)
            if row["kind"] == SOURCE
        ]
        return cls([file for file in files if file.content])

    def take(self, limit: int | None) -> list[File]:
        """The first `limit` files, or all."""
        return self.files[:limit]
