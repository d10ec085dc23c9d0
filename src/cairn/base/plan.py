"""Plans: Python files that name artifacts and their recipes, read, changed and put in order."""

import inspect
import runpy
import sys
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cairn.base.artifact import Recipe
from cairn.base.config import nearest, override, parse, refs_in
from cairn.base.errors import UserError

Plan = dict[str, Recipe]


def load_plan(path: Path, parameters: Mapping[str, str] | None = None) -> Plan:
    """The `plan` of a Python file: artifact name -> recipe, or a function that gives it.

    `parameters` are the function's arguments as text; each has a default and a type. Like a script,
    a plan may import the files beside it.
    """
    if not path.is_file():
        others = [str(found) for found in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise UserError("plan", str(path), "no such file", nearest(str(path), others))
    if path.suffix != ".py":
        raise UserError("plan", str(path), "is no Python file", "give one, as plans/pico.py")
    try:
        with _beside(path):
            plan = runpy.run_path(str(path)).get("plan")
            given = dict(parameters or {})
            if callable(plan):
                plan = plan(**_parsed(plan, given))
            elif given:
                name, value = next(iter(given.items()))
                raise UserError(name, value, f"is no parameter of {path}", "it has none")
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path} is no plan: {type(error).__name__}: {error}") from error
    if not isinstance(plan, dict) or not plan:
        raise UserError(f"{path} is no plan: it does not define the dictionary `plan`")
    for name, recipe in plan.items():
        if not isinstance(recipe, Recipe):
            raise UserError(f"{path}: {name!r} is a {type(recipe).__name__}, not a recipe")
        _check_name(name)
    _check_refs(plan)
    return plan


@contextmanager
def _beside(path: Path) -> Iterator[None]:
    """Inside, the files beside a plan can be imported; afterwards nothing of them is left."""
    folder, known = str(path.resolve().parent), set(sys.modules)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
        for name in set(sys.modules) - known:
            file = getattr(sys.modules[name], "__file__", None)
            if file and str(Path(file).parent) == folder:
                del sys.modules[name]


def _parsed(plan: Callable[..., Any], given: Mapping[str, str]) -> dict[str, Any]:
    """A plan's arguments from their text, by the types that it names."""
    hints = typing.get_type_hints(plan)
    known = inspect.signature(plan).parameters
    for name, value in given.items():
        if name not in known:
            raise UserError(f"unknown parameter {name}={value}: {nearest(name, known)}")
    return {name: parse(value, hints[name], name) for name, value in given.items()}


def split_overrides(texts: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Parameters of a plan (`scale=tiny`), and overrides of its artifacts (`base.seed=1`)."""
    parameters = [text.partition("=") for text in texts if "." not in text.partition("=")[0]]
    overrides = [text for text in texts if "." in text.partition("=")[0]]
    return {name: value for name, _, value in parameters}, overrides


def runs_folder(runs: Path, plan: Path, parameters: Mapping[str, str]) -> Path:
    """Where the artifacts of a plan live; of other parameters, somewhere else."""
    return runs / "-".join([plan.stem, *parameters.values()])


def _check_refs(plan: Plan) -> None:
    for name, recipe in plan.items():
        for ref in refs_in(recipe):
            if ref.name not in plan:
                raise UserError(f"{name} refers to {ref.name!r}: {nearest(ref.name, plan)}")


def apply_overrides(plan: Plan, overrides: Sequence[str]) -> Plan:
    """The plan with `artifact.field=value` applied; unknown names fail with the nearest match."""
    changed = dict(plan)
    for text in overrides:
        dotted, equals, value = text.partition("=")
        name, dot, field = dotted.partition(".")
        if not (equals and dot and field):
            raise UserError("override", text, "is not artifact.field=value", "e.g. base.seed=1")
        if name not in plan:
            raise UserError(f"unknown artifact {name!r} in {text}: {nearest(name, plan)}")
        try:
            changed[name] = override(changed[name], field, value)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
    _check_refs(changed)
    return changed


def as_sibling(plan: Plan, target: str, name: str, overrides: Sequence[str]) -> Plan:
    """The plan with a changed copy of `target` under a new name; `target` itself stays as it is."""
    _check_name(name)
    if name in plan:
        raise UserError("--as", name, "is an artifact of the plan already", "choose another name")
    own = [text for text in overrides if text.startswith(f"{target}.")]
    others = [text for text in overrides if text not in own]
    changed = apply_overrides(plan, others)
    changed[name] = apply_overrides(changed, own)[target]
    return changed


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not name.replace("-", "_").isidentifier():
        raise UserError("artifact name", name, "is no name", "use letters, digits, _ and -")


def order_of(plan: Plan, target: str | None) -> list[str]:
    """Artifacts to make, parents first; all of the plan where no target is given."""
    if target is not None and target not in plan:
        raise UserError("artifact", target, "is not in the plan", nearest(target, plan))
    order: list[str] = []

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            raise UserError(f"the plan goes in a circle: {' -> '.join((*path, name))}")
        if name not in order:
            for ref in refs_in(plan[name]):
                visit(ref.name, (*path, name))
            order.append(name)

    for name in [target] if target else plan:
        visit(name, ())
    return order
