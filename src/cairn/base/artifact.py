"""Artifacts: folders that explain themselves by a manifest, written last."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

from cairn.base.config import Ref, digest_of
from cairn.base.errors import UserError
from cairn.base.files import sha256_of, write_json

MANIFEST = "manifest.json"
# Hold timings, or vanish at the end.
VOLATILE = frozenset({MANIFEST, "metrics.jsonl", "resume", "tensorboard", "training.html"})


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What was made, from what, and how to tell whether it is still whole.

    `recipe_digest` covers the recipe and the parents' digests; `digest` covers the bytes made.
    """

    name: str
    kind: str
    recipe: dict[str, Any]
    recipe_digest: str
    parents: dict[str, dict[str, str]]
    files: dict[str, dict[str, Any]]
    digest: str
    facts: dict[str, Any]
    inputs: dict[str, str] = field(default_factory=dict)
    headline: str = ""
    seconds: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)
    code_revision: str | None = None

    def plain(self) -> dict[str, Any]:
        """The JSON form."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to make one artifact: a frozen dataclass whose `run` fills a folder."""

    joint: ClassVar[bool] = False
    """Whether all processes of a crew (`make.Crew`) call `run` together; else the first alone."""

    def run(self, work: "Work") -> dict[str, Any]:
        """Make the files in `work.out`; return facts (small, JSON, the same on every run)."""
        raise NotImplementedError

    def inputs(self) -> dict[str, str]:
        """SHA-256 by name of small files outside the plan that settle what is made.

        A list of requests, say: the recipe holds only its path. UserError where one is missing.
        """
        return {}

    def headline(self, facts: dict[str, Any]) -> str:
        """The key figure shown in the table of `cairn make`."""
        return ""


class Work:
    """What a recipe sees of the world: its own folder, and the folders of its parents."""

    def __init__(self, out: Path, parents: dict[str, tuple[Path, Manifest]]) -> None:
        self.out = out
        self._parents = parents

    def input(self, ref: Ref) -> Path:
        """The folder of an artifact that the recipe refers to."""
        return self._parents[ref.name][0]

    def manifest(self, ref: Ref) -> Manifest:
        """The manifest of an artifact that the recipe refers to."""
        return self._parents[ref.name][1]

    def has(self, name: str) -> bool:
        """Whether the part `name` was finished, now or before an interruption."""
        return (self.out / name).exists()

    @contextmanager
    def part(self, name: str) -> Iterator[Path]:
        """A temporary path (make a file or a folder there) that becomes `out/name` at the end."""
        final = self.out / name
        beside = final.with_name(f".{final.name}.part")
        beside.parent.mkdir(parents=True, exist_ok=True)
        remove(beside)
        yield beside
        _flush(beside)
        remove(final)
        beside.replace(final)


def _flush(path: Path) -> None:
    """Bytes to the disk before the name: a power cut leaves no part that only looks whole."""
    for one in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if one.is_file():
            with one.open("rb") as file:
                os.fsync(file.fileno())


def remove(path: Path) -> None:
    """Remove a file or a whole folder; nothing there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def hash_files(folder: Path) -> dict[str, dict[str, Any]]:
    """SHA-256 and size of every lasting file, by path relative to the folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in inside.parts)
        if path.is_dir() or hidden or inside.parts[0] in VOLATILE or path.suffix == ".log":
            continue
        found[inside.as_posix()] = {"sha256": sha256_of(path), "bytes": path.stat().st_size}
    return found


def content_digest(recipe_digest: str, files: dict[str, dict[str, Any]]) -> str:
    """One digest over the recipe's digest and the digests of all files."""
    return digest_of([recipe_digest, {name: entry["sha256"] for name, entry in files.items()}])


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write manifest.json atomically: from here on the artifact is made."""
    write_json(folder / MANIFEST, manifest.plain())


def find_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder, or None where there is none; UserError where it is damaged."""
    path = folder / MANIFEST
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        known = {f.name for f in fields(Manifest)}
        return Manifest(**{key: value for key, value in plain.items() if key in known})
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}): delete {folder} and make it again") from None


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a made artifact; UserError where the folder is none."""
    manifest = find_manifest(folder)
    if manifest is None:
        raise UserError(f"{folder} is not a finished artifact: it has no {MANIFEST}")
    return manifest


def verify(folder: Path, manifest: Manifest, *, deep: bool) -> None:
    """Hold the files against the manifest: sizes, and with `deep` their SHA-256 too."""
    for name, entry in manifest.files.items():
        path = folder / name
        mend = f"delete {folder} and make it again"
        if not path.is_file():
            raise UserError(f"{path} is missing, though the manifest lists it: {mend}")
        size = path.stat().st_size
        if size != entry["bytes"]:
            raise UserError(f"{path} has {size} bytes instead of {entry['bytes']}: {mend}")
        if deep and sha256_of(path) != entry["sha256"]:
            raise UserError(f"{path} is corrupt, its SHA-256 differs from the manifest's: {mend}")


def lineage(folder: Path) -> list[tuple[int, Path, Manifest | None]]:
    """An artifact and all that it came from, as (depth, folder, manifest), each once.

    UserError where a parent is not the one that the artifact was made from.
    """
    found: list[tuple[int, Path, Manifest | None]] = []
    seen: set[Path] = set()

    def visit(here: Path, depth: int) -> None:
        manifest = find_manifest(here)
        found.append((depth, here, manifest))
        if here in seen or manifest is None:
            return
        seen.add(here)
        for parent in manifest.parents.values():
            where = here.parent / parent["name"]
            stands = find_manifest(where)
            if stands is not None and stands.digest != parent["digest"]:
                raise UserError(f"{where} was made anew since {here}: make {here.name} anew too")
            if where not in seen:
                visit(where, depth + 1)

    visit(folder.resolve(), 0)
    return found
