"""Bits per byte of held-out files, beside what general compressors need for the same bytes."""

import gzip
import hashlib
import lzma
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cairn.evaluate.heldout import File
from cairn.evaluate.task import Result, Score, Setting, Task, ratio, refuse_empty

ALL = "all"
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip_9": lambda content: gzip.compress(content, compresslevel=9, mtime=0),
    "xz_9": lambda content: lzma.compress(content, preset=9),
}


@dataclass(frozen=True)
class BitsPerByte:
    """Bits that the model spends on all tokens of a file, divided by the file's bytes in UTF-8.

    Over several files: all bits over all bytes. For each language, and for all files:

    `bits_per_byte`           the model, each file by itself
    `gzip_9_per_file`, `xz_9_per_file`          each file compressed by itself, sizes added
    `gzip_9_concatenated`, `xz_9_concatenated`  the files one after another, compressed once

    The first kind of baseline knows as much as the model in its window. The second also sees
    the other held-out files, which the model does not, and is the stronger one. `all` is the sum
    over languages in either case. Containers count: gzip writes 18 bytes around a stream, xz 60
    or more.
    """

    name: str = "bits_per_byte"
    version: int = 1

    def run(self, setting: Setting) -> Result:
        """See `Task.run`."""
        files = setting.heldout.take(setting.limit)
        refuse_empty(self, files)
        speaker = setting.speaker
        documents = speaker.tokenizer.encode_batch([file.text for file in files])
        bits = speaker.bits(documents)
        records = [
            {
                "id": file.content_id,
                "repo_name": file.repo_name,
                "path": file.path,
                "language": file.language,
                "bytes": len(file.content),
                "tokens": len(document),
                "bits": round(spent, 3),
                **{f"{name}_bits": size for name, size in sizes.items()},
            }
            for file, document, spent, sizes in zip(
                files, documents, bits, map(compressed_bits, files), strict=True
            )
        ]
        conditions = {
            "version": self.version,
            "examples": len(files),
            "bytes": sum(len(file.content) for file in files),
            "prompt_digest": digest_of_files(files),
            "window_tokens": speaker.context,
            "compressors": "gzip -9 and xz -9 of Python's zlib and lzma, containers included",
        }
        return Result(
            scores=likelihood_scores(self, files, records), records=records, conditions=conditions
        )


def compressed_bits(file: File) -> dict[str, int]:
    """Bits of the file after each compressor, by itself."""
    return {name: 8 * len(squeeze(file.content)) for name, squeeze in COMPRESSORS.items()}


def concatenated_bits(files: Sequence[File]) -> dict[str, int]:
    """Bits of all files one after another (by repository and path), after each compressor."""
    ordered = sorted(files, key=lambda file: (file.repo_name, file.path, file.content_id))
    whole = b"".join(file.content for file in ordered)
    return {name: 8 * len(squeeze(whole)) for name, squeeze in COMPRESSORS.items()}


def likelihood_scores(
    task: Task, files: Sequence[File], records: Sequence[dict[str, Any]]
) -> list[Score]:
    """The scores of `BitsPerByte`: of all files first, then language by language."""
    languages = sorted({file.language for file in files})
    together = {
        language: concatenated_bits([file for file in files if file.language == language])
        for language in languages
    }
    scores: list[Score] = []

    def add(metric: str, value: float, error: float | None, n: int, up: bool = False) -> None:
        scores.append(
            Score(
                task=task.name,
                version=task.version,
                metric=metric,
                value=value,
                n=n,
                standard_error=error,
                higher_is_better=up,
            )
        )

    for group in [ALL, *languages] if len(languages) > 1 else [ALL]:
        chosen = [record for record in records if group in (ALL, record["language"])]
        sizes = [record["bytes"] for record in chosen]
        n, tail = len(chosen), "" if group == ALL else f"/{group}"
        add(f"bits_per_byte{tail}", *ratio([record["bits"] for record in chosen], sizes), n)
        for name in COMPRESSORS:
            spent = [record[f"{name}_bits"] for record in chosen]
            add(f"{name}_per_file{tail}", *ratio(spent, sizes), n)
        for name in COMPRESSORS:
            whole = sum(together[one][name] for one in languages if group in (ALL, one))
            add(f"{name}_concatenated{tail}", whole / sum(sizes), None, n)
    sizes, tokens = ([record[name] for record in records] for name in ("bytes", "tokens"))
    add("bytes_per_token", *ratio(sizes, tokens), len(records), up=True)
    return scores


def digest_of_files(files: Sequence[File]) -> str:
    """SHA-256 over the contents: equal digests were measured on the same bytes."""
    whole = hashlib.sha256()
    for file in files:
        whole.update(hashlib.sha256(file.content).digest())
    return whole.hexdigest()
