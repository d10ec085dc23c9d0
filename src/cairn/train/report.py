"""training.html: one page, no requests, of what a training's metrics tell; several are compared."""

from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from cairn.base import Manifest, Metrics, UserError, find_manifest
from cairn.base.files import write_text
from cairn.train.charts import Line, chart, number

PAGE = "training.html"
# What stands first, with its title, and whether its scale is logarithmic.
KNOWN = {
    "loss": ("Loss, nats a token", False),
    "grad_norm": ("Gradient norm, before clipping", True),
    "lr": ("Learning rate", False),
    "tokens_per_second": ("Tokens a second", False),
    "mfu": ("Model FLOPs utilisation", False),
    "memory_bytes": ("Peak memory, bytes", False),
}
APART = ("step", "tokens", "seconds", *KNOWN)  # what has no chart of its own at the end
BY_SOURCE = "loss/"
SMOOTH = 0.97  # of a running mean that a noisy loss is shown by


def write_page(runs: Sequence[Path], out: Path | None = None) -> Path:
    """Write the page of some trained artifacts, or of all in a folder of runs; returns its path.

    Where `out` is not told, it stands in the first one's folder. UserError where nothing was
    trained.
    """
    folders = [found for run in runs for found in _trained(run)]
    rows = {folder: _rows(folder) for folder in folders}
    if not any(rows.values()):
        names = " ".join(map(str, runs))
        raise UserError(f"{names}: no training has written metrics.jsonl there yet")
    path = out or runs[0] / PAGE
    write_text(path, page({folder: found for folder, found in rows.items() if found}))
    return path


def _trained(run: Path) -> list[Path]:
    if (run / "metrics.jsonl").is_file():
        return [run]
    if not run.is_dir():
        raise UserError("run", str(run), "no such folder", "name a checkpoint, or a folder of runs")
    return sorted(path.parent for path in run.glob("*/metrics.jsonl"))


def _rows(folder: Path) -> list[dict[str, Any]]:
    return [row for row in Metrics(folder / "metrics.jsonl").read() if "step" in row]


def page(runs: dict[Path, list[dict[str, Any]]]) -> str:
    """The page of the rows of each artifact."""
    names = {folder: folder.resolve().name for folder in runs}
    body = [_head(names[folder], rows, find_manifest(folder)) for folder, rows in runs.items()]
    curves = {names[folder]: rows for folder, rows in runs.items()}
    body.append('<section class="charts">')
    body += [_figure(title, _lines(curves, key), log) for key, (title, log) in KNOWN.items()]
    body += _by_source(curves)
    others = sorted({key for rows in curves.values() for row in rows for key in row})
    for key in others:
        if key not in APART and not key.startswith(BY_SOURCE):
            body.append(_figure(key, _lines(curves, key), False))
    body.append("</section>")
    body += [_data(names[folder], find_manifest(folder)) for folder in runs]
    template = files("cairn.train").joinpath("report.html").read_text(encoding="utf-8")
    title = ", ".join(curves)
    return template.replace("<!-- body -->", "\n".join(body)).replace("TITLE", escape(title))


def _head(name: str, rows: Sequence[dict[str, Any]], manifest: Manifest | None) -> str:
    last, facts = rows[-1], manifest.facts if manifest else {}
    figures = [
        (f"{last['step']:,}", "steps" if manifest else "steps so far"),
        (number(last.get("tokens", 0)), "tokens"),
        (f"{last['loss']:.4f}", "loss of the last step"),
    ]
    if "parameters" in facts:
        figures.insert(0, (number(facts["parameters"]), "parameters"))
    if "bits_per_byte" in facts:
        before, after = facts.get("bits_per_byte_before"), facts["bits_per_byte"]
        figures.append((f"{after:.4f}", f"held-out bits a byte, from {before:.4f}"))
    spent = sum(row.get("seconds", 0.0) for row in rows)
    figures.append((_duration(spent), "in steps"))
    cards = "".join(f"<div><b>{figure}</b><span>{what}</span></div>" for figure, what in figures)
    kind = f" <small>{escape(manifest.kind)}</small>" if manifest else " <small>running</small>"
    return f'<h2>{escape(name)}{kind}</h2><div class="figures">{cards}</div>'


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _figure(title: str, lines: Sequence[Line], log: bool) -> str:
    if not any(line.x for line in lines):
        return ""
    return f"<figure><figcaption>{escape(title)}</figcaption>{chart(lines, 'tokens', log)}</figure>"


def _lines(curves: dict[str, list[dict[str, Any]]], key: str) -> list[Line]:
    """A metric of every run that has it, over tokens; a loss is smoothed where steps are many."""
    found = []
    for name, rows in curves.items():
        mine = [row for row in rows if isinstance(row.get(key), int | float)]
        xs, ys = [row["tokens"] for row in mine], [float(row[key]) for row in mine]
        if key.startswith("loss") and len(ys) > 50:
            ys = _smoothed(ys)
        if xs:
            found.append(Line(name, xs, ys))
    return found


def _smoothed(values: Sequence[float]) -> list[float]:
    """A running mean, unbiased at its beginning."""
    total = weight = 0.0
    found = []
    for value in values:
        total, weight = SMOOTH * total + value, SMOOTH * weight + 1
        found.append(total / weight)
    return found


def _by_source(curves: dict[str, list[dict[str, Any]]]) -> list[str]:
    """A chart for each run of a blend: a line for each of its corpora."""
    found = []
    for name, rows in curves.items():
        keys = sorted({key for row in rows for key in row if key.startswith(BY_SOURCE)})
        lines = [
            Line(key.removeprefix(BY_SOURCE), line.x, line.y)
            for key in keys
            for line in _lines({name: rows}, key)
        ]
        title = f"Loss by source: {name}" if len(curves) > 1 else "Loss by source"
        found.append(_figure(title, lines, False))
    return found


def _data(name: str, manifest: Manifest | None) -> str:
    """What each corpus gave: shares wanted and planned in each phase, tokens, epochs."""
    parts = manifest.facts.get("data", []) if manifest else []
    if not parts:
        return ""
    phases = range(len(parts[0]["phases"]))
    head = ["corpus", *(f"phase {n + 1}" for n in phases), "tokens", "epochs"]
    lines = []
    for part in parts:
        shares = [
            f"{one['planned']:.2%}"
            + (f" of {one['wanted']:.2%}" if one["planned"] != one["wanted"] else "")
            for one in part["phases"]
        ]
        cells = [*shares, f"{part['tokens']:,}", f"{part['epochs']:.3f}"]
        tail = "".join(f"<td>{cell}</td>" for cell in cells)
        lines.append(f"<tr><th>{escape(part['shards'])}</th>{tail}</tr>")
    heads = "".join(f"<th>{escape(one)}</th>" for one in head)
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f"<section><h2>Data of {escape(name)}</h2>{table}</section>"
