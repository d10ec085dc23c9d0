"""The command `cairn`: a table of verbs; each imports its room only when it is called."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cairn.arguments import SHORTEST, build_parser
from cairn.base.errors import Stopped, UserError

Arguments = argparse.Namespace
CONTINUED = "make", "withdraw"  # what they have made stays


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; 0 on success, 2 with one line on standard error for a user's mistake."""
    # OpenMP's idle threads spin by default. Beside any other work that made a forward 20 times
    # slower on two cores; letting them sleep costs up to 30% on an idle machine (LOG.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    arguments = build_parser().parse_args(argv)
    try:
        VERBS[arguments.verb](arguments)
        return 0
    except BrokenPipeError:  # `cairn ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (UserError, OSError, MemoryError, Stopped) as error:
        from cairn.base.log import harmless

        told = str(error) or "no memory left"  # of which Python's own says nothing
        print(f"cairn: {harmless(' '.join(told.split()))}", file=sys.stderr)
        return 143 if isinstance(error, Stopped) else 2  # as a process that SIGTERM ends
    except KeyboardInterrupt:
        goes_on = "; the same command continues" if arguments.verb in CONTINUED else ""
        print(f"cairn: interrupted{goes_on}", file=sys.stderr)
        return 130


def _split(rest: list[str]) -> tuple[str | None, list[str]]:
    """The artifact's name and the overrides, in any order."""
    overrides = [text for text in rest if "=" in text]
    names = [text for text in rest if "=" not in text]
    if len(names) > 1:
        raise UserError("artifact", " ".join(names), "is more than one name", "give one")
    return (names[0] if names else None), overrides


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def run_make(arguments: Arguments) -> None:
    """`cairn make`."""
    from cairn.base import plan as plans
    from cairn.base.log import note
    from cairn.base.tables import made_table
    from cairn.ops import keep_freed_memory
    from cairn.train.parallel.crew import make

    keep_freed_memory()
    target, given = _split(arguments.rest)
    parameters, overrides = plans.split_overrides(given)
    plan = plans.load_plan(arguments.plan, parameters)
    if arguments.sibling:
        if target is None:
            raise UserError("--as", arguments.sibling, "needs an artifact", "name the one to copy")
        plan = plans.as_sibling(plan, target, arguments.sibling, overrides)
        target = arguments.sibling
    else:
        plan = plans.apply_overrides(plan, overrides)
    folder = plans.runs_folder(arguments.runs, arguments.plan, parameters)
    made_table(make(plan, folder, target, report=note))


def run_show(arguments: Arguments) -> None:
    """`cairn show`."""
    path = Path(arguments.what)
    if path.suffix == ".py":
        from cairn.train.page import show_plan

        mine = ("context", "batch", "dtype", "paths", "float8", "state")
        _refuse_others(arguments, *mine, of="models, not of plans")
        target, given = _split(arguments.rest)
        gpus, device = arguments.gpus, arguments.device
        told = show_plan(path, target, given, gpus, device, quiet=arguments.json)
        if arguments.json:
            _print_json(told)
        return
    _refuse_others(arguments, "rest", of="plans, not of models")
    if arguments.paths:
        found = _show_paths(arguments)
    else:
        _refuse_others(arguments, "float8", "state", of="--paths")
        found = _show_model(arguments)
    if arguments.json:
        _print_json(found)


def _show_paths(arguments: Arguments) -> object:
    from cairn.engine.paths import rows_of_folder

    _refuse_others(arguments, "context", "batch", "gpus", "device", of="a page, not of --paths")
    how = {"float8": arguments.float8, "states": arguments.state, "quiet": arguments.json}
    return rows_of_folder(Path(arguments.what), arguments.dtype, **how)


def _show_model(arguments: Arguments) -> object:
    from cairn.model.page import shown

    named = {"context": 8192, "batch": 1, "gpus": 1, "dtype": "bfloat16"}
    given = {name: getattr(arguments, name) or default for name, default in named.items()}
    return shown(arguments.what, device=arguments.device, quiet=arguments.json, **given)


def _refuse_others(arguments: Arguments, *names: str, of: str) -> None:
    """UserError for an option that says nothing about what is shown."""
    for name in names:
        value = getattr(arguments, name)
        if value:
            told = " ".join(value) if isinstance(value, list) else value
            raise UserError(name, told, f"is of {of}", f"leave it out for {arguments.what}")


def run_trace(arguments: Arguments) -> None:
    """`cairn trace`."""
    from cairn.base.artifact import lineage, read_manifest
    from cairn.base.tables import files_list, lineage_table, matches_list

    folder = arguments.artifact.resolve()
    read_manifest(folder)
    if arguments.text is not None:
        from cairn.tokens.provenance import origins_of_text

        found = origins_of_text(folder, arguments.text, minimum=arguments.minimum)
        _print_json(found) if arguments.json else matches_list(found, arguments.minimum)
    elif arguments.step is not None:
        if read_manifest(folder).kind == "FineTune":
            from cairn.align.provenance import files_of_step
        else:
            from cairn.train.provenance import files_of_step
        found = files_of_step(folder, arguments.step)
        _print_json(found) if arguments.json else files_list(found)
    else:
        steps = lineage(folder)
        if arguments.json:
            _print_json([m.plain() if m else {"name": p.name} for _, p, m in steps])
        else:
            lineage_table(steps)


def run_report(arguments: Arguments) -> None:
    """`cairn report`."""
    from cairn.train.report import write_page

    print(write_page(arguments.runs, arguments.out))


def run_lookup(arguments: Arguments) -> None:
    """`cairn lookup`."""
    from cairn.base.log import harmless
    from cairn.base.tables import files_list
    from cairn.curate import lookup

    found = lookup(arguments.corpus, arguments.query)
    if arguments.json:
        _print_json(found)
    elif found:
        files_list(found)
    else:
        query = harmless(arguments.query)
        print(f"{query}: not in the ledger of {arguments.corpus}, so never seen")


def run_withdraw(arguments: Arguments) -> None:
    """`cairn withdraw`."""
    from cairn.base.log import note
    from cairn.base.make import make
    from cairn.base.plan import load_plan
    from cairn.base.tables import made_table, records_table
    from cairn.curate.optout import OptOut
    from cairn.tokens.withdrawal import affected, withdrawing

    requests = tuple(str(path) for path in arguments.requests)
    runs = arguments.runs / arguments.plan.stem
    plan = load_plan(arguments.plan)
    found = affected(runs, OptOut.read(arguments.requests))
    records_table(found)
    held = {row["artifact"] for row in found if row["what"] == "holds"}
    smaller = {} if arguments.list else withdrawing(plan, held, requests, arguments.suffix)
    made = [make(plan | smaller, runs, name, report=note)[-1] for name in smaller]
    if made:
        made_table(made)


def run_generate(arguments: Arguments) -> None:
    """`cairn generate`."""
    from cairn.serve import console

    console.generate(arguments, SHORTEST)


def run_chat(arguments: Arguments) -> None:
    """`cairn chat`."""
    from cairn.serve import console

    console.chat(arguments)


def run_serve(arguments: Arguments) -> None:
    """`cairn serve`."""
    from cairn.serve import serve
    from cairn.serve.arguments import keywords

    serve(arguments.checkpoint, **keywords(arguments))


def run_evaluate(arguments: Arguments) -> None:
    """`cairn evaluate`."""
    from cairn.base.tables import scores_table
    from cairn.evaluate import evaluate

    report = evaluate(
        arguments.checkpoint, tuple(arguments.tasks), data=arguments.data, limit=arguments.limit
    )
    _print_json(report) if arguments.json else scores_table(report)


def run_bench(arguments: Arguments) -> None:
    """`cairn bench`."""
    from cairn.base.measurements import run_measurement

    run_measurement(arguments.name)


VERBS: dict[str, Callable[[Arguments], None]] = {
    "make": run_make,
    "show": run_show,
    "trace": run_trace,
    "report": run_report,
    "lookup": run_lookup,
    "withdraw": run_withdraw,
    "generate": run_generate,
    "chat": run_chat,
    "serve": run_serve,
    "evaluate": run_evaluate,
    "bench": run_bench,
}


if __name__ == "__main__":
    raise SystemExit(main())
