"""Kernels that begin before the one ahead has ended: what makes that safe, read in their source."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import cairn.ops

KERNELS = sorted((Path(cairn.ops.__path__[0]) / "triton").glob("*.py"))
HARMLESS = {"program_id", "num_programs", "arange", "zeros", "full", "minimum", "to", "cdiv"}


def early_kernels() -> Iterator[tuple[str, ast.FunctionDef]]:
    for file in KERNELS:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and "EARLY" in [a.arg for a in node.args.args]:
                yield f"{file.stem}.{node.name}", node


def called(node: ast.AST) -> list[str]:
    calls = [n.func for n in ast.walk(node) if isinstance(n, ast.Call)]
    return [f.attr if isinstance(f, ast.Attribute) else ast.unparse(f) for f in calls]


@pytest.mark.parametrize(("name", "kernel"), list(early_kernels()))
def test_every_program_waits_before_it_touches_memory(name, kernel):
    """Once, in no branch, and before any call that may read or write: or a kernel could end, and
    the next begin, while one before both still writes."""
    waits = [i for i, node in enumerate(kernel.body) if "in_turn" in called(node)]
    assert len(waits) == 1, f"{name} waits {len(waits)} times"
    before, wait = kernel.body[: waits[0]], kernel.body[waits[0]]
    assert ast.unparse(wait) == "if EARLY:\n    in_turn()"
    for node in before:
        assert not any(isinstance(n, ast.Return) for n in ast.walk(node))
        assert set(called(node)) <= HARMLESS, ast.unparse(node)


def test_kernels_are_launched_early_only_if_they_wait():
    """Modules that launch early, and those that have a kernel which waits, are the same."""
    named = {name.partition(".")[0] for name, _ in early_kernels()}
    using = {
        file.stem for file in KERNELS if "early(" in file.read_text().replace("def early(", "")
    }
    assert using == named
    assert len(list(early_kernels())) >= 9
