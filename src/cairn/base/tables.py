"""Tables on standard output, where a person compares: rich on a terminal, plain elsewhere."""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cairn.base.artifact import Manifest, Recipe
from cairn.base.config import field_help, to_plain
from cairn.base.log import harmless

if TYPE_CHECKING:
    from cairn.base.make import Made

PLACES = 2  # shown of each match, and licences of each file
NAMES = 38  # columns of a field's name that a narrow terminal does not fold
WIDE = 2_000  # columns where standard output is a file or a pipe: nothing is cut or folded


def console() -> Console:
    """Standard output as a rich console; never narrower than its content needs in a pipe."""
    return Console(width=None if sys.stdout.isatty() else WIDE)


def table(*columns: str, right: tuple[str, ...] = (), title: str | None = None) -> Table:
    """An empty table in the house's style; columns named in `right` hold numbers."""
    made = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return made


def made_table(made: "list[Made]") -> None:
    """What `cairn make` did: artifact, made or skipped, seconds, key figure."""
    if not made:  # by one of several processes that is not the first
        return
    shown = table("artifact", "kind", "status", "seconds", "key figure", right=("seconds",))
    for one in made:
        manifest = one.manifest
        seconds = f"{manifest.seconds:.1f}"
        shown.add_row(one.name, manifest.kind, one.status, seconds, escape(manifest.headline))
    console().print(shown)
    spent = sum(one.seconds for one in made)
    number = "1 artifact" if len(made) == 1 else f"{len(made)} artifacts"
    console().print(f"{number} in {made[0].folder.parent}, {spent:.0f} s this time")


def plan_table(plan: dict[str, Recipe]) -> None:
    """Resolved recipes, field by field, with each field's help."""
    out = console()
    for name, recipe in plan.items():
        shown = table("field", "value", "meaning", title=f"{name} = {type(recipe).__name__}")
        _add_fields(shown, recipe, "")
        longest = max((len(str(cell)) for cell in shown.columns[0].cells), default=0)
        shown.columns[0].min_width = min(longest, NAMES)  # whole, to be copied into an override
        out.print(shown)
        out.print()


def _add_fields(shown: Table, value: Any, prefix: str) -> None:
    meanings = field_help(type(value))
    for field in dataclasses.fields(value):
        inside = getattr(value, field.name)
        if dataclasses.is_dataclass(inside) and "ref" not in to_plain(inside):
            _add_fields(shown, inside, f"{prefix}{field.name}.")
            continue
        if isinstance(inside, tuple) and inside and dataclasses.is_dataclass(inside[0]):
            for at, item in enumerate(inside):
                _add_fields(shown, item, f"{prefix}{field.name}.{at}.")
            continue
        plain = to_plain(inside)
        text = f"-> {plain['ref']}" if isinstance(plain, dict) and "ref" in plain else str(plain)
        shown.add_row(prefix + field.name, escape(text), escape(meanings.get(field.name, "")))


def lineage_table(steps: list[tuple[int, Path, Manifest | None]]) -> None:
    """An artifact and its ancestors, indented."""
    shown = table("artifact", "kind", "digest", "key figure")
    for depth, folder, manifest in steps:
        name = "  " * depth + folder.name
        if manifest is None:
            shown.add_row(name, "missing", "", str(folder))
        else:
            row = (name, manifest.kind, manifest.digest[:16], escape(manifest.headline))
            shown.add_row(*row)
    console().print(shown)


def records_table(records: list[dict[str, Any]]) -> None:
    """Records with the same keys, one a row."""
    if not records:
        console().print("nothing found")
        return
    shown = table(*records[0])
    for record in records:
        shown.add_row(*(escape(harmless(_text(value))) for value in record.values()))
    console().print(shown)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return ", ".join(value) if isinstance(value, list) else str(value)


def _lines() -> Console:
    """Standard output for lists: nothing is folded, so that identifiers can be copied."""
    return Console(soft_wrap=True, highlight=False)


def _licences(file: dict[str, Any]) -> str:
    found = file["detected_licenses"] or [file["license_type"] or "no licence"]
    more = f" and {len(found) - PLACES} more" if len(found) > PLACES else ""
    return ", ".join(found[:PLACES]) + more


def files_list(files: list[dict[str, Any]]) -> None:
    """Files of a ledger or of a training step, three lines each; --json has all fields.

    Keys: repo_name, path, swhid, license_type, detected_licenses; of a ledger verdict, rule,
    reason, row; of a step micro_batch, tokens, ledger_row, and shards where several were blended.
    """
    out = _lines()
    if not files:
        out.print("nothing found")
    for file in files:
        named = " ".join(file[key] for key in ("verdict", "repo_name", "path") if file.get(key))
        out.print(escape(harmless(named)))
        row = file["row"] if "row" in file else file["ledger_row"]
        licence = f"{file['license_type']}: " if file["detected_licenses"] else ""
        lines = [f"{file['swhid'] or 'unread'}, row {row}", licence + _licences(file)]
        if file.get("rule"):
            lines.insert(0, f"{file['rule']}: {file['reason']}")
        if "tokens" in file:
            lines[-1] += f", {file['tokens']:,} tokens of micro-batch {file['micro_batch']}"
        if "shards" in file:
            lines[-1] += f" from {file['shards']}"
        for line in lines:
            out.print(f"    {escape(harmless(line))}")


def matches_list(matches: list[dict[str, Any]], shortest: int) -> None:
    """Where pieces of a text, of `shortest` bytes at least, stand in the training data.

    Each with repository, path and lines, licences and SWHID.
    """
    out = _lines()
    if not matches:
        out.print(f"no match of {shortest} bytes or more in the training data")
        return
    for match in matches:
        piece = " ".join(match["text"].split())
        piece = piece if len(piece) <= 60 else piece[:57] + "..."
        out.print(f"[bold]{match['bytes']} bytes[/bold]  {escape(harmless(piece))}")
        places = match["occurrences"][:PLACES]
        for found in places:
            where = f"{found['repo_name']} {found['path']}:{found['lines']}"
            out.print(f"    {escape(harmless(where))}  {escape(_licences(found))}")
            out.print(f"    {found['swhid']}")
        if match["count"] > len(places):
            out.print(f"    and {match['count'] - len(places):,} places more (--json has them)")


def scores_table(report: dict[str, Any]) -> None:
    """Scores with n and standard error."""
    shown = table("task", "metric", "value", "n", "standard error", right=("value", "n"))
    for score in report["scores"]:
        error = score.get("standard_error")
        shown.add_row(
            score["task"],
            score["metric"],
            f"{score['value']:.4f}",
            str(score["n"]),
            "" if error is None else f"{error:.4f}",
        )
    console().print(shown)
