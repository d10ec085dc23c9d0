"""Make what is missing, and only that: digest or refuse, and continue what was interrupted."""

import fcntl
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cairn.base.artifact import (
    Manifest,
    Recipe,
    Work,
    content_digest,
    find_manifest,
    hash_files,
    read_manifest,
    remove,
    verify,
    write_manifest,
)
from cairn.base.config import check, digest_of, refs_in, what_settles
from cairn.base.errors import UserError
from cairn.base.files import write_json
from cairn.base.plan import Plan, order_of

BEGUN = ".begun.json"  # says with which recipe an unfinished folder was begun
LIBRARIES = ("torch", "numpy", "tokenizers", "pyarrow", "duckdb", "safetensors")


@dataclass(frozen=True)
class Made:
    """One line of the table that `cairn make` prints."""

    name: str
    folder: Path
    status: str  # "made" | "skipped" | "continued"
    seconds: float
    manifest: Manifest


class Crew(Protocol):
    """The processes that make a plan together: the first one decides, and tells the others."""

    lead: bool
    """Whether this is the first."""

    def tell(self, name: str | None) -> None:
        """By the first: that all are to make this artifact now; None: nothing more is to do."""
        ...

    def hear(self) -> str | None:
        """By the others: what the first tells next."""
        ...


def make(
    plan: Plan,
    folder: Path,
    target: str | None = None,
    report: Callable[[str], None] = lambda text: None,
    crew: Crew | None = None,
) -> list[Made]:
    """Make `target` (or all) of the plan in `folder`, one sub-folder for each artifact.

    With a `crew`, all its processes come here, with one folder in sight of all: the first makes
    what is missing, the others join in the recipes that are `joint`, and return nothing.
    """
    if crew is not None and not crew.lead:
        _follow(plan, folder, crew)
        return []
    made: dict[str, Made] = {}
    for name in order_of(plan, target):
        try:
            check(plan[name])
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
    for name in order_of(plan, target):
        made[name] = _make_one(name, plan[name], folder, made, report, crew)
    return list(made.values())


def _follow(plan: Plan, folder: Path, crew: Crew) -> None:
    """Join in what the first process tells, until nothing more is to do."""
    while (name := crew.hear()) is not None:
        recipe = plan[name]
        found = {ref.name: folder / ref.name for ref in refs_in(recipe)}
        recipe.run(Work(folder / name, {n: (at, read_manifest(at)) for n, at in found.items()}))


def _make_one(
    name: str,
    recipe: Recipe,
    folder: Path,
    made: dict[str, Made],
    report: Callable[[str], None],
    crew: Crew | None,
) -> Made:
    out = folder / name
    parents = {ref.name: made[ref.name] for ref in refs_in(recipe)}
    plain = what_settles(recipe)
    parent_digests = {key: parent.manifest.digest for key, parent in sorted(parents.items())}
    wanted = {"recipe": plain, "parents": parent_digests, "inputs": recipe.inputs()}
    before = find_manifest(out)
    if before is not None:
        _refuse_changes(name, out, _as_wanted(before), wanted)
        verify(out, before, deep=False)
        _tidy(out)
        return Made(name, out, "skipped", 0.0, before)
    for parent in parents.values():
        verify(parent.folder, parent.manifest, deep=True)
    began_here = not out.exists()
    with _locked(out):
        if find_manifest(out) is not None:
            raise UserError(f"{out} was finished by another process just now: run it again")
        begun = _read_begun(out)
        if begun is not None:
            _refuse_changes(name, out, begun, wanted)
        elif not began_here and any(not p.name.startswith(".") for p in out.iterdir()):
            raise UserError(f"{out} holds files that cairn did not make: move them away")
        write_json(out / BEGUN, wanted)
        report(f"{name}: {type(recipe).__name__}" + (" (continued)" if begun else ""))
        work = Work(out, {key: (p.folder, p.manifest) for key, p in parents.items()})
        begin = time.monotonic()
        if crew is not None and recipe.joint:
            crew.tell(name)
        try:
            facts = recipe.run(work)
        except UserError:
            # A person's mistake leaves nothing half-written behind; hours of training stay.
            if begun is None and not (out / "resume").exists():
                remove(out)
            raise
        seconds = time.monotonic() - begin
        manifest = _describe(name, recipe, wanted, parents, out, facts, seconds)
        write_manifest(out, manifest)
        _tidy(out)
    return Made(name, out, "continued" if begun else "made", seconds, manifest)


def _tidy(out: Path) -> None:
    """Drop what only an unfinished artifact needs; after the manifest, so no crash loses it."""
    for name in (BEGUN, "resume"):
        if (out / name).exists():
            remove(out / name)


def _describe(
    name: str,
    recipe: Recipe,
    wanted: dict[str, Any],
    parents: dict[str, Made],
    out: Path,
    facts: dict[str, Any],
    seconds: float,
) -> Manifest:
    files = hash_files(out)
    recipe_digest = digest_of(wanted)
    return Manifest(
        name=name,
        kind=type(recipe).__name__,
        recipe=wanted["recipe"],
        recipe_digest=recipe_digest,
        parents={key: {"name": key, "digest": p.manifest.digest} for key, p in parents.items()},
        files=files,
        digest=content_digest(recipe_digest, files),
        facts=facts,
        inputs=wanted["inputs"],
        headline=recipe.headline(facts),
        seconds=round(seconds, 3),
        versions=_versions(),
        code_revision=_code_revision(),
    )


def _as_wanted(manifest: Manifest) -> dict[str, Any]:
    digests = {key: parent["digest"] for key, parent in sorted(manifest.parents.items())}
    return {"recipe": manifest.recipe, "parents": digests, "inputs": manifest.inputs}


def _refuse_changes(name: str, out: Path, was: dict[str, Any], wanted: dict[str, Any]) -> None:
    if was == wanted:
        return
    changes = [
        f"{name}.{key} was {old!r} and is now {new!r}"
        for key, old, new in _differences(was["recipe"], wanted["recipe"])
    ]
    changes += [
        f"parent {key} was made anew"
        for key, _, _ in _differences(was["parents"], wanted["parents"])
    ]
    changes += [
        f"what {name}.{key} names has changed"
        for key, _, _ in _differences(was["inputs"], wanted["inputs"])
    ]
    mend = f"keep it and make a sibling with --as NAME, or delete {out}"
    raise UserError(f"{out} was made otherwise: {'; '.join(changes)}: {mend}")


def _differences(was: Any, now: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(was, dict) and isinstance(now, dict):
        for key in sorted({*was, *now}):
            inside = f"{path}.{key}" if path else key
            if key not in was:
                yield inside, "absent", now[key]
            elif key not in now:
                yield inside, was[key], "absent"
            else:
                yield from _differences(was[key], now[key], inside)
    elif was != now:
        yield path, was, now


def _read_begun(out: Path) -> dict[str, Any] | None:
    try:
        begun = json.loads((out / BEGUN).read_text(encoding="utf-8"))
        found = {key: dict(begun[key]) for key in ("recipe", "parents")}
        return {**found, "inputs": dict(begun.get("inputs", {}))}
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{out / BEGUN} is damaged: delete {out} and make it again") from None


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Hold the folder's lock; the kernel frees it however the process ends."""
    out.parent.mkdir(parents=True, exist_ok=True)
    path = out.parent / f".{out.name}.lock"
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{out} is being made by another process: wait for it") from None
        out.mkdir(exist_ok=True)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for library in ("cairn-lm", *LIBRARIES):
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _code_revision() -> str | None:
    """The commit of a source checkout that cairn runs from; None for an installed wheel."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists() or not os.access(root / ".git", os.R_OK):
        return None
    try:
        from dulwich.repo import Repo

        with Repo(str(root)) as repo:
            return repo.head().decode("ascii")
    except Exception:
        return None  # an unborn branch or a damaged checkout is no reason to lose an artifact
