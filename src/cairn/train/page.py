"""`cairn show PLAN`: the recipes, what their training takes, and a step over N GPUs on paper."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from cairn.base import Recipe, UserError
from cairn.base.config import to_plain
from cairn.base.plan import apply_overrides, load_plan, order_of, split_overrides
from cairn.base.tables import console, plan_table, table
from cairn.model.devices import device as device_of
from cairn.train.costs import best_layout, facts
from cairn.train.planning import shape, trainings

USUAL = "H100"  # the device of GPU-days where none is named
USUAL_MFU = 0.4  # where no number of GPUs is given


def show_plan(
    path: Path,
    target: str | None,
    given: Sequence[str],
    gpus: int | None,
    device: str | None,
    quiet: bool,
) -> dict[str, Any]:
    """What `cairn show PLAN` tells, printed unless `quiet`: plain recipes by artifact.

    A training has `training` besides (see `trainings`), and for a number of GPUs `step` (see
    `costs.facts`).
    """
    parameters, overrides = split_overrides(given)
    plan = apply_overrides(load_plan(path, parameters), overrides)
    names = order_of(plan, target)
    told = {name: to_plain(plan[name]) for name in names}
    found = trainings(plan, names)
    chosen = device_of(device or USUAL)
    for name, training in found.items():
        told[name]["training"] = training
        if gpus is None:
            seconds = training["flops"] / (USUAL_MFU * chosen.rate("bfloat16"))
            training |= {"device": chosen.name, "mfu": USUAL_MFU, "gpu_days": seconds / 86_400}
            continue
        model = shape(plan, name)
        assert model is not None, "trainings names those whose shape is known"
        settings: Any = getattr(plan[name], "settings", None)
        try:
            step = facts(best_layout(model, settings, gpus, chosen))
        except UserError as error:
            if name == target:
                raise
            told[name]["no_step"] = str(error)  # so many GPUs suit another training of the plan
            training |= {"device": chosen.name, "mfu": None, "gpu_days": None}
            continue
        told[name]["step"] = step
        training |= {key: step[key] for key in ("device", "mfu", "gpu_days")}
    if not quiet:
        _print({name: plan[name] for name in names}, told, gpus)
    return told


def _print(plan: dict[str, Recipe], told: dict[str, Any], gpus: int | None) -> None:
    out = console()
    if gpus is None:
        plan_table(plan)
    rows = {name: one["training"] for name, one in told.items() if "training" in one}
    if not rows:
        return
    shown = table("training", *rows, right=tuple(rows))  # a column each, for numbers are long
    cells = [_cells(one, gpus) for one in rows.values()]
    for what in cells[0]:
        shown.add_row(what, *(one[what] for one in cells))
    out.print(shown)
    for name, one in told.items():
        if "step" in one:
            _print_step(out, name, one["step"])
        elif "no_step" in one:
            out.print(f"\n[bold]{name}[/bold]: {escape(one['no_step'])}", highlight=False)


def _cells(training: dict[str, Any], gpus: int | None) -> dict[str, str]:
    mfu, days = training["mfu"], training["gpu_days"]
    return {
        "parameters": f"{training['parameters']:,}",
        "tokens": f"{training['tokens']:,}",
        "steps": f"{training['steps']:,}",
        "tokens a step": f"{training['tokens_per_step']:,}",
        "FLOPs": f"{training['flops']:.3g}",
        "MFU": "" if mfu is None else f"{mfu:.0%}" + ("" if gpus else " assumed"),
        "GPU-days": "" if days is None else _days(days),
        "device": training["device"],
    }


def _print_step(out: Console, name: str, step: dict[str, Any]) -> None:
    sizes = " x ".join(f"{count} {kind}" for kind, count in step["layout"].items())
    recompute = f", {step['recompute']} computed again" if step["recompute"] else ""
    fits = "" if step["fits"] else ", [bold]does not fit[/bold]"
    out.print()
    out.print(
        f"[bold]{name}[/bold] on {step['gpus']:,} {step['device']}: {sizes}{recompute}; "
        f"{step['micro_batches']} micro-batches of {step['micro_sequences']}{fits}",
        highlight=False,
    )
    shown = table("memory of a GPU", "GiB", right=("GiB",))
    for part, size in step["memory_bytes"].items():
        shown.add_row(part, f"{size / 2**30:,.2f}")
    out.print(shown)
    shown = table("bytes to a GPU in a step", "link", "GB", right=("GB",))
    for link, whats in step["link_bytes"].items():
        for what, size in whats.items():
            shown.add_row(what, link, f"{size / 1e9:,.3f}")
    out.print(shown)
    shown = table("time of a step", "seconds", right=("seconds",))
    for what, seconds in step["seconds"].items():
        shown.add_row(what, f"{seconds:,.4f}")
    out.print(shown)
    out.print(
        f"MFU {step['mfu']:.1%}, {step['tokens_per_second']:,.0f} tokens/s, "
        f"{step['days']:,.1f} days, {_days(step['gpu_days'])} GPU-days",
        highlight=False,
    )


def _days(days: float) -> str:
    return f"{days:,.0f}" if days >= 10 else f"{days:.2g}"
