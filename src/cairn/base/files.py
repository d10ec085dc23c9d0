"""Files that are either whole or absent: written beside, synced, renamed."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from cairn.base.errors import UserError


def write_bytes(path: Path, value: bytes, mode: int = 0o666) -> None:
    """Write atomically: a reader, or a crash, sees the old file or the new one, never a part.

    `mode` is who may do what with the file, less what the process's mask takes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(value)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: Path, value: str) -> None:
    """Write UTF-8 text atomically; line ends stay as they are."""
    write_bytes(path, value.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, with sorted keys, so that equal values give equal bytes."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
    write_text(path, text + "\n")


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object that others wrote; UserError in one line where a file holds none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}): write it anew") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no JSON object: write it anew")
    return found


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pattern_of(path: Path | str) -> str:
    """The path as a pattern that only itself matches, for DuckDB, which takes paths for patterns.

    A backslash cannot be told in a pattern: beside a wildcard any character stands for it.
    """
    text = str(path)
    if not any(mark in text for mark in "*?["):
        return text
    told = {"\\": "?", **{mark: f"[{mark}]" for mark in "*?["}}
    return "".join(told.get(one, one) for one in text)
